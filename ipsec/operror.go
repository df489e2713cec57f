package ipsec

import "strings"

// OpError is how an engine words an error of a SAD or SPD. Who passes an error on for an
// operation of its own, such as the far end of a socket, takes Err and puts its own words in
// front.
type OpError struct {
	Op     string // "add SA"
	Object string // "0x28f39549 192.168.1.64→192.168.1.65"; "" where there is none
	Err    error
}

func (e *OpError) Error() string {
	return strings.TrimSuffix(e.Op+" "+e.Object, " ") + ": " + e.Err.Error()
}

func (e *OpError) Unwrap() error { return e.Err }
