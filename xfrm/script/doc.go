// Package script reads shell scripts and `ip -batch` files in which commands of `ip xfrm` stand, without running
// them, and tells what SAs and policies each host would have after them.
//
//	text ─Read→ Script{Commands, Unread} ─Hosts→ Host{States, Policies}, each with its file and line
//
// It knows of a shell what such scripts mostly use: quotes, continued lines, comments, simple variables, lists of
// commands, here-documents. What takes a shell to know (substitutions, loops, conditions, functions) is told as
// [Unread], never guessed; commands of other programs are skipped. [xfrm.Lines] is the stricter reader, of batches that
// are about to be carried out.
//
// Texts may hold keys: nothing that an Unread or an error says is a quotation, and the keys of the states are
// [ipsec.Key]s. Nothing here does I/O.
package script
