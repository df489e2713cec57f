// Package accept tries two hosts with the NICs they have, end to end, and writes down what came of it:
// the doctor, the vendor's commands with fresh keys, traffic, who encrypted it, new keys under
// traffic, a link that goes down and comes up, and everything taken back.
//
//	two connections (package remote) ─► Run: step by step ─► Report, without keys, names and addresses
//
// What a step changes on a host is held by a request of the connection (hold.go): the host takes it
// back when the request ends, and so also when the connection breaks or this process dies.
package accept
