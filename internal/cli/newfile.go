package cli

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// secret is the mode of files with keys in them: their owner's alone.
const secret fs.FileMode = 0o600

// writeNew writes a file that is not there yet, and leaves none behind that is not whole. Errors wrap
// fs.ErrExist where there is one, or a link.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if err != nil {
		return plainPathError(err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
		return plainPathError(err)
	}
	return nil
}
