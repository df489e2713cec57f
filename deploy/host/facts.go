package host

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/probe"
	"espalier/tunnel"
)

// GatherFacts tells what the network namespace of the calling thread is and has, apart from what its
// journal says. sad is as --sad: the only engine that counts, or "" or "auto" for all there are. It
// takes some ms of the CPU, and changes nothing.
func GatherFacts(ctx context.Context, sad string) (*tunnel.Facts, error) {
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return nil, fmt.Errorf("find out the network namespace: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("find out the boot: %w", err)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	abilities := probe.KernelAbilities(os.DirFS("/"))
	f := &tunnel.Facts{
		Hostname: hostname, BootID: strings.TrimSpace(string(boot)), NetNS: ns.Ino, Kernel: abilities.Release,
		Boot: tunnel.Answer{Can: tunnel.Unknown}, Timer: tunnel.Answer{Can: tunnel.Unknown},
	}
	if f.Devices, err = gatherDevices(probe.Here().Network, &abilities); err != nil {
		return nil, err
	}
	f.Engines, err = gatherEngines(ctx, sad, f.Devices, &abilities)
	return f, err
}

// answer in the planner's words.
func answer(a probe.Ability) tunnel.Answer {
	can := map[probe.Answer]tunnel.Can{probe.Yes: tunnel.Yes, probe.No: tunnel.No, probe.Unknown: tunnel.Unknown}
	return tunnel.Answer{Can: can[a.Answer], Why: a.Why}
}
