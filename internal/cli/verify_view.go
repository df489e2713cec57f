package cli

import (
	"fmt"
	"io"
	"strings"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/verdict"
	"espalier/verdict/verify"
	"espalier/xfrm"
)

// verifyView is the JSON of `espalier verify`.
type verifyView struct {
	Schema  string          `json:"schema"`
	OK      bool            `json:"ok"`
	SAD     string          `json:"sad"`
	Result  verdict.Result  `json:"result"`
	Verdict verdict.Verdict `json:"verdict"` // who encrypts; UNKNOWN unless the result is PROVEN
	Why     []string        `json:"why"`
	SA      verifySA        `json:"sa"`
	Probes  verifyProbes    `json:"probes"`
	Here    verifyHere      `json:"here"` // this host's word alone
	Peer    *verifyPeer     `json:"peer,omitempty"`
	Tap     *verifyTap      `json:"tap,omitempty"`
}

type verifySA struct {
	SPI   string `json:"spi"`
	Src   string `json:"src"`
	Dst   string `json:"dst"`
	Mode  string `json:"mode"`
	Reqid uint32 `json:"reqid"`
}

type verifyProbes struct {
	Protocol string `json:"protocol"` // udp, icmp or icmpv6
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	Sent     uint64 `json:"sent"`
	Carried  uint64 `json:"carried"` // packets of the SA meanwhile
	First    uint64 `json:"first_sequence"`
	Last     uint64 `json:"last_sequence"`
}

type verifyHere struct {
	Verdict   verdict.Verdict `json:"verdict"`
	Reason    verdict.Reason  `json:"reason"`
	Why       string          `json:"why"`
	Unchecked []string        `json:"unchecked,omitempty"`
}

type verifyPeer struct {
	Host     string          `json:"host"`
	Accepted uint64          `json:"accepted"`
	Forged   uint64          `json:"forged"`
	Replayed uint64          `json:"replayed"`
	Decrypts string          `json:"decrypts"` // cpu, nic, or userspace for a device of espalier's
	Control  verdict.Control `json:"control,omitempty"`
}

type verifyTap struct {
	ESP      uint64 `json:"esp"`
	Cut      uint64 `json:"cut"`
	Opened   uint64 `json:"opened"`
	Broken   uint64 `json:"broken"`
	Readable uint64 `json:"readable"`
	Reused   uint64 `json:"reused_nonces"`
}

func (r *verifyRun) show(sad sadChoice, f verify.Flow, report verify.Report) error {
	unmet := r.unmet(report)
	view := newVerifyView(sad, f, report, unmet == nil)
	var err error
	if r.format.isData() {
		err = writeData(r.stdout, r.format, view)
	} else {
		err = view.write(r.stdout, newScreen(r.stdout))
	}
	if err != nil {
		return err
	}
	return unmet
}

func newVerifyView(sad sadChoice, f verify.Flow, report verify.Report, ok bool) *verifyView {
	s, mode := f.SA, ipsec.Transport
	if s.Mode == xfrm.ModeTunnel {
		mode = ipsec.Tunnel
	}
	v := &verifyView{
		Schema: schemaOf("verify"), OK: ok, SAD: sad.name(), Result: report.Result, Verdict: report.Proof.Verdict, Why: report.Proof.Why,
		SA:     verifySA{s.SPI.String(), s.Src.String(), s.Dst.String(), mode.String(), s.Reqid},
		Probes: verifyProbes{probeProtocol(f.Protocol), f.Src.String(), f.Dst.String(), report.Sent, report.Counted, report.First, report.Last},
		Here:   verifyHere{report.Here.Verdict, report.Here.Reason, report.Here.Why, report.Here.Unchecked},
	}
	if w := report.Probed.Peer; w != nil {
		v.Peer = &verifyPeer{report.Peer, w.Accepted, w.Forged, w.Replayed, decrypts(w), w.Control}
	}
	if w := report.Probed.Tap; w != nil {
		tap := verifyTap(*w)
		v.Tap = &tap
	}
	return v
}

func probeProtocol(p uint8) string {
	switch p {
	case inet.ProtoICMP:
		return "icmp"
	case inet.ProtoICMPv6:
		return "icmpv6"
	}
	return "udp"
}

func decrypts(w *verdict.PeerWord) string {
	switch {
	case w.Userspace:
		return "userspace"
	case w.Offload == ipsec.NoOffload:
		return "cpu"
	}
	return "nic"
}

// write is for a person: the result first, then what it rests on.
func (v *verifyView) write(w io.Writer, s screen) error {
	head := fmt.Sprintf("%s %s→%s: %s", v.SA.SPI, v.SA.Src, v.SA.Dst, v.Result)
	if v.Result == verdict.Proven {
		head += fmt.Sprintf(", %s", v.Verdict)
	}
	probes := fmt.Sprintf("%d probes (%s %s→%s)", v.Probes.Sent, v.Probes.Protocol, v.Probes.Src, v.Probes.Dst)
	if v.Probes.Carried > 0 {
		probes += fmt.Sprintf(", sequence numbers %d–%d", v.Probes.First, v.Probes.Last)
	}
	lines := append([]string{probes}, v.Why...)
	if v.Result != verdict.Proven {
		lines = append(lines, fmt.Sprintf("here: %s, %s", v.Here.Verdict, v.Here.Why))
	}
	var b strings.Builder
	b.WriteString(strings.Join(wrap(head, s.width-2), "\n  ") + "\n")
	for _, line := range lines {
		b.WriteString("  " + strings.Join(wrap(line, s.width-4), "\n    ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
