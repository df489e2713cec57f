package remote

import (
	"encoding/json"
	"strings"
	"testing"

	"espalier/probe"
	"espalier/probe/trial"
	"espalier/test/lab"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// TestDoctor asks hosts that answer, and some that do not, all at once.
func TestDoctor(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.ssh.Host("db9", "HostName "+lab.B4.String(), "Port 2223")
	doctor := func(args ...string) lab.Result {
		return r.A.Espalier(append([]string{"doctor", "--ssh-config", r.ssh.Config}, args...)...)
	}
	got := doctor("--host", "db2,.", "--host", "db9")
	lines := strings.Split(got.Stdout, "\n")
	if !strings.HasPrefix(lines[0], "HOST  DEVICE  VERDICT") || got.Code != exitOfWorst(got.Stdout) || got.Stderr != "" {
		t.Errorf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	for i, want := range []string{"db2 ", ". ", "db9 "} {
		if !strings.HasPrefix(lines[1+i], want) {
			t.Errorf("line %d is %q", 1+i, lines[1+i])
		}
	}
	if !strings.Contains(got.Stdout, "UNKNOWN") || !strings.Contains(strings.Join(strings.Fields(got.Stdout), " "), "Connection refused") {
		t.Errorf("%s", got.Stdout)
	}
	for _, line := range lines {
		if len([]rune(line)) > 100 {
			t.Errorf("too wide: %q", line)
		}
	}
	r.server.MustBeClean(t)

	got = doctor("--host", "db2", "--host", "db9", "-o", "json")
	var view struct {
		Schema string
		OK     bool
		Hosts  []struct {
			Host, Error string
			Readiness   probe.Readiness
			Report      *probe.Report
		}
	}
	if err := json.Unmarshal([]byte(got.Stdout), &view); err != nil {
		t.Fatalf("%v\n%s", err, got.Stdout)
	}
	if view.Schema != "espalier/doctor-hosts/v1" || view.OK || len(view.Hosts) != 2 {
		t.Fatalf("%+v", view)
	}
	if h := view.Hosts[0]; h.Host != "db2" || h.Error != "" || h.Report == nil || len(h.Report.Layers) == 0 || !h.Report.AsRoot {
		t.Errorf("%+v", h)
	}
	if h := view.Hosts[1]; h.Host != "db9" || !strings.HasPrefix(h.Error, "unreachable: ") || h.Report != nil || h.Readiness != probe.Unclear {
		t.Errorf("%+v", h)
	}

	got = doctor("--host", "db2", "-v")
	if !strings.Contains(got.Stdout, "\n== db2\n") || !strings.Contains(got.Stdout, "─ ") {
		t.Errorf("%s", got.Stdout)
	}
	if got = doctor("--host", "db9"); got.Code != 4 {
		t.Errorf("exit %d\n%s", got.Code, got.Stdout)
	}
	if got = doctor("--host", "db2", "p9"); got.Code != 4 || !strings.Contains(got.Stdout, "p9") {
		t.Errorf("a device that is not there: exit %d\n%s", got.Code, got.Stdout)
	}
	for _, bad := range []string{"", "-oProxyCommand=reboot", "db2 reboot"} {
		if got = doctor("--host", bad); got.Code != 2 || !strings.Contains(got.Stderr, "host") {
			t.Errorf("--host %q: exit %d\n%s", bad, got.Code, got.Stderr)
		}
	}
	r.server.MustBeClean(t)
}

// exitOfWorst: what is not ready outweighs what is not known.
func exitOfWorst(table string) int {
	if strings.Contains(table, "NOT READY") {
		return 3
	}
	return 4
}

// TestDoctorTrial has SAs added on another host, if somebody agrees, and taken away again.
func TestDoctorTrial(t *testing.T) {
	t.Parallel()
	r := newRig(t, "echo 'SetEnv ESPALIER_STATE_DIR=/run/sshd/state' >>sshd_config")
	doctor := func(args ...string) lab.Result {
		return r.A.Espalier(append([]string{"doctor", "--ssh-config", r.ssh.Config, "--host", "db2", "--trial"}, args...)...)
	}
	if got := doctor("p4p1"); got.Code != 2 || !strings.Contains(got.Stderr, "--yes") || got.Stdout != "" {
		t.Errorf("nobody has agreed: exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	got := doctor("--yes", "-o", "json", "p4p1")
	if !strings.Contains(got.Stderr, "throwaway SAs to p4p1 of db2") {
		t.Errorf("what is done is not said: %s", got.Stderr)
	}
	var view struct {
		Hosts []struct {
			Host, Error string
			Report      *struct {
				Readiness probe.Readiness
				Trials    []trial.Result
			}
		}
	}
	if err := json.Unmarshal([]byte(got.Stdout), &view); err != nil || len(view.Hosts) != 1 || view.Hosts[0].Report == nil {
		t.Fatalf("exit %d, %v\n%s%s", got.Code, err, got.Stdout, got.Stderr)
	}
	report := view.Hosts[0].Report
	if len(report.Trials) != 1 || report.Trials[0].Device != "p4p1" || len(report.Trials[0].Cases) == 0 || got.Code != 3 || report.Readiness != probe.NotReady {
		t.Fatalf("exit %d: %+v", got.Code, report)
	}
	for _, c := range report.Trials[0].Cases { // a veth takes none, whatever the kernel can
		if c.Outcome != trial.Refused && c.Outcome != trial.Software {
			t.Errorf("%+v", c)
		}
	}
	r.server.MustBeClean(t)
	if err := r.B.Do(func() error {
		kernel, err := client.Kernel()
		if err != nil {
			return err
		}
		defer kernel.Close()
		for s, err := range kernel.States(t.Context(), xfrm.StateFilter{}) {
			if err != nil {
				return err
			}
			t.Errorf("left: %s", s.ID())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
