// Package verdict judges who encrypts an SA's traffic, from evidence that was read back,
// never from what was asked for.
//
// Evidence flows in as values, a [Verdict] and the reason for it flow out; the package does no
// I/O.
package verdict
