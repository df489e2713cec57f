package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"espalier/demo"
	"espalier/ipsec"
)

// success is the last line of stdout, and only there when all held.
const success = "IPSec tunnel configured successfully"

func newDemoCommand() *cobra.Command {
	var opt demo.Options
	var mode, encap, esn, size, output string
	var hold bool
	var as format
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show two hosts, ESP through an offload device, and what crosses the wire",
		Long: `Make two hosts (network namespaces) joined by a virtual cable, start a userspace
offload device on each, program SAs and policies with fresh keys, send ping and TCP both
ways over IPv4 and IPv6, and watch the wire between them.

Everything is made for the occasion and gone afterwards; nothing else on this machine is
touched. It needs root. Exit status: 0 if no cleartext crossed the wire and everything
arrived, 1 if not, 130 on Ctrl-C.`,
		Example: `  espalier demo
  espalier demo --mode tunnel --encap udp --esn on
  espalier demo --pcap /tmp/wire.pcap --keys /tmp/esp_sa   # for Wireshark
  espalier demo --hold                                     # look around, then press Enter`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := errors.Join(
				choose("--mode", mode, map[string]func(){"transport": func() { opt.Mode = ipsec.Transport }, "tunnel": func() { opt.Mode = ipsec.Tunnel }}),
				choose("--encap", encap, map[string]func(){"none": func() {}, "udp": func() { opt.UDP = true }}),
				choose("--esn", esn, map[string]func(){"off": func() {}, "on": func() { opt.ESN = true }}),
				choose("-o", output, map[string]func(){"text": func() {}, "json": func() { as = formatJSON }, "yaml": func() { as = formatYAML }}),
				parseBytes(size, &opt.Bytes),
			)
			if err != nil {
				return usageError(err)
			}
			if err := needRoot("the demo makes network namespaces"); err != nil {
				return err
			}
			if opt.Device, err = os.Executable(); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			steps := out
			if as.isData() {
				steps = cmd.ErrOrStderr()
			}
			opt.Step = func(format string, args ...any) { fmt.Fprintf(steps, "[#] "+format+"\n", args...) }
			if hold {
				opt.Hold = func(ctx context.Context, hosts []demo.HostInfo) error {
					return holdHosts(ctx, cmd.InOrStdin(), steps, hosts)
				}
			}
			return runDemo(cmd.Context(), opt, as, out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&mode, "mode", "transport", "transport or tunnel")
	f.StringVar(&encap, "encap", "none", "none (IP protocol 50) or udp (port 4500)")
	f.StringVar(&esn, "esn", "off", "extended sequence numbers: on or off")
	f.StringVar(&size, "bytes", "64MiB", "`SIZE` of each of the four TCP transfers")
	f.StringVar(&opt.Pcap, "pcap", "", "write the packets on the wire to `FILE`")
	f.StringVar(&opt.Keys, "keys", "", "write the keys to `FILE` (mode 0600) as Wireshark's esp_sa table")
	f.BoolVar(&hold, "hold", false, "keep the hosts until Enter or Ctrl-C")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	f.BoolVar(&opt.Unprotected, "unprotected", false, "leave SAs, policies and guard out: the tap must see cleartext")
	f.MarkHidden("unprotected")
	return cmd
}

func runDemo(ctx context.Context, opt demo.Options, as format, out io.Writer) error {
	if err := keepSecrets(); err != nil {
		return err
	}
	report, err := demo.Run(ctx, opt)
	if err != nil {
		if as.isData() {
			writeData(out, as, demo.Failed(err))
		}
		return err
	}
	if as.isData() {
		err = writeData(out, as, report)
	} else if err = report.WriteText(out); err == nil && report.OK {
		_, err = fmt.Fprintln(out, success)
	}
	if err == nil && !report.OK {
		err = errors.New("the demo failed: " + strings.Join(report.Failures, "; "))
	}
	return err
}

// choose calls what stands for value.
func choose(flag, value string, choices map[string]func()) error {
	if set, ok := choices[value]; ok {
		set()
		return nil
	}
	names := slices.Sorted(maps.Keys(choices))
	return fmt.Errorf("%s %s: choose from %s", flag, value, strings.Join(names, ", "))
}

// parseBytes reads a number with an optional unit: K, M, G and KiB, MiB, GiB are powers of
// 1024; kB, MB, GB powers of 1000.
func parseBytes(s string, into *int64) error {
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, ok := map[string]int64{
		"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1e3, "MB": 1e6, "GB": 1e9,
	}[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n <= 0 || n > (1<<62)/unit {
		return fmt.Errorf("--bytes %s: not a size; write it as 64MiB", s)
	}
	*into = n * unit
	return nil
}

// holdHosts tells how to get into the hosts and waits for Enter or, where nobody can press
// it, for the context.
func holdHosts(ctx context.Context, in io.Reader, out io.Writer, hosts []demo.HostInfo) error {
	for _, h := range hosts {
		fmt.Fprintf(out, "[#] look around on host %s: nsenter --net=/proc/%d/ns/net\n", h.Name, h.PID)
		fmt.Fprintf(out, "    its SAs and policies: espalier xfrm --sad unix:%s state list\n", h.Socket)
	}
	entered := make(chan struct{})
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintln(out, "[#] press Enter to go on")
		go func() {
			defer close(entered)
			bufio.NewReader(in).ReadString('\n')
		}()
	} else {
		fmt.Fprintln(out, "[#] holding until interrupted")
	}
	select {
	case <-entered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
