package remote

import (
	"bytes"
	"context"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// quickExchange is preferred where nothing travels that would be worth keeping until there are quantum
// computers: it takes the client an eighth of the CPU time (OpenSSH 9.2, whose first choice is sntrup761).
const quickExchange = "curve25519-sha256"

// quick is what to add to ssh's arguments for a connection by which nobody sends anything but a login by key:
// quickExchange first, and all others it would offer behind it. There is nothing to add if the user has a say
// in key exchanges, or sends something along.
func quick(ctx context.Context, opt Options, args []string) []string {
	config := effective(ctx, opt, args)
	offered := config["kexalgorithms"]
	if len(offered) != 1 || offered[0] != usualExchanges(opt) || sendsAlong(config) {
		return nil
	}
	all := strings.Split(offered[0], ",")
	at := slices.Index(all, quickExchange)
	if at < 0 {
		return nil
	}
	return []string{"-o", "KexAlgorithms=" + strings.Join(append([]string{quickExchange}, slices.Delete(all, at, at+1)...), ",")}
}

// sendsAlong reports whether a configuration has secrets sent, or what may be some.
func sendsAlong(config map[string][]string) bool {
	harmless := func(name string) bool { return name == "LANG" || strings.HasPrefix(name, "LC_") }
	return len(config["setenv"]) > 0 || slices.Contains(config["gssapidelegatecredentials"], "yes") ||
		slices.ContainsFunc(config["sendenv"], func(name string) bool { return !harmless(name) })
}

// usualExchanges are those that ssh offers if nobody says otherwise; "" if it does not tell.
func usualExchanges(opt Options) string {
	if opt.SSH == "" {
		return usualOfSSH()
	}
	return askUsual(opt)
}

var usualOfSSH = sync.OnceValue(func() string { return askUsual(Options{}) })

func askUsual(opt Options) string {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	return strings.Join(effective(ctx, opt, []string{"-F", "/dev/null", "any"})["kexalgorithms"], " ")
}

// effective is what ssh would use with these arguments (ssh -G), by the names of options in lower case;
// empty if it does not tell.
func effective(ctx context.Context, opt Options, args []string) map[string][]string {
	cmd := exec.CommandContext(ctx, opt.program(), append([]string{"-G"}, args...)...)
	cmd.Env = opt.environment()
	cmd.WaitDelay = time.Second // commands of its configuration may keep the pipe
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	config := map[string][]string{}
	for line := range bytes.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		config[name] = append(config[name], value)
	}
	return config
}
