// Command bench measures espalier against its peers and prints ratios.
//
//	go run ./test/bench aesgcm|esp|path|sad|device|soak|tunnels|all [--quick] [--runs N] [--duration D] [--rotations N] [--hosts N] [--require] [-o json]
//
// It exits with 0 even if a target is not met, with 3 then under --require. What it prints
// means something only on a machine that does nothing else.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"espalier/test/bench/aesgcm"
	"espalier/test/bench/device"
	"espalier/test/bench/esp"
	"espalier/test/bench/path"
	"espalier/test/bench/report"
	"espalier/test/bench/sad"
	"espalier/test/bench/soak"
	"espalier/test/bench/tunnels"
)

type subject struct {
	name string
	run  func(report.Options) ([]report.Result, error)
}

func subjects() []subject {
	return []subject{
		{"aesgcm", aesgcm.Run},
		{"esp", esp.Run},
		{"path", path.Run},
		{"sad", sad.Run},
		{"device", device.Run},
		{"soak", soak.Run},
		{"tunnels", tunnels.Run},
	}
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var o report.Options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.Quick, "quick", false, "fewer samples: a hint, not a measurement")
	flags.IntVar(&o.Runs, "runs", 5, "runs, of which the median counts")
	flags.DurationVar(&o.Duration, "duration", 0, "of the load of a soak (default 10m, with --quick 30s)")
	flags.IntVar(&o.Rotations, "rotations", 0, "of a tunnel under load (default 100, with --quick 3)")
	flags.IntVar(&o.Hosts, "hosts", 0, "that tunnels lead to (default 50, with --quick 5)")
	require := flags.Bool("require", false, "exit with 3 if a target is not met")
	format := flags.String("o", "table", "output: table or json")
	flags.Usage = func() {
		fmt.Fprint(stderr, "usage: bench SUBJECT [--quick] [--runs N] [--duration D] [--rotations N] [--hosts N] [--require] [-o json]\nsubjects: all")
		for _, s := range subjects() {
			fmt.Fprint(stderr, ", ", s.name)
		}
		fmt.Fprintln(stderr)
	}
	// Options may stand before the subject, too.
	err := flags.Parse(args)
	name := flags.Arg(0)
	if err == nil && name != "" {
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if name == "" || flags.NArg() > 0 || o.Runs < 1 || o.Duration < 0 || o.Rotations < 0 || o.Hosts < 0 || *format != "table" && *format != "json" {
		flags.Usage()
		return 2
	}
	all, found := report.New(), false
	for _, s := range subjects() {
		if name != s.name && name != "all" {
			continue
		}
		found = true
		results, err := s.run(o)
		if err != nil {
			fmt.Fprintf(stderr, "bench %s: %v\n", s.name, err)
			return 1
		}
		all.Add(results)
	}
	if !found {
		fmt.Fprintf(stderr, "bench: there is no subject %q\n", name)
		flags.Usage()
		return 2
	}
	if err := all.Print(stdout, *format); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	if *require && !all.OK {
		return 3
	}
	return 0
}
