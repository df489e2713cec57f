package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"espalier/dataplane"
	"espalier/xfrm/client"
	"espalier/xfrm/server"
)

func newDataplaneCommand() *cobra.Command {
	var cfg dataplane.Config
	var listen, fwmark string
	var release bool
	cmd := &cobra.Command{
		Use:   "dataplane --dev DEV",
		Short: "Run a userspace offload device behind a network device",
		Long: `Run a userspace offload device behind a network device: it encrypts and decrypts
ESP (RFC 4303, AES-GCM) for the policies and SAs that ` + "`espalier xfrm`" + ` programs over
its socket, with the same commands as the kernel's.

While it runs, and also when it is killed, an nftables guard keeps cleartext of the
protected selectors from leaving or entering. What a killed device left behind,
--release takes away.

It prints "ready unix:PATH" once it takes commands, and runs until SIGINT or SIGTERM.`,
		Example: `  espalier dataplane --dev p4p1
  espalier xfrm --sad unix:/run/espalier/4026531840/p4p1.sock state list
  espalier dataplane --release --dev p4p1`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Underlay == "" {
				return usageError(errors.New("name the device: --dev DEV"))
			}
			if cfg.PathMTUAge <= 0 || cfg.ProbeInterval < 0 {
				return usageError(errors.New("--pmtu-age and --pmtu-probe are positive times, such as 10m"))
			}
			if cfg.ProbeInterval == 0 {
				cfg.ProbeInterval = -1
			}
			if err := parseMark(fwmark, &cfg); err != nil {
				return usageError(err)
			}
			if err := needRoot("a device changes routes, nftables and raw sockets"); err != nil {
				return err
			}
			dir, err := client.SocketDir()
			if err != nil {
				return err
			}
			if listen == "" {
				listen = filepath.Join(dir, cfg.Underlay+client.SocketSuffix)
			}
			// Wherever the socket is: --release must find it.
			cfg.StateDir = dir
			defer os.Remove(dir) // if it is empty
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if release {
				return releaseDead(cfg, listen)
			}
			return runDataplane(cmd.Context(), cfg, listen, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Underlay, "dev", "", "device that ESP leaves and arrives by, such as p4p1")
	f.StringVar(&listen, "listen", "", "socket `PATH` (default /run/espalier/NAMESPACE/DEV.sock: the inode of the network namespace)")
	f.StringVar(&cfg.TUN, "tun", "", "`NAME` of the TUN device (default esp-DEV)")
	f.IntVar(&cfg.Queues, "queues", 0, "`N` TUN queues, each with a thread for each direction (default one queue for each CPU)")
	f.StringArrayVar(&cfg.Guarded, "guard", nil, "further `DEV` to guard against cleartext (may be repeated)")
	f.StringVar(&fwmark, "fwmark", "", fmt.Sprintf("`MARK[/MASK]` of the device's own packets (default %#x)", dataplane.DefaultMark))
	f.IntVar(&cfg.Table, "table", 0, fmt.Sprintf("routing table for steering (default %d + ifindex)", dataplane.DefaultTable))
	f.IntVar(&cfg.RulePriority, "rule-priority", dataplane.DefaultRulePriority, "priority of the steering rule")
	f.DurationVar(&cfg.PathMTUAge, "pmtu-age", 10*time.Minute, "after which a learned path MTU is forgotten or tried anew")
	f.DurationVar(&cfg.ProbeInterval, "pmtu-probe", time.Minute, "how often to ask whether large packets come through (0: never)")
	f.BoolVar(&release, "release", false, "take away the guard and settings of a dead device")
	return cmd
}

// parseMark reads MARK[/MASK] in C notation.
func parseMark(s string, cfg *dataplane.Config) error {
	if s == "" {
		return nil
	}
	mark, mask, masked := strings.Cut(s, "/")
	for _, part := range []struct {
		text string
		into *uint32
		set  bool
	}{{mark, &cfg.Mark, true}, {mask, &cfg.Mask, masked}} {
		if !part.set {
			continue
		}
		v, err := strconv.ParseUint(part.text, 0, 32)
		if err != nil || v == 0 {
			return fmt.Errorf("--fwmark %s: %q is not a mark; write it as 0x10 or 0x10/0xff", s, part.text)
		}
		*part.into = uint32(v)
	}
	if masked && cfg.Mark&^cfg.Mask != 0 {
		return fmt.Errorf("--fwmark %s: the mark has bits outside of its mask", s)
	}
	return nil
}

// runDataplane opens the device with all privileges, gives up those it will not need, and
// serves until ctx ends.
func runDataplane(ctx context.Context, cfg dataplane.Config, listen string, stdout io.Writer) error {
	if err := keepSecrets(); err != nil {
		return err
	}
	l, err := server.Listen(listen)
	if err != nil {
		return err
	}
	if cfg.Queues == 0 {
		cfg.Queues = runtime.NumCPU()
	}
	// The two workers of each queue never give up their places, so that others need some, too.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2*cfg.Queues)
	dev, err := dataplane.New(cfg)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if err := dropPrivileges(); err != nil {
		return errors.Join(err, l.Close(), dev.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- server.New(dev, cfg.Log).Serve(ctx, l)
		cancel()
	}()
	if _, err := fmt.Fprintf(stdout, "ready unix:%s\n", listen); err != nil {
		cancel()
	}
	err = dev.Run(ctx)
	cancel()
	return errors.Join(err, <-served)
}
