package cli

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/outage"
)

func TestShowOutage(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	sas := []outage.SA{
		{Src: a, Dst: b, Proto: unix.IPPROTO_ESP, SPI: 0x1000, Reqid: 1, Dir: xfrm.StateDirOut},
		{Src: b, Dst: a, Proto: unix.IPPROTO_ESP, SPI: 0x1001, Reqid: 2, Mode: xfrm.ModeTunnel, Dir: xfrm.StateDirIn, Mark: xfrm.Mark{Value: 7, Mask: 15}},
	}
	const first, second = "src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x00001000 reqid 1 mode transport dir out", "src 10.0.0.2 dst 10.0.0.1 proto esp spi 0x00001001 reqid 2 mode tunnel dir in"
	down := outage.Outage{Device: "p4p1", State: outage.Down, Lost: sas}
	now := time.Unix(1000, 5e8)
	for _, tt := range []struct {
		name   string
		outage outage.Outage
		opt    xfrmOptions
		want   string
	}{
		{"down", down, xfrmOptions{}, "Offloaded SAs lost: p4p1 is down\n\t" + first + "\n\t" + second + "\n"},
		{"gone", outage.Outage{Device: "p4p1", State: outage.Gone, Lost: sas[:1]}, xfrmOptions{}, "Offloaded SAs lost: p4p1 is gone\n\t" + first + "\n"},
		{"on one line", down, xfrmOptions{format: formatOneLine}, `Offloaded SAs lost: p4p1 is down\	` + first + `\	` + second + "\n"},
		{"cable", outage.Outage{Device: "p4p1", State: outage.NoCarrier, Kept: sas}, xfrmOptions{}, "Link p4p1 has no carrier, its 2 offloaded SAs stay\n"},
		{"cable again", outage.Outage{Device: "p4p1", State: outage.Carrier, Kept: sas}, xfrmOptions{}, "Link p4p1 has a carrier again, its 2 offloaded SAs stay\n"},
		{"up", outage.Outage{Device: "p4p1", State: outage.Up}, xfrmOptions{}, "Link p4p1 is up, the SAs that were lost do not come back by themselves\n"},
		{"gone without", outage.Outage{Device: "p4p1", State: outage.Gone}, xfrmOptions{}, "Link p4p1 is gone\n"},
		{"JSON", down, xfrmOptions{format: formatJSON}, `{"schema":"espalier/xfrm-monitor/v1","ok":true,"sad":"kernel","time":1000.5,"event":"LINK","link":{"dev":"p4p1","state":"down"},` +
			`"lost":[{"src":"10.0.0.1","dst":"10.0.0.2","proto":"esp","spi":"0x00001000","reqid":1,"mode":"transport","dir":"out"},` +
			`{"src":"10.0.0.2","dst":"10.0.0.1","proto":"esp","spi":"0x00001001","reqid":2,"mode":"tunnel","dir":"in","mark":{"value":7,"mask":15}}]}` + "\n"},
		{"JSON, cable", outage.Outage{Device: "p4p1", State: outage.NoCarrier, Kept: sas[:1]}, xfrmOptions{format: formatJSON}, `{"schema":"espalier/xfrm-monitor/v1","ok":true,"sad":"kernel","time":1000.5,"event":"LINK","link":{"dev":"p4p1","state":"no-carrier"},` +
			`"kept":[{"src":"10.0.0.1","dst":"10.0.0.2","proto":"esp","spi":"0x00001000","reqid":1,"mode":"transport","dir":"out"}]}` + "\n"},
	} {
		var out bytes.Buffer
		r := &xfrmRun{xfrmOptions: tt.opt, stdout: &out}
		if err := r.showOutage(job{Command: &xfrm.Command{Monitor: &xfrm.Monitor{}}}, &tt.outage, now); err != nil || out.String() != tt.want {
			t.Errorf("%s: %v, got\n%swant\n%s", tt.name, err, out.String(), tt.want)
		}
	}
	var out bytes.Buffer
	r := &xfrmRun{xfrmOptions: xfrmOptions{timestamp: timestampShort}, stdout: &out}
	r.showOutage(job{Command: &xfrm.Command{Monitor: &xfrm.Monitor{AllNSID: true}}}, &down, now)
	if text := out.String(); !strings.HasPrefix(text, "[1970-01-01T") || !strings.Contains(text, "] [nsid current]Offloaded SAs lost") {
		t.Errorf("with a timestamp: %s", text)
	}
}

// What goes wrong with the watch is a warning: the events go on.
func TestOutageWarns(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{{unix.ENOBUFS, "see whether the SAs are still there"}, {ipsec.ErrInvalid, "warning: " + ipsec.ErrInvalid.Error()}} {
		var out, errs bytes.Buffer
		r := &xfrmRun{stdout: &out, stderr: &errs}
		r.outage(job{Command: &xfrm.Command{Monitor: &xfrm.Monitor{}}}, &outage.Outage{}, tt.err)
		if out.Len() != 0 || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: %s%s", tt.err, out.String(), errs.String())
		}
	}
}
