// Package verdict judges who encrypts an SA's traffic, from evidence that was read back, never from
// what was asked for.
//
//	Evidence (SAs and devices, read at both ends of an interval) ─► Judge ─► a Judgement of each SA
//
// The heart of it is bookkeeping. A NIC counts the packets it has encrypted and decrypted, of all its
// SAs together; the stack counts the packets of each SA. What the others can have taken of the NIC's
// count at the most leaves what it must have done of one SA's: only if that is 99 % or more of them, the
// SA is HARDWARE. An SA is SOFTWARE only if something shows that its packets went past the NIC, and the
// NIC's counters leave none of them, for a NIC whose counters stand still may as well have sent them
// unencrypted. All else is MIXED, where both is certain, or UNKNOWN.
//
// What a host reads of its own NIC cannot tell a NIC that forges its counters from an honest one. Each
// judgement says what was not checked.
//
// Evidence flows in as values, judgements flow out; the package does no I/O. Package observe beneath
// it gathers evidence.
package verdict
