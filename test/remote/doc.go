// Package remote holds tests of espalier's way to other hosts with real OpenSSH servers, in network
// namespaces.
package remote
