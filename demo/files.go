package demo

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"espalier/internal/wire"
	"espalier/ipsec"
)

// files are what a run writes. They are opened before anything is made, so that a bad path
// fails at once.
type files struct {
	keys *keyFile // nil: none was asked for
	pcap *os.File
	wire *wire.PcapWriter // into pcap
}

func (f *files) open(keys, pcap string) (err error) {
	if keys != "" {
		if f.keys, err = newKeyFile(keys); err != nil {
			return fmt.Errorf("write keys to %s: %w", keys, err)
		}
	}
	if pcap == "" {
		return nil
	}
	if f.pcap, err = os.Create(pcap); err != nil {
		return err
	}
	f.wire, err = wire.NewPcapWriter(f.pcap)
	return err
}

// close may be called again. What has come of the capture is kept, keys that were not saved
// are not.
func (f *files) close() error {
	var errs []error
	if f.keys != nil {
		errs = append(errs, f.keys.discard())
	}
	if f.wire != nil {
		errs = append(errs, f.wire.Flush())
	}
	if f.pcap != nil {
		errs = append(errs, f.pcap.Close())
	}
	*f = files{}
	return errors.Join(errs...)
}

// keyFile becomes Wireshark's esp_sa table. It is written beside its place and put there as a
// whole: what is at path keeps neither its mode nor its readers, and a link or a device is
// never replaced.
type keyFile struct {
	path string
	temp *os.File // mode 0600; nil once it is in its place or gone
}

func newKeyFile(path string) (*keyFile, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("there is something in its place that is not a regular file")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, reasonOf(err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return nil, reasonOf(err)
	}
	return &keyFile{path: path, temp: temp}, nil
}

// reasonOf leaves out the path, which the caller names.
func reasonOf(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// save writes the keys of all SAs and puts the file in its place.
func (k *keyFile) save(sas []ipsec.SA) error {
	for i := range sas {
		if err := writeKey(k.temp, &sas[i]); err != nil {
			return err
		}
	}
	if err := k.temp.Close(); err != nil {
		return err
	}
	if err := os.Rename(k.temp.Name(), k.path); err != nil {
		return err
	}
	k.temp = nil
	return nil
}

// discard removes what was not saved.
func (k *keyFile) discard() error {
	if k.temp == nil {
		return nil
	}
	k.temp.Close() // what it holds is not wanted
	err := os.Remove(k.temp.Name())
	k.temp = nil
	return err
}

// writeKey writes one line. The names of the algorithms are those of Wireshark's preferences.
// The last column, the length of sequence numbers, came late: it stands only where it is not
// the default, since older versions warn of it.
func writeKey(f *os.File, sa *ipsec.SA) error {
	version, esn := "IPv4", ""
	if sa.Src.Is6() {
		version = "IPv6"
	}
	if sa.ESN {
		esn = `,"64-bit"`
	}
	_, err := fmt.Fprintf(f, "%q,%q,%q,\"%s\",%q,\"0x%s\",%q,%q%s\n",
		version, sa.Src, sa.Dst, sa.SPI, "AES-GCM with 16 octet ICV [RFC4106]", hex.EncodeToString(sa.Key.ExposeSecretBytes()), "NULL", "", esn)
	return err
}
