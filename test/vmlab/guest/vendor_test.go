package guest

import (
	"strings"
	"testing"

	"espalier/test/lab"
)

// The commands of the NIC vendor's manual leave the same SAs and policies in the kernel,
// whether espalier or iproute2 gives them; and espalier shows them as iproute2 does.
func TestVendorCommands(t *testing.T) {
	for _, script := range []struct{ file, device string }{
		{"first-server.xfrm.sh", "enp4s0"},
		{"second-server.xfrm.sh", "enp4s0"},
		{"transmit-receive.xfrm.sh", "p4p1"},
	} {
		t.Run(script.file, func(t *testing.T) {
			l := lab.New(t, script.device)
			text := read(t, vendor+script.file)
			var listed [2]string
			for i, h := range l.Hosts() {
				programs[i].run(t, h, text)
				listed[i] = withoutDir(h.Must("ip", "xfrm", "state", "list") + h.Must("ip", "xfrm", "policy", "list"))
				ours := withoutDir(espalier(t, h, "--show-keys", "state", "list") + espalier(t, h, "policy", "list"))
				if ours != listed[i] {
					t.Errorf("after %s, espalier lists\n%s\niproute2 lists\n%s", programs[i].name, ours, listed[i])
				}
			}
			if listed[0] != listed[1] {
				t.Errorf("by %s:\n%s\nby %s:\n%s", programs[0].name, listed[0], programs[1].name, listed[1])
			}
			if states := strings.Count(listed[0], "proto esp spi 0x") - strings.Count(listed[0], "proto esp spi 0x00000000"); states != 2 {
				t.Errorf("%d SAs, want 2:\n%s", states, listed[0])
			}
			if strings.Contains(listed[0], "offload parameters") {
				t.Errorf("a veth device offloads:\n%s", listed[0])
			}
			Tell("The NIC vendor's commands", script.file, "accepted, on a veth device software; the same by espalier and by iproute2")
		})
	}
}

// withoutDir leaves the direction of SAs out, which iproute2 sets and shows from 6.11 on.
func withoutDir(list string) string {
	return strings.NewReplacer("\tdir in\n", "", "\tdir out\n", "").Replace(list)
}

const (
	firstToSecond = "0x28f39549"
	secondToFirst = "0x622a73b4"
	size          = 1 << 20
)

// The second server's templates name the request ids the wrong way round.
func TestVendorSecondServerAsWritten(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			l := lab.New(t, "enp4s0")
			p.run(t, l.A, read(t, vendor+"first-server.xfrm.sh"))
			p.run(t, l.B, read(t, vendor+"second-server.xfrm.sh"))
			wire := l.Watch(l.A, nil)
			if l.A.Ping(lab.B4, 2) || l.B.Ping(lab.A4, 2) {
				t.Error("ping passed")
			}
			drops := counters(t, l.B)
			if drops["XfrmOutNoStates"] == 0 || drops["XfrmInTmplMismatch"] != 2 {
				t.Errorf("the second server counts %v", drops)
			}
			counts, err := wire.Stop()
			if err != nil || counts.ESP != 2 || counts.Cleartext != 0 {
				t.Errorf("on the wire: %+v, %v; want the first server's 2 ESP packets only", counts, err)
			}
		})
	}
	if !t.Failed() {
		Tell("The NIC vendor's commands", "both servers as written", "nothing passes: XfrmOutNoStates and XfrmInTmplMismatch on the second")
	}
}

// With the request ids exchanged everything passes, as ESP.
func TestVendorCorrected(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			l := lab.New(t, "enp4s0")
			p.run(t, l.A, read(t, vendor+"first-server.xfrm.sh"))
			p.run(t, l.B, corrected(t, read(t, vendor+"second-server.xfrm.sh")))
			wire := l.Watch(l.A, nil)
			if !l.A.Ping(lab.B4, 2) || !l.B.Ping(lab.A4, 2) {
				t.Error("ping failed")
			}
			l.MustExchange(t, lab.A4, lab.B4, size)
			counts, err := wire.Stop()
			if err != nil || counts.ESP < 4*size/(64<<10) || counts.Cleartext != 0 {
				t.Errorf("on the wire: %+v, %v; want ESP only", counts, err)
			}
			for _, h := range l.Hosts() {
				if drops := counters(t, h); len(drops) != 0 {
					t.Errorf("host %s dropped %v", h.Name, drops)
				}
			}
		})
	}
	if !t.Failed() {
		Tell("The NIC vendor's commands", "second server's request ids exchanged", "ping and TCP pass, as ESP only")
	}
}

// corrected exchanges the request ids in the templates, and nothing else.
func corrected(t *testing.T, script string) string {
	t.Helper()
	exchange := strings.NewReplacer("reqid "+firstToSecond, "reqid "+secondToFirst, "reqid "+secondToFirst, "reqid "+firstToSecond)
	var lines []string
	for line := range strings.Lines(script) {
		if before, tmpl, ok := strings.Cut(line, " tmpl "); ok {
			line = before + " tmpl " + exchange.Replace(tmpl)
		}
		lines = append(lines, line)
	}
	fixed := strings.Join(lines, "")
	if fixed == script {
		t.Fatal("no template was found")
	}
	return fixed
}
