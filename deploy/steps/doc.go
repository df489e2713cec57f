// Package steps is what a coordinator says to the hosts of a change, and what they answer: the
// bodies of the operations that package deploy asks for by package remote, and package deploy/host
// serves.
//
// SAs and policies travel as the payloads of NEWSA and NEWPOLICY (linux/xfrm.h), as package xfrm
// encodes them: with keys, which are wiped by whoever is done with them.
package steps
