// Package fd holds descriptors that the packet path reads and writes by itself, past Go's poller.
//
// A [File] never waits: its system calls are made without telling the scheduler, which costs
// nothing and lets nobody take the thread's place for the few microseconds they last. A [Set] is
// what a thread waits for when it has nothing left to do, on the kernel's own terms: it wakes the
// very thread, and not first another that then finds a goroutine to run.
//
// Buffers belong to the caller.
package fd
