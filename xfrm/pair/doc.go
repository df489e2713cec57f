// Package pair finds out what belongs together in a SAD and an SPD: the direction of each state, the
// states that serve each policy, and which two states carry the same traffic both ways.
//
// States and policies flow in as they were read, a [Matching] flows out; it does no I/O. What serves a
// policy follows Linux: xfrm_tmpl_resolve_one and xfrm_state_find (net/xfrm/xfrm_policy.c,
// xfrm_state.c) for sending, xfrm_state_ok for receiving.
package pair
