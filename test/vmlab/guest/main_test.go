package guest

import (
	"context"
	"os"
	"testing"

	"espalier/internal/cli"
	"espalier/remote"
)

// asEspalier is the first argument of these tests where they are to be the program, which then trusts
// the lab's NIC.
const asEspalier = "as-espalier"

// TestMain also serves as that program, and as espalier on another host: see [remote.Child].
func TestMain(m *testing.M) {
	if os.Getpid() != 1 && len(os.Args) > 1 {
		switch os.Args[1] {
		case asEspalier:
			os.Exit(cli.Main(context.Background(), os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
		case remote.AgentCommand:
			os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		}
	}
	Main(m)
}
