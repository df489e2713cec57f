package deploy

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/xfrm"
)

// spy collects what others could see of commands: arguments and environments of processes on both hosts,
// what is written into directories, and what was printed.
type spy struct {
	dirs       []string
	namespaces []uint64
	mu         sync.Mutex
	seen       map[string]string // where something was seen first, by the text
}

// spies has the commands on host A go by the environment that is returned.
func (s *site) spies(t *testing.T) (*spy, []string) {
	t.Helper()
	log, home, tmp := t.TempDir(), t.TempDir(), t.TempDir()
	real, err := exec.LookPath("ssh")
	if err == nil {
		err = os.WriteFile(filepath.Join(log, "ssh"), []byte("#!/bin/sh\n{ echo \"$@\"; env; } >>"+log+"/ssh.log\nexec "+real+" \"$@\"\n"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	far := s.servers[s.B]
	spied := &spy{seen: map[string]string{}, dirs: []string{log, home, tmp, s.A.Dir, filepath.Dir(s.A.Socket), filepath.Dir(s.B.Socket),
		s.state(s.B), far.Path("/tmp"), far.Path("/var/tmp"), far.Path("/dev/shm"), far.Path("/root")}}
	for _, h := range s.Hosts() {
		spied.namespaces = append(spied.namespaces, inode(t, h))
	}
	return spied, []string{"PATH=" + log + ":" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + tmp}
}

// during looks again and again while f runs, and once afterwards.
func (s *spy) during(f func()) {
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			s.look()
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	f()
	close(stop)
	looking.Wait()
	s.look()
}

func (s *spy) add(where string, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.seen[string(text)]; !known && len(text) > 0 {
		s.seen[string(text)] = where
	}
}

func (s *spy) look() {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		var st unix.Stat_t
		if unix.Stat(p+"/ns/net", &st) != nil || !slices.Contains(s.namespaces, st.Ino) {
			continue
		}
		for _, what := range []string{"cmdline", "environ"} {
			text, _ := os.ReadFile(filepath.Join(p, what))
			s.add(what+" of "+filepath.Base(p), text)
		}
	}
	for _, dir := range s.dirs {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			if info, err := d.Info(); err == nil && info.Size() < 1<<20 { // programs are larger
				text, _ := os.ReadFile(path)
				s.add(path, text)
			}
			return nil
		})
	}
}

// find tells where a key is to be seen, in what form.
func (s *spy) find(key []byte) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text, where := range s.seen {
		for form, b := range forms(key) {
			if strings.Contains(text, b) {
				found = append(found, fmt.Sprintf("%s: %s", where, form))
			}
		}
	}
	return found
}

// forms are those in which a part of a key is looked for: wherever it stands in something else.
func forms(key []byte) map[string]string {
	part := key[:18]
	all := map[string]string{
		"raw": string(part), "hex": hex.EncodeToString(part), "HEX": strings.ToUpper(hex.EncodeToString(part)), // also behind 0x
		"bytes": strings.Trim(fmt.Sprint(part), "[]"), "JSON numbers": strings.ReplaceAll(strings.Trim(fmt.Sprint(part), "[]"), " ", ","),
	}
	for shift := range 3 {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), part...))
		text = text[(shift*8+5)/6 : (shift+len(part))*8/6]
		all[fmt.Sprint("base64 +", shift)] = text
		all[fmt.Sprint("base64url +", shift)] = strings.NewReplacer("+", "-", "/", "_").Replace(text)
	}
	return all
}

// tapKeys has what is said to the devices go by here: they keep their keys to themselves. It returns the keys
// that they were given so far.
func (s *site) tapKeys(t *testing.T) (keys func() [][]byte) {
	t.Helper()
	var mu sync.Mutex
	var all [][]byte
	heard := func(datagram []byte) {
		for len(datagram) >= unix.NLMSG_HDRLEN {
			n := int(binary.NativeEndian.Uint32(datagram))
			if n < unix.NLMSG_HDRLEN || n > len(datagram) {
				return
			}
			if binary.NativeEndian.Uint16(datagram[4:]) == uint16(xfrm.MsgNewSA) {
				if sa, err := xfrm.DecodeState(bytes.Clone(datagram[unix.NLMSG_HDRLEN:n])); err == nil && sa.AEAD != nil {
					mu.Lock()
					all = append(all, bytes.Clone(sa.AEAD.Key.ExposeSecretBytes()))
					mu.Unlock()
				}
			}
			datagram = datagram[min((n+3)&^3, len(datagram)):]
		}
	}
	for _, h := range s.Hosts() {
		device := h.Socket + "-device"
		if err := os.Rename(h.Socket, device); err != nil {
			t.Fatal(err)
		}
		between, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: h.Socket, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { between.Close() })
		go func() {
			for {
				near, err := between.AcceptUnix()
				if err != nil {
					return
				}
				far, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: device, Net: "unixpacket"})
				if err != nil {
					near.Close()
					return
				}
				go relay(near, far, heard)
				go relay(far, near, func([]byte) {})
			}
		}()
	}
	return func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// relay passes datagrams on until one side ends.
func relay(from, to *net.UnixConn, heard func([]byte)) {
	defer from.Close()
	defer to.Close()
	for b := make([]byte, 1<<20); ; {
		n, err := from.Read(b)
		if err != nil || n == 0 {
			return
		}
		heard(b[:n])
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// mustHide looks for keys in all that was seen. The control: planted, each form is found.
func (s *spy) mustHide(t *testing.T, keys [][]byte) {
	t.Helper()
	if len(keys) < 4 || len(s.seen) < 10 {
		t.Errorf("%d keys, %d texts", len(keys), len(s.seen))
	}
	for _, key := range keys {
		if found := s.find(key); len(found) > 0 {
			t.Errorf("a key is to be seen: %q", found)
		}
	}
	planted := filepath.Join(s.dirs[1], "planted")
	for shift := range 3 {
		key := keys[shift]
		text := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte("x"), 30+shift), key...))
		if err := os.WriteFile(planted, []byte(`{"sas": ["`+text+`"]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		s.look()
		if found := s.find(key); !slices.Contains(found, fmt.Sprintf("%s: base64 +%d", planted, shift)) {
			t.Errorf("a key that was planted is not found: %q", found)
		}
	}
}

// plantIn has a process with a key in its environment, and one in its arguments, on a host.
func (s *spy) plantIn(t *testing.T, h *lab.Host, key []byte) {
	t.Helper()
	for what, args := range map[string][]string{"environ": {"KEY=" + hex.EncodeToString(key), "sleep", "60"}, "cmdline": {"sh", "-c", "sleep 60; : 0x" + hex.EncodeToString(key)}} {
		cmd := exec.Command("env", args...)
		if err := h.Start(cmd); err != nil {
			t.Fatal(err)
		}
		seen := false
		for range 1000 {
			s.look()
			if seen = slices.Contains(s.find(key), fmt.Sprintf("%s of %d: hex", what, cmd.Process.Pid)); seen {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if !seen {
			t.Errorf("a key that was planted in %s is not found", what)
		}
	}
}
