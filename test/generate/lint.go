package main

import (
	"os"
	"strings"

	"espalier/lint"
)

// findings writes what `espalier lint` and `espalier status` may find.
func findings() error {
	var b strings.Builder
	b.WriteString(lintIntroduction)
	for _, k := range lint.Kinds {
		notes := string(k.Severity)
		if k.Mended {
			notes += ", `--fix`"
		}
		if k.Scripts {
			notes += ", scripts only"
		}
		var counters []string
		for _, c := range k.Counters {
			counters = append(counters, "`"+c+"`")
		}
		b.WriteString("| `" + string(k.ID) + "` (" + notes + ") | " + cell(k.Title) + " | " + cell(k.Happens) + " | " + strings.Join(counters, " ") + " | " + cell(k.Fix) + " |\n")
	}
	return os.WriteFile("docs/lint.md", []byte(b.String()), 0o644)
}

const lintIntroduction = `# What is wrong in scripts of ip xfrm

` + "`espalier lint FILE…`" + ` reads scripts of ` + "`ip xfrm`" + ` commands, of one or more hosts, without running them, and says what
will not work or is not safe: where, what happens on Linux, which counter of /proc/net/xfrm_stat tells of it
([xfrm-stat.md](xfrm-stat.md)), and what to do.

    espalier lint first-server.xfrm.sh second-server.xfrm.sh
    espalier lint --fix --to corrected *.sh
    espalier lint -o sarif *.sh > lint.sarif

    second-server.xfrm.sh:3: error: policy 192.168.1.65→192.168.1.64 out: wants reqid 0x28f39549,
        which is the other direction's; the SA of this one (line 2) has 0x622a73b4: nothing
        is sent (XfrmOutNoStates) [reqid-mismatch]
        fix: give the template reqid 0x622a73b4, or the SA reqid 0x28f39549

It ends with 0 if nothing is wrong, with 3 if something is, with 1 if a file cannot be read, with 2 for a wrong
command line. ` + "`-o json`" + ` and ` + "`yaml`" + ` are espalier/lint/v1, ` + "`-o sarif`" + ` is SARIF 2.1.0 for code scanners. No key is ever shown.

**Whose script it is** the directions tell: a file is one host's, several with an own address in common are of one
host, and ` + "`HOST=FILE`" + ` says it. ` + "`ip -n NAME`" + ` and ` + "`ip netns exec NAME`" + ` make hosts of network namespaces. With the scripts of
both ends, the SAs are compared as well: SPI, key, algorithm, ESN, mode, encapsulation, and what the policies are about.

**What is understood:** lines with ` + "`ip xfrm`" + `, ` + "`sudo`" + `, options and continued lines; lines of ` + "`ip -batch`" + ` files and here-documents;
variables that are set to plain values; add, update, delete, deleteall and flush, in their order. Other programs are
skipped. What takes a shell to know (loops, conditions, functions, substitutions, other hosts) is told as
` + "`not-understood`" + `, and what would be missing because of it is not. A key may come from anywhere: ` + "`@FILE`" + ` is not read,
` + "`$(…)`" + ` not run.

**` + "`--fix`" + `** writes corrected scripts to FILE.fixed, or into the directory of ` + "`--to`" + `, with mode 0600, and never over a file
that is there. It changes the words that are wrong and adds policies that are missing; new keys and SPIs only where
the scripts of both ends are given. What can be meant in more than one way is left, and told. It ends with 0 if nothing
is left.

` + "`--kernel 6.1`" + ` says what release the scripts are for; else it is the newest. What a NIC refuses is what mlx5_core
(ConnectX, BlueField) does.

## All findings

Written from the table in the code. ` + "`espalier status`" + ` finds in what runs all that are not for scripts only.

| finding | what is wrong | what happens on Linux | counter | what to do |
| --- | --- | --- | --- | --- |
`
