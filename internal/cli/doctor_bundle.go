package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"espalier/internal/bundle"
	"espalier/probe"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// doctorBundle is --bundle of the doctor's.
type doctorBundle struct {
	path string
	file *os.File // made before anything else is done
}

func (b *doctorBundle) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&b.path, "bundle", "", "write a support archive (.tar.gz), without keys, to a new `FILE`")
}

// open makes the file.
func (b *doctorBundle) open() (err error) {
	if b.path == "" {
		return nil
	}
	if b.file, err = bundle.Create(b.path); err != nil {
		return fmt.Errorf("--bundle: %w", plainPathError(err))
	}
	return nil
}

// discard takes away a file that has not come to be an archive.
func (b *doctorBundle) discard() {
	if b.file != nil {
		b.file.Close()
		os.Remove(b.path)
	}
}

// write writes the archive. document is what `doctor -o json` prints.
func (b *doctorBundle) write(ctx context.Context, stderr io.Writer, sys probe.System, document any) error {
	if b.file == nil {
		return nil
	}
	var content bundle.Bundle
	content.AddJSON("doctor.json", "espalier doctor -o json", document, nil)
	content.AddHost(sys)
	content.AddRoutes()
	if err := keepSecrets(); err != nil { // from here on keys come by
		return err
	}
	addDatabases(ctx, &content)
	if err := ctx.Err(); err != nil {
		return err
	}
	err := errors.Join(content.Write(b.file, bundleAbout(), time.Now()), b.file.Sync(), b.file.Close())
	if err != nil {
		return fmt.Errorf("--bundle %s: %w", b.path, err)
	}
	b.file = nil
	fmt.Fprintf(stderr, "support archive: %s; keys are not in it, addresses and names are: MANIFEST in it says what\n", b.path)
	return nil
}

func bundleAbout() string {
	host, _ := os.Hostname()
	version := "of an unknown version"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version + ", " + info.GoVersion
	}
	return fmt.Sprintf("host %s, espalier %s", host, version)
}

// addDatabases puts in the SAs and policies of the kernel and of the devices of this network
// namespace.
func addDatabases(ctx context.Context, b *bundle.Bundle) {
	addDatabase(ctx, b, sadChoice{}, "ipsec/kernel")
	dir, err := client.SocketDir()
	sockets := map[string]string{}
	if err == nil {
		sockets, err = client.DeviceSockets(dir)
	}
	if err != nil {
		b.Missing("userspace devices", err)
	}
	for device, socket := range sockets {
		addDatabase(ctx, b, sadChoice{socket: socket}, "ipsec/device-"+device)
	}
}

// addDatabase puts in what an engine has, in the documents of `xfrm -o json`, which have no keys.
func addDatabase(ctx context.Context, b *bundle.Bundle, sad sadChoice, name string) {
	command := "espalier xfrm --sad " + sad.name() + " -o json "
	e, err := sad.open()
	if err != nil {
		b.Missing("SAs and policies of "+sad.name(), err)
		return
	}
	defer e.Close()
	var text bytes.Buffer
	r := &xfrmRun{xfrmOptions: xfrmOptions{format: formatJSON}, sad: sad, engine: e, stdout: &text}
	add := func(file, what string, err error) {
		if err != nil {
			b.Missing(command+what, err)
			return
		}
		b.Add(name+file, command+what, bytes.Clone(text.Bytes()))
		text.Reset()
	}
	add("-states.json", "state list", r.documentStates(ctx))
	add("-policies.json", "policy list", r.documentPolicies(ctx))
}

func (r *xfrmRun) documentStates(ctx context.Context) error {
	states, err := r.listStates(ctx, xfrm.StateFilter{})
	if err != nil {
		return err
	}
	for _, s := range states {
		s.WipeKeys()
	}
	return r.showStates(job{Command: &xfrm.Command{Object: xfrm.ObjectState, Verb: xfrm.VerbList}}, states)
}

func (r *xfrmRun) documentPolicies(ctx context.Context) error {
	list := &xfrm.Command{Object: xfrm.ObjectPolicy, Verb: xfrm.VerbList, PolicyQuery: &xfrm.PolicyQuery{}}
	policies, err := r.listPolicies(ctx, list.PolicyQuery)
	if err != nil {
		return err
	}
	return r.showPolicies(job{Command: list}, policies)
}
