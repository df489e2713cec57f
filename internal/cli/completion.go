package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

const completionLong = `Print a script that makes a shell complete the commands of espalier: words, devices, files, and
for xfrm the SPIs, reqids and addresses that the SAD holds, as far as it may be asked.

bash needs the package bash-completion.`

func newCompletionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion {bash|zsh|fish}",
		Short: "Make a shell complete the commands of espalier",
		Long:  completionLong,
		Example: `  source <(espalier completion bash)
  espalier completion bash > /etc/bash_completion.d/espalier
  espalier completion zsh > "${fpath[1]}/_espalier"
  espalier completion fish > ~/.config/fish/completions/espalier.fish`,
		ValidArgs: []cobra.Completion{"bash", "zsh", "fish"},
		Args:      usageArgs(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return bashCompletion(root, out)
		},
	}
}

// bashCompletion tells bash that an @ does not end a word: it would cut the one of a key file from
// the file's name.
func bashCompletion(root *cobra.Command, out io.Writer) error {
	if err := root.GenBashCompletionV2(out, true); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, "\n# A key file is one word with its @.\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//@}\n")
	return err
}
