package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// reversePath keeps the underlay device's reverse path filter loose while the device runs.
// Strict, it drops what the peer sends, ARP replies among it: by the steering rule the way
// back to the peer leads into the TUN. The setting found is kept in a file, so that it can be
// put back even after the process was killed.
type reversePath struct {
	device string
	file   string
}

const (
	off    = "0"
	strict = "1"
	loose  = "2"
)

func (r reversePath) loosen() error {
	old, err := r.device4().read()
	if err != nil {
		return fmt.Errorf("read rp_filter of %s: %w", r.device, err)
	}
	if old == loose {
		return nil
	}
	all, err := sysctl{"ipv4", "all", "rp_filter"}.read()
	if err != nil {
		return fmt.Errorf("read rp_filter: %w", err)
	}
	if old != strict && all != strict { // the larger of the two holds
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(r.file, []byte(old), 0o600); err != nil {
		return err
	}
	if err := r.device4().write(loose); err != nil {
		return fmt.Errorf("set rp_filter of %s loose: %w", r.device, err)
	}
	return nil
}

// tunFilter is the reverse path filter of the TUN. A device without an address, as it is, passes only with
// no filter at all what has no way back by it (fib_validate_source: loose looks no further). The larger of its
// own and that of all devices holds: where that is strict, loose is the best there is.
func tunFilter() (string, error) {
	all, err := sysctl{"ipv4", "all", "rp_filter"}.read()
	if err != nil {
		return "", fmt.Errorf("read rp_filter: %w", err)
	}
	if all == off {
		return off, nil
	}
	return loose, nil
}

// restore puts back what loosen found. Without a file there is nothing to put back.
func (r reversePath) restore() error {
	old, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.device4().write(string(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put rp_filter of %s back to %s: %w", r.device, old, err)
	}
	return os.Remove(r.file)
}

func (r reversePath) device4() sysctl { return sysctl{"ipv4", r.device, "rp_filter"} }
