// Command espalier sets up, proves and runs IPsec ESP with AES-GCM.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"espalier/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
