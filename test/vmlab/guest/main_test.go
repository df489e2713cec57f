package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/internal/cli"
)

// TestMain also serves, in the VM, as the program, which then trusts the lab's NIC; so as espalier on another
// host, too, and as what its processes start. And it stands for ssh: see actAsSSH.
func TestMain(m *testing.M) {
	if os.Getpid() != 1 && len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		if filepath.Base(os.Args[0]) == "ssh" {
			fmt.Fprintln(os.Stderr, "ssh:", actAsSSH(os.Args[1:]))
			os.Exit(255)
		}
		os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	Main(m)
}
