package bundle

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// Bundle is an archive that is being put together. The zero Bundle is empty.
type Bundle struct {
	files   []file
	missing []string
}

type file struct {
	name   string // in the archive
	source string // a file of the host, or a command that shows the same
	data   []byte
}

// Add puts a file in. source says where it is from.
func (b *Bundle) Add(name, source string, data []byte) {
	b.files = append(b.files, file{name, source, data})
}

// AddJSON puts v in as JSON, indented; with an error, if there is one, that it is missing.
func (b *Bundle) AddJSON(name, source string, v any, err error) {
	var text []byte
	if err == nil {
		text, err = json.MarshalIndent(v, "", "  ")
	}
	if err != nil {
		b.Missing(source, err)
		return
	}
	b.Add(name, source, append(text, '\n'))
}

// Missing notes what could not be read.
func (b *Bundle) Missing(source string, err error) {
	b.missing = append(b.missing, fmt.Sprintf("%s: %v", source, err))
}

// leftOut is what is in no bundle, by design.
const leftOut = `keys of SAs: ipsec/*-states.json say what each SA is, and are not what the kernel gives
packets, shell histories, audit records, scripts, configuration files, the kernel's command line
rules of nftables: only the names of their chains
lines of the kernel's log, configuration and list of modules that are not about ESP, AES-GCM,
  XFRM or drivers of NICs; and in the log whatever is as long as a key, in hexadecimal`

// shown is what a reader may want to hide.
const shown = `addresses, routes, names of hosts, devices, tables and chains, SPIs: look through the files before
you pass them on`

// Write writes the archive. about says of whom it is and who has made it.
func (b *Bundle) Write(w io.Writer, about string, made time.Time) error {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	manifest := file{name: "MANIFEST", data: b.manifest(about, made)}
	for _, f := range append([]file{manifest}, b.files...) {
		header := &tar.Header{Name: "espalier-bundle/" + f.name, Mode: 0o600, Size: int64(len(f.data)), ModTime: made, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if _, err := archive.Write(f.data); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

func (b *Bundle) manifest(about string, made time.Time) []byte {
	var text strings.Builder
	fmt.Fprintf(&text, "espalier support bundle\n%s\nmade %s\n\nIn it\n", about, made.UTC().Format(time.RFC3339))
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, f := range b.files {
		fmt.Fprintf(t, "  %s\t%d bytes\t%s\n", f.name, len(f.data), f.source)
	}
	t.Flush()
	list := func(title string, lines []string) {
		fmt.Fprintf(&text, "\n%s\n", title)
		for _, l := range lines {
			fmt.Fprintf(&text, "  %s\n", l)
		}
	}
	if len(b.missing) > 0 {
		list("Could not be read", b.missing)
	}
	list("Left out on purpose", strings.Split(leftOut, "\n"))
	list("Not hidden", strings.Split(shown, "\n"))
	return []byte(text.String())
}

// Create makes the file of a bundle, for its owner alone to read. One that is there stays as it is,
// and so does what a symbolic link leads to.
func Create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
}
