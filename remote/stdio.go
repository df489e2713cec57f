package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// AgentCommand is how the bootstrap starts the far side: espalier remote-agent [--copy] NONCE.
const AgentCommand = "remote-agent"

// ServeStdio is the far side: it serves operations on standard input and output until the asker
// goes. nonce is what its first line has to carry. With copied the executable and the directory
// made for it are removed at once: the process needs neither.
func ServeStdio(ctx context.Context, nonce string, copied bool, ops Operations) error {
	// A connection that is cut must not end the process before it has undone what it began.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	p, err := ownProgram()
	if err != nil {
		return err
	}
	if copied {
		if err := removeCopy(); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(os.Stdout, "\n%s %s\n", nonce, agentWord); err != nil {
		return err
	}
	return serve(ctx, os.Stdin, os.Stdout, func() {}, ops, whoami(p.hash), usualPace)
}

// removeCopy unlinks this executable, if it is where the bootstrap puts it.
func removeCopy() error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if filepath.Base(path) != "espalier" || !strings.HasPrefix(filepath.Base(dir), "espalier.") {
		return fmt.Errorf("%s is not a copy made for one connection, and will not be removed", path)
	}
	return errors.Join(os.Remove(path), os.Remove(dir))
}
