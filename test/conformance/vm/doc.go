// Package vm runs the conformance suite in the VM lab's machine, against its kernel.
package vm
