// Package bundle makes support archives: what is needed to find out why a host does not offload ESP,
// and no secret.
//
//	probe.System (files, ethtool, the kernel's log), routes ─┐
//	documents of commands (doctor, SAs, policies) ───────────┴─► Bundle ─► .tar.gz with a MANIFEST
//
// What goes in is chosen, line by line where a file holds other things as well: nothing is copied that
// is not named here. SAs and policies come as the documents that `-o json` prints, whose types have no
// place for keys; what the kernel gives about them, keys included, is never written.
package bundle
