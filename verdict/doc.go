// Package verdict judges who encrypts an SA's traffic, from evidence that was read back, never from
// what was asked for.
//
//	Evidence (SAs and devices, read at both ends of an interval) ─► Judge ─► a Judgement of each SA
//
// The heart of it is bookkeeping. A NIC counts the packets it has encrypted and decrypted, of all its
// SAs together; the stack counts the packets of each SA. Only if both come to the same over an
// interval, for all SAs of the device in one direction, an SA is HARDWARE. Where the books do not
// balance, what is certain in spite of it is told, and the rest is UNKNOWN: an SA is SOFTWARE only if
// something shows that its packets went past the NIC, for a NIC whose counters stand still may as well
// have sent them unencrypted.
//
// What a host reads of its own NIC cannot tell a NIC that forges its counters from an honest one. Each
// judgement says what was not checked.
//
// Evidence flows in as values, judgements flow out; the package does no I/O. Package observe beneath
// it gathers evidence.
package verdict
