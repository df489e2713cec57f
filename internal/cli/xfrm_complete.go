package cli

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// completionPatience is how long a shell waits for what the SAD holds.
const completionPatience = 500 * time.Millisecond

// completeXfrm tells a shell what may follow args. The grammar is that of the parser; what it
// leaves open comes from the host and from the SAD, as far as those answer.
func completeXfrm(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if f := openFlag(args); f != nil {
		return completeFlagValue(f, word)
	}
	if strings.HasPrefix(word, "-") {
		return withPrefix(flagNames(), word), cobra.ShellCompDirectiveNoFileComp
	}
	opt, words, _ := parseXfrmOptions(args) // words may be missing, and a wrong option is told when it is used
	if opt.batch != "" || opt.help {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var offered []cobra.Completion
	directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	err := inNetns(opt.netns, func() error {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
		defer cancel()
		known := &knownValues{ctx: ctx, sad: opt.sadFlag, words: words}
		if len(words) == 0 {
			offered = append(offered, "state", "policy", "monitor", dropsWord)
			return nil
		}
		for _, c := range xfrm.Complete(words, xfrm.Env{Family: opt.family}) {
			switch {
			case c.Value == xfrm.ValueFile:
				directive = cobra.ShellCompDirectiveDefault
			case c.Value == xfrm.ValueKey && word == "":
				offered, directive = append(offered, "@"), directive|cobra.ShellCompDirectiveNoSpace
			case c.Value == xfrm.ValueKey && word[0] == '@':
				offered, directive = keyFiles(word[1:])
			case c.Value != "":
				offered = append(offered, known.of(c.Value)...)
			default:
				offered = append(offered, c.Word)
			}
		}
		return nil
	})
	if err != nil { // a shell has no place for it
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return withPrefix(offered, word), directive
}

// openFlag is the option at the end of args whose value comes next.
func openFlag(args []string) *xfrmFlag {
	if len(args) == 0 {
		return nil
	}
	last := args[len(args)-1]
	if len(args) > 2 && slices.Contains(keyKeywords, args[len(args)-3]) || len(last) < 2 || last[0] != '-' {
		return nil
	}
	name := strings.TrimPrefix(last[1:], "-")
	if name == "o" {
		return &xfrmFlag{name: "o"}
	}
	if f := findFlag(name); f != nil && f.value {
		return f
	}
	return nil
}

func completeFlagValue(f *xfrmFlag, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	switch f.name {
	case "o": // or ip's own, with a command behind it
		return withPrefix([]string{"json", "yaml", "wide", "state", "policy", "monitor"}, word), directive
	case "sad":
		return withPrefix(sadNames(), word), directive
	case "family":
		return withPrefix([]string{"inet", "inet6"}, word), directive
	case "netns":
		var names []string
		entries, _ := os.ReadDir("/run/netns")
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return withPrefix(names, word), cobra.ShellCompDirectiveDefault
	case "batch":
		return nil, cobra.ShellCompDirectiveDefault
	}
	return nil, directive
}

func sadNames() []string {
	names := []string{"kernel", "auto"}
	if dir, err := client.SocketDir(); err == nil {
		sockets, _ := client.DeviceSockets(dir)
		for _, path := range sockets {
			names = append(names, "unix:"+path)
		}
	}
	slices.Sort(names[2:])
	return names
}

// flagNames are the options that make a difference.
func flagNames() (names []string) {
	for _, f := range ownFlags {
		if len(f.name) > 1 {
			names = append(names, "--"+f.name)
		}
	}
	for _, f := range ipFlags {
		var o xfrmOptions
		if err := f.set(&o, "x"); err != nil || o != (xfrmOptions{}) {
			names = append(names, "-"+f.name)
		}
	}
	return append(names, "-o")
}

// withPrefix keeps what begins with word, once each.
func withPrefix(offered []cobra.Completion, word string) (kept []cobra.Completion) {
	for _, o := range offered {
		if strings.HasPrefix(o, word) && !slices.Contains(kept, o) {
			kept = append(kept, o)
		}
	}
	return kept
}

// keyFiles are the files and directories whose path begins with start, behind an @.
func keyFiles(start string) (names []string, directive cobra.ShellCompDirective) {
	directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	dir, base := filepath.Split(start)
	entries, _ := os.ReadDir(cmp.Or(dir, "."))
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, base) || strings.HasPrefix(name, ".") && base == "" {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.IsDir() {
			name += "/"
		} else {
			directive &^= cobra.ShellCompDirectiveNoSpace
		}
		names = append(names, "@"+dir+name)
	}
	return names, directive
}
