// Package deploy carries a plan of tunnels out on its hosts: on this one, and over ssh on others.
//
//	config.File ─► Gather: connections, Facts ─► tunnel.Make ─► Plan
//	Plan ─► Run: one step after the other, on all hosts at once ─► deploy/host on each ─► SAs, policies
//
// Nothing lasts that was not confirmed: each host undoes the change by itself when its time is over,
// and is told to confirm only when every host has seen its peers' packets by the new SAs, and can
// still be reached. From then on a host that has undone it all the same makes the others do so, too.
// So running traffic is never dropped, and whatever is cut or killed on the way, all hosts end with
// the old state or all with the new one.
//
// Keys are made here, travel in the bodies of two operations, and are wiped once all have theirs.
package deploy
