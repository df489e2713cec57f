// Package remote runs espalier on another host, by the ssh program and the user's own
// configuration of it, and asks it for what it has to do there.
//
//	Dial ─ ssh DEST sh ─► the same executable there: found, or copied and removed ─► Serve
//	Conn.Do ─ request ─► Operation ─ progress…, reply or failure ─► Conn.Do
//
// One connection serves many requests, several at a time. Over the far process's standard input
// and output go frames (frame.go) of a protocol with a version; bodies are bytes that only the
// two ends of an operation understand. Nothing but a random number and a path stands in
// arguments; whatever is secret travels in bodies.
//
// Both ends have a say about time: each sends a ping when it is quiet, and ends the connection
// when the other was silent for too long. The far process then undoes what it was about to do
// (its operations' contexts end) and goes; its copy was unlinked as soon as it ran.
package remote
