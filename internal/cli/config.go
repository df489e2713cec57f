package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"espalier/config"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a file of tunnels, and show how one is written",
		Long: `Tunnels are described in a YAML file: hosts, and what is to be protected between them.
These commands look at the file alone; nothing is asked of a host, and nothing is changed.`,
		Example: `  espalier config example > tunnels.yaml
  espalier config check tunnels.yaml`,
		Args: usageArgs(unknownCommand),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheckCommand(), newConfigSchemaCommand(), newConfigExampleCommand())
	return cmd
}

func newConfigCheckCommand() *cobra.Command {
	var output string
	var as format
	cmd := &cobra.Command{
		Use:   "check FILE…",
		Short: "Check files of tunnels, and say what they mean",
		Long: `Read each FILE (- is standard input) and say what tunnels it describes, with all defaults filled
in. All that is wrong is told at once, as FILE:LINE:COLUMN: what is wrong: what to write instead.

What only the hosts know, such as whether an address is theirs, is not looked at. Exit status: 0 if
nothing is wrong, 1 if something is or a file cannot be read, 2 for a wrong command line.`,
		Example: `  espalier config check tunnels.yaml
  espalier config check -o json - < tunnels.yaml`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which file? (- is standard input)")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := choose("-o", output, map[string]func(){"text": func() {}, "json": func() { as = formatJSON }, "yaml": func() { as = formatYAML }}); err != nil {
				return usageError(err)
			}
			return checkConfig(files, as, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, json or yaml")
	return cmd
}

// checkConfig tells of each file what it means, or what is wrong with it.
func checkConfig(files []string, as format, stdin io.Reader, stdout, stderr io.Writer) error {
	view := configView{Schema: schemaOf("config"), OK: true, Files: []configFileView{}}
	for _, name := range files {
		f, err := readConfig(&name, stdin)
		checked := viewConfig(name, f, err)
		view.OK = view.OK && checked.OK
		view.Files = append(view.Files, checked)
		if as.isData() {
			continue
		}
		for _, p := range checked.Problems {
			fmt.Fprintln(stderr, p)
		}
		if f == nil {
			continue
		}
		if err := describeConfig(stdout, f); err != nil {
			return err
		}
		for _, note := range checked.Notes {
			fmt.Fprintln(stderr, "note:", note)
		}
	}
	if as.isData() {
		if err := writeData(stdout, as, view); err != nil {
			return err
		}
	}
	if !view.OK {
		return &exitError{exitFailed, nil} // all has been said
	}
	return nil
}

// readConfig reads a file, or standard input for "-", which gets a name to call it by.
func readConfig(name *string, stdin io.Reader) (*config.File, error) {
	in := stdin
	if *name == "-" {
		*name = "stdin"
	} else {
		f, err := os.Open(*name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, config.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return config.Parse(*name, text)
}

func newConfigSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the file, for editors",
		Long: `Print the JSON Schema of a file of tunnels. Editors complete and explain settings by it, for
example with this line at the top of the file:

  # yaml-language-server: $schema=tunnels.schema.json`,
		Example: `  espalier config schema > tunnels.schema.json`,
		Args:    usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema)
			return err
		},
	}
}

func newConfigExampleCommand() *cobra.Command {
	names := config.Examples()
	return &cobra.Command{
		Use:   "example [" + strings.Join(names, "|") + "]",
		Short: "Print a file to begin with",
		Long: `Print a file of tunnels to begin with: two-hosts (the default), a mesh, a tunnel between networks,
or full, which has every setting there is.`,
		Example: `  espalier config example > tunnels.yaml
  espalier config example full | less`,
		ValidArgs: names,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("there is no place for %q", shorten(args[1]))
			}
			if len(args) == 1 {
				if _, ok := config.Example(args[0]); !ok {
					return fmt.Errorf("there is no example %q: choose from %s", shorten(args[0]), strings.Join(names, ", "))
				}
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, _ := config.Example(append(args, "two-hosts")[0])
			_, err := cmd.OutOrStdout().Write(text)
			return err
		},
	}
}
