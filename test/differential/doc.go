// Package differential runs the same commands through espalier and through iproute2, black
// boxes both, and compares what they send to the kernel, how they end and what they print.
//
//   - commands: thousands of generated commands, legal and not. Both programs run under strace
//     in network namespaces of their own; the bytes they send and their exit codes are equal.
//   - messages: random netlink messages of every kind, printed by `monitor file`.
//   - listings and events of this machine's kernel: policies and larval SAs. SAs with keys need
//     ESP in the kernel, and are compared in test/vmlab.
//
// [Differences] holds all that differs on purpose, and why. Each has to occur, and nothing else
// may differ. `go run ./test/generate` writes it to docs/compatibility-with-ip.md.
package differential
