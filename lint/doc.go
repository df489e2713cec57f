// Package lint finds what cannot work or is not safe in a SAD and an SPD: policies that no SA serves, SAs
// that serve none, directions that are missing, windows that are closed.
//
// States and policies flow in, read back from an engine or parsed from a script, and a [Finding] flows
// out for each thing that is wrong, with what to do about it. It does no I/O and looks at no key.
package lint
