package guest

import (
	"context"
	"os"
	"testing"

	"espalier/internal/cli"
	"espalier/remote"
)

// TestMain also serves as espalier on another host, with what tests trust: see [remote.Child].
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == remote.AgentCommand {
		os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	Main(m)
}
