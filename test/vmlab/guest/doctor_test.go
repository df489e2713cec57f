package guest

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// doctorReport is what the tests read of `espalier doctor -o json`.
type doctorReport struct {
	Devices []struct{ Readiness, Reason string }
	Layers  []struct {
		Name   string
		Checks []struct {
			ID, Answer, Weight, Why string
			Evidence                []struct{ Source, Value string }
		}
	}
}

func doctor(t *testing.T, h *lab.Host, device string) (report doctorReport, code int) {
	t.Helper()
	r := h.Command(Espalier, "doctor", device, "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatalf("exit %d, %v: %s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	if len(report.Devices) != 1 || len(report.Layers) == 0 {
		t.Fatalf("exit %d: %s", r.Code, r.Stdout)
	}
	return report, r.Code
}

// kernelAnswers are those of the kernel's layer, by the questions' names.
func (r doctorReport) kernelAnswers() map[string]string {
	answers := make(map[string]string)
	for _, c := range r.Layers[0].Checks {
		if name, ok := strings.CutPrefix(c.ID, "kernel."); ok {
			answers[name] = c.Answer
		}
	}
	return answers
}

// TestDoctorKernel: without a configuration in the VM the doctor knows this kernel by its functions and
// modules. It misses a module that was taken out, and says that it does not know whether there is
// one, for the VM has no list of modules.
func TestDoctorKernel(t *testing.T) {
	l := onNIC(t, "p4p1")
	r, code := doctor(t, l.A, "p4p1")
	if code != 0 || r.Devices[0].Readiness != "READY" {
		t.Errorf("exit %d, %+v", code, r.Devices[0])
	}
	want := map[string]string{
		"xfrm": "yes", "xfrm-offload": "yes", "xfrm-user": "yes", "inet-esp": "yes", "inet-esp-offload": "yes", "inet6-esp": "yes", "inet6-esp-offload": "yes",
		"crypto-gcm": "yes", "crypto-ctr": "yes", "crypto-seqiv": "yes", "crypto-offload": "yes",
		"packet-offload": forKernel(t, "yes", "no"), "nat-keepalive": forKernel(t, "yes", "no"), "sa-direction": forKernel(t, "yes", "unknown"),
	}
	got := r.kernelAnswers()
	for name, answer := range want {
		if got[name] != answer {
			t.Errorf("%s: %q, want %q", name, got[name], answer)
		}
	}

	const module = "esp4_offload"
	if err := unix.DeleteModule(module, unix.O_NONBLOCK); err != nil {
		t.Skipf("take %s out: %v", module, err)
	}
	defer reload(t, module)
	r, code = doctor(t, l.A, "p4p1")
	if answer := r.kernelAnswers()["inet-esp-offload"]; code != 4 || answer != "unknown" || !strings.Contains(r.Devices[0].Reason, "INET_ESP_OFFLOAD") {
		t.Errorf("without %s: exit %d, %s, %+v", module, code, answer, r.Devices[0])
	}
}

// reload loads a module of this VM's.
func reload(t *testing.T, module string) {
	t.Helper()
	names, err := lines(ModulesFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.TrimSuffix(filepath.Base(name), ".ko") == module {
			if err := load(name); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%s is no module of this VM", module)
}
