package cli

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

// TestPrivileges reads what each thread of a running device may still do: CAP_NET_ADMIN and
// CAP_NET_RAW, and nothing that it could start gets more. Threads are changed by other means in a
// binary with C in it (lab's has the race detector) and in one without.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	l := lab.New(t, "")
	static := filepath.Join(t.TempDir(), "espalier")
	build := exec.Command("go", "build", "-o", static, "espalier/cmd/espalier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const adminAndRaw = "0000000000003000"
	for name, binary := range map[string]string{"with C": lab.Binary(t), "without C": static} {
		t.Run(name, func(t *testing.T) {
			tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", startDevice(t, l.A, binary)))
			if err != nil || len(tasks) < 2 {
				t.Fatalf("threads %v, %v: this test wants several", tasks, err)
			}
			for _, task := range tasks {
				b, err := os.ReadFile(task)
				if err != nil {
					continue // the thread has just ended
				}
				for field, want := range map[string]string{
					"CapInh": "0000000000000000", "CapPrm": adminAndRaw, "CapEff": adminAndRaw, "CapBnd": adminAndRaw,
					"CapAmb": "0000000000000000", "NoNewPrivs": "1",
				} {
					if !strings.Contains(string(b), "\n"+field+":\t"+want+"\n") {
						t.Errorf("%s: no %s %s in\n%s", task, field, want, b)
					}
				}
			}
		})
	}
}

// startDevice runs a device of binary on h until the test ends, and returns its process ID.
func startDevice(t *testing.T, h *lab.Host, binary string) int {
	t.Helper()
	cmd := exec.Command(binary, "dataplane", "--dev", h.Device, "--listen", filepath.Join(t.TempDir(), "dev.sock"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the device ended with %v: %s", err, complaint.String())
		}
		timer.Stop()
	})
	if line := bufio.NewScanner(out); !line.Scan() || !strings.HasPrefix(line.Text(), "ready ") {
		t.Fatal("the device did not start")
	}
	return cmd.Process.Pid
}
