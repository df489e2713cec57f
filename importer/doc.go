// Package importer makes of scripts of ip xfrm the file of tunnels that says the same.
//
//	texts of scripts, by host ─Import→ config.File, its text, Remarks
//
// What the file has no word for is told with its line, as lost. Keys and SPIs are not carried over: they are
// made anew. It stands apart from config, which knows nothing of Linux's words. It does no I/O.
package importer
