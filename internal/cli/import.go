package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"espalier/importer"
)

// importRun is one `espalier import`.
type importRun struct {
	options importer.Options
	output  string
	force   bool
	format  format

	stdin          io.Reader
	stdout, stderr io.Writer
}

// importView is the JSON of `espalier import`.
type importView struct {
	Schema  string            `json:"schema"`
	OK      bool              `json:"ok"` // nothing is lost
	Tunnels int               `json:"tunnels"`
	Text    string            `json:"text"` // of the file
	File    string            `json:"file,omitempty"`
	Remarks []importer.Remark `json:"remarks"`
}

func newImportCommand() *cobra.Command {
	var r importRun
	var as string
	var devs []string
	cmd := &cobra.Command{
		Use:   "import [HOST=]FILE…",
		Short: "Make a file of tunnels from scripts of ip xfrm",
		Long: `Read scripts of ip xfrm commands, of one host or of both (- is standard input), and write the file of tunnels
that says the same: addresses, devices, subnets, traffic, mode, offload, encapsulation, ESN, window, key size,
lifetimes, marks. Nothing is run. Keys and SPIs are not carried over: they are made anew when the file is applied.

What the file has no word for is told with its line, as lost. Where no offload names a host's network device, say
--dev ADDRESS=NAME; --dev NAME is for all others. Exit status: 0 if nothing is lost, 3 if something is, 1 if there is
no tunnel or a file cannot be read or written, 2 for a wrong command line.`,
		Example: `  espalier import first-server.xfrm.sh second-server.xfrm.sh > tunnels.yaml
  espalier import --name db --dev 192.168.1.65=enp4s0 --output tunnels.yaml first.sh
  espalier import *.sh | espalier config check -`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which file? (- is standard input)")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := errors.Join(
				choose("-o", as, map[string]func(){"text": func() {}, "json": func() { r.format = formatJSON }, "yaml": func() { r.format = formatYAML }}),
				r.devices(devs),
			)
			if r.force && r.output == "" {
				err = errors.Join(err, errors.New("--force is about the file of --output: give both"))
			}
			if err != nil {
				return usageError(err)
			}
			r.stdin, r.stdout, r.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return r.run(args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.options.Name, "name", "", "`NAME` of the tunnel (default of its hosts)")
	f.StringArrayVar(&devs, "dev", nil, "network device, as `[ADDRESS=]NAME`")
	f.StringVar(&r.output, "output", "", "write to `FILE`, not to standard output")
	f.BoolVar(&r.force, "force", false, "over a file that is there, too")
	f.StringVarP(&as, "format", "o", "text", "text, json or yaml")
	return cmd
}

// devices reads [ADDRESS=]NAME.
func (r *importRun) devices(devs []string) error {
	r.options.Devs = map[netip.Addr]string{}
	for _, d := range devs {
		var of netip.Addr
		name := d
		if address, dev, found := strings.Cut(d, "="); found {
			var err error
			if of, err = netip.ParseAddr(address); err != nil {
				return fmt.Errorf("--dev %s: not an IP address", shorten(address))
			}
			name = dev
		}
		if name == "" || r.options.Devs[of] != "" {
			return fmt.Errorf("--dev %s: one name for each address goes here", shorten(d))
		}
		r.options.Devs[of] = name
	}
	return nil
}

func (r *importRun) run(args []string) error {
	scripts, err := readScripts(args, r.stdin)
	if err != nil {
		return err
	}
	var sources []importer.Source
	for _, s := range scripts {
		sources = append(sources, importer.Source{Name: s.Name, Host: s.Host, Text: s.Text})
	}
	made, err := importer.Import(sources, r.options)
	if err != nil {
		return &exitError{exitFailed, fmt.Errorf("import: %w", err)}
	}
	view := importView{Schema: schemaOf("import"), OK: true, Tunnels: len(made.File.Tunnels), Text: string(made.Text), File: r.output,
		Remarks: append([]importer.Remark{}, made.Remarks...)}
	for _, remark := range made.Remarks {
		view.OK = view.OK && !remark.Lost
	}
	if r.output != "" {
		if err := r.save(made.Text); err != nil {
			return &exitError{exitFailed, err}
		}
	}
	switch {
	case r.format.isData():
		err = writeData(r.stdout, r.format, view)
	default:
		r.tell(made.Remarks)
		if r.output == "" {
			_, err = r.stdout.Write(made.Text)
		}
	}
	if err == nil && !view.OK {
		err = &exitError{exitUnmet, nil}
	}
	return err
}

// save writes the file. It holds no secret.
func (r *importRun) save(text []byte) error {
	how := os.O_EXCL
	if r.force {
		how = os.O_TRUNC
	}
	f, err := os.OpenFile(r.output, os.O_WRONLY|os.O_CREATE|how, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already: --force writes over it", r.output)
	}
	if err != nil {
		return plainPathError(err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return plainPathError(err)
	}
	return nil
}

// tell writes the remarks to stderr, which leaves stdout to the file.
func (r *importRun) tell(remarks []importer.Remark) {
	t := lintText{screen: newScreen(r.stderr)}
	for _, remark := range remarks {
		place := ""
		if remark.Line > 0 {
			place = fmt.Sprintf("%s:%d: ", remark.File, remark.Line)
		} else if remark.File != "" {
			place = remark.File + ": "
		}
		word := "note"
		if remark.Lost {
			word = t.paint(yellow, "lost")
		}
		t.line(place+word+": "+remark.Text, 4)
	}
	t.line("note: keys and SPIs are not carried over: they are made anew when the file is applied", 4)
	io.WriteString(r.stderr, t.b.String())
}
