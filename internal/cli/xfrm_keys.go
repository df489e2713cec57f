package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"espalier/ipsec"
)

// maxKeyFile is generous for one key and a comment, in bytes.
const maxKeyFile = 4096

// keyFile gives what is behind @FILE, or - for standard input. With --generate-key a file that is
// not there is made.
func (r *xfrmRun) keyFile(path string) ([]byte, error) {
	if path == "-" {
		return r.keyFromStdin()
	}
	content, err := readKeyFile(path)
	if r.generateKey && errors.Is(err, fs.ErrNotExist) {
		return r.newKeyFile(path)
	}
	return content, err
}

func (r *xfrmRun) keyFromStdin() ([]byte, error) {
	if r.batch == "-" || r.stdinIsRead {
		return nil, errors.New("standard input has been read already")
	}
	r.stdinIsRead = true
	return readKey("standard input", r.stdin)
}

// newKeyFile writes a fresh key for its owner alone to read.
func (r *xfrmRun) newKeyFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, plainPathError(err)
	}
	content := newKey()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, plainPathError(err)
	}
	fmt.Fprintf(r.stderr, "made a new key in %s; its peer needs the same\n", path)
	return content, nil
}

// newKey is a key of AES-256 and its salt (RFC 4106 §8.1), as a key file has it.
func newKey() []byte {
	k := ipsec.RandomKey(32 + 4)
	defer k.Wipe()
	return fmt.Appendf(nil, "0x%x\n", k.ExposeSecretBytes())
}

// readKeyFile reads a key file that nobody else can. What is opened is what is checked.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, plainPathError(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others can read or change %s (mode %04o): chmod 600 %[1]s, and make a new key if it has been so for long",
			path, info.Mode().Perm())
	}
	return readKey(path, f)
}

func readKey(name string, from io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(from, maxKeyFile+1))
	if err != nil {
		return nil, plainPathError(err)
	}
	if len(content) > maxKeyFile {
		return nil, fmt.Errorf("%s is longer than a key file", name)
	}
	return content, nil
}
