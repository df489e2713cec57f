// Package lint finds what cannot work or is not safe in a SAD and an SPD, or in the scripts that are to make
// them: policies that no SA serves, SAs that serve none or are not the same at both ends, directions that are missing,
// windows that are closed, keys that are used twice or that others can see.
//
//	states, policies, what belongs together ─Check→ Findings        (what runs)
//	texts of scripts, by host ─Scripts→ Report{Findings} ─Fix→ texts (what is to run)
//
// Each [Finding] says what comes of it on Linux, which counter tells, and what to do; scripts' have their places. [Kinds] is the
// list of what may be found. It does no I/O. Keys are compared, never told; only the texts that Fix returns hold them.
package lint
