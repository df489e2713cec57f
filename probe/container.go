package probe

import (
	"io/fs"
	"slices"
	"strings"
)

// containerSigns are files that container engines leave.
var containerSigns = []struct{ file, engine string }{
	{".dockerenv", "docker"},
	{"run/.containerenv", "podman"},
	{"run/secrets/kubernetes.io/serviceaccount/namespace", "kubernetes"},
	{"var/run/secrets/kubernetes.io/serviceaccount/namespace", "kubernetes"},
}

// readContainer names what kind of container this is run in, "" for none, and what shows it.
func readContainer(root fs.FS) (kind string, by Evidence) {
	if word := readWord(root, "run/systemd/container"); word != "" {
		return word, Evidence{"/run/systemd/container", word}
	}
	for _, s := range containerSigns {
		if _, err := fs.Stat(root, s.file); err == nil && !isImage(root) {
			return s.engine, Evidence{"/" + s.file, "is there"}
		}
	}
	const file = "proc/self/ns/pid"
	namespace, err := fs.ReadLink(root, file)
	if err == nil && namespace != initialPIDs {
		return "with processes of its own", Evidence{"/" + file, namespace}
	}
	return "", Evidence{"/" + file, namespace}
}

// initialPIDs is the number of the PID namespace that a kernel starts with (PROC_PID_INIT_INO in
// include/linux/proc_ns.h).
const initialPIDs = "pid:[4026531836]"

// isImage: the files of a container's image also serve as those of a VM, with all signs in them. There
// the processes are in the first namespace, and no layers of file systems make up the root.
func isImage(root fs.FS) bool {
	namespace, err := fs.ReadLink(root, "proc/self/ns/pid")
	if err != nil || namespace != initialPIDs {
		return false
	}
	mounts, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		// 27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw: proc_pid_mountinfo(5)
		where, what, ok := strings.Cut(line, " - ")
		if words := strings.Fields(where); ok && len(words) > 4 && words[4] == "/" {
			kind, _, _ := strings.Cut(what, " ")
			return !slices.Contains([]string{"overlay", "fuse.fuse-overlayfs", "aufs"}, kind)
		}
	}
	return false
}
