package vmlab

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// archive is an initramfs: cpio in the "newc" format
// (Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed.
type archive struct {
	buf   bytes.Buffer
	added map[string]bool // names, with a slash in front
	ino   int
}

const (
	modeDir  = 0o040755
	modeFile = 0o100000
)

// file adds a file, and the directories above it.
func (a *archive) file(name string, perm int, data []byte) {
	name = path.Join("/", name)
	a.dir(path.Dir(name))
	a.entry(name, modeFile|perm, data)
}

// dir adds a directory, and those above it.
func (a *archive) dir(name string) {
	name = path.Join("/", name)
	if name == "/" || a.added[name] {
		return
	}
	a.dir(path.Dir(name))
	a.entry(name, modeDir, nil)
}

func (a *archive) entry(name string, mode int, data []byte) {
	if a.added == nil {
		a.added = make(map[string]bool)
	}
	a.added[name] = true
	name = strings.TrimPrefix(name, "/")
	a.ino++
	a.buf.WriteString("070701")
	// Inode, mode, owner, group, links, time, length, device and special device, length of the
	// name with its zero, and a checksum nobody computes.
	for _, v := range []int{a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(&a.buf, "%08x", v)
	}
	a.buf.WriteString(name)
	a.buf.WriteByte(0)
	a.align()
	a.buf.Write(data)
	a.align()
}

func (a *archive) align() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

// bytes ends the archive.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}
