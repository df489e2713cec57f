package guest

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

const (
	offloaded        = "accepted, offload flags 0x0"
	offloadedInbound = "accepted, offload flags 0x2"
)

// What a NIC as strict as a ConnectX refuses, in its order and words, and what one takes that
// does all its engine can. Of the strict reasons these are out of reach from user space:
//
//   - 3, compression: the kernel takes no compression algorithm with ESP;
//   - 5, neither IPv4 nor IPv6, and 6, not ESP: nothing else has an offload;
//   - 8, no AEAD: an SA without has no AES-GCM, which is reason 2;
//   - 9, another ICV than 128 bits: makes another algorithm, which is reason 2;
//   - 11, TFC padding: the kernel refuses that itself;
//   - 12 and 13, geniv: the kernel has one for each algorithm, and for AES-GCM it is seqiv.
func TestNICRefusals(t *testing.T) {
	const (
		labnic = einval + ": labnic: "
		engine = "The engine does ESP with AES-GCM only"
		// What 6.1 says of every refusal of a device; the device's reason is in the log.
		failed = einval + ": Device failed to offload this state; kernel log: p4p1: "
		key128 = "0x000102030405060708090a0b0c0d0e0f"
	)
	refused := func(reason string) [2]string { return [2]string{labnic + reason, failed + reason} }
	both := func(result string) [2]string { return [2]string{result, result} }
	tests := []struct {
		name            string
		words           string
		parameter       string    // set to 0 for this case
		strict, lenient [2]string // from 6.12 on, on 6.1
	}{
		{name: "AES-256, ICV of 128 bits, outbound", words: state + aead + "128" + offload,
			strict: both(offloaded), lenient: both(offloaded)},
		{name: "AES-256, ICV of 128 bits, inbound", words: state + aead + "128 offload dev p4p1 dir in",
			strict: both(offloadedInbound), lenient: both(offloadedInbound)},
		{name: "tunnel mode", words: tunnel + aead + "128" + offload,
			strict: both(offloaded), lenient: both(offloaded)},
		{name: "reason 1, authentication apart", words: state + "auth hmac(sha256) " + key256 + " enc cbc(aes) " + key128 + offload,
			strict: refused("An authenticated xfrm state cannot be offloaded"), lenient: refused(engine)},
		{name: "reason 2, encryption without AEAD", words: state + "enc rfc3686(ctr(aes)) " + key256 + offload,
			strict: refused("Only AES-GCM-ICV16 xfrm state may be offloaded"), lenient: refused(engine)},
		{name: "reason 2, ICV of 64 bits", words: state + aead + "64" + offload,
			strict: refused("Only AES-GCM-ICV16 xfrm state may be offloaded"), lenient: both(offloaded)},
		{name: "reason 2, ICV of 96 bits", words: state + aead + "96" + offload,
			strict: refused("Only AES-GCM-ICV16 xfrm state may be offloaded"), lenient: both(offloaded)},
		{name: "ESN", words: state + "flag esn replay-window 64 " + aead + "128" + offload,
			strict: both(offloaded), lenient: both(offloaded)},
		{name: "reason 4, ESN, on a device that has none", words: state + "flag esn replay-window 64 " + aead + "128" + offload, parameter: "esn",
			strict: refused("An ESN xfrm state cannot be offloaded"), lenient: refused("The engine does no ESN")},
		{name: "reason 7, UDP encapsulation", words: state + aead + "128 encap espinudp 4500 4500 0.0.0.0" + offload,
			strict:  [2]string{labnic + "An encapsulated xfrm state cannot be offloaded", einval + ": Encapsulation and TFC padding can't be offloaded"},
			lenient: [2]string{labnic + "The engine does neither encapsulation nor TFC padding", einval + ": Encapsulation and TFC padding can't be offloaded"}},
		{name: "reason 10, AES-192", words: state + "aead rfc4106(gcm(aes)) " + key192 + " 128" + offload,
			strict: refused("The AEAD key must have 128 or 256 bits"), lenient: both(offloaded)},
		{name: "reason 14, selector of ICMP", words: state + aead + "128" + offload + " sel src 192.168.1.64 dst 192.168.1.65 proto icmp",
			strict: refused("The selector's protocol must be TCP, UDP or any"), lenient: both(offloaded)},
		{name: "selector of TCP", words: state + aead + "128" + offload + " sel src 192.168.1.64 dst 192.168.1.65 proto tcp",
			strict: both(offloaded), lenient: both(offloaded)},
		{name: "reason 15, BEET mode", words: strings.Replace(state, "transport", "beet", 1) + aead + "128" + offload,
			strict:  refused("Only transport and tunnel mode may be offloaded"),
			lenient: refused("The engine does transport and tunnel mode only")},
		{name: "reason 16, packet offload", words: state + aead + "128 offload packet dev p4p1 dir out",
			strict:  [2]string{labnic + "Packet offload is not supported", einval + ": Unrecognized flags in offload request"},
			lenient: [2]string{labnic + "Packet offload is not supported", einval + ": Unrecognized flags in offload request"}},
	}
	l := newNICLab(t, "p4p1")
	log := openKernelLog(t)
	for _, kind := range []struct{ strict, section string }{
		{"1", "State add, on the lab's NIC, as strict as a ConnectX"},
		{"0", "State add, on the lab's NIC, taking all it can do"},
	} {
		setParameter(t, "strict", kind.strict)
		for _, tt := range tests {
			t.Run(kind.strict+" "+tt.name, func(t *testing.T) {
				if tt.parameter != "" {
					setParameter(t, tt.parameter, "0")
				}
				want := tt.strict
				if kind.strict == "0" {
					want = tt.lenient
				}
				l.wantAnswer(t, log, kind.section, tt.name, tt.words, want)
			})
		}
	}
}

// wantAnswer has the kernel answer a command; want is from 6.12 on, and on 6.1.
func (l *nicLab) wantAnswer(t *testing.T, log kernelLog, section, name, words string, want [2]string) {
	t.Helper()
	log.read(t, "")
	got := l.answer(t, words)
	if said := log.read(t, l.Device+": "); strings.HasPrefix(got, "refused") && said != "" {
		got += "; kernel log: " + said
	}
	Tell(section, name, got)
	if want := forKernel(t, want[0], want[1]); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// answer is what came of a `state add`: by our client, and by iproute2 where that has words which
// espalier has not.
func (l *nicLab) answer(t *testing.T, words string) string {
	t.Helper()
	c := l.kernel[l.A]
	if !strings.Contains(words, " enc ") {
		return outcome(t, c, parse(t, l.A, words).State)
	}
	r := l.A.Command("ip", strings.Fields("xfrm "+words)...)
	switch message, said := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(r.Stderr), "."), "Error: "); {
	case r.Code == 0:
		return whoEncrypts(t, c, parse(t, l.A, state+aead+"128").State.ID())
	case said:
		return einval + ": " + message // the kernel has given words with it, and iproute2 only those
	default:
		return "refused: " + strings.ToLower(strings.TrimPrefix(message, "RTNETLINK answers: "))
	}
}

// Ways of a NIC to fail when an SA is added.
func TestNICFaultsOnAdd(t *testing.T) {
	const section = "State add, when the lab's NIC fails"
	const words = state + aead + "128" + offload
	l := newNICLab(t, "p4p1")
	log := openKernelLog(t)
	for _, tt := range []struct {
		fault string
		want  [2]string
	}{
		{"none", [2]string{offloaded, offloaded}},
		{"eopnotsupp", [2]string{software, software}},
		{"einval", [2]string{einval + ": labnic: Refused by the fault einval", einval + ": Device failed to offload this state; kernel log: p4p1: Refused by the fault einval"}},
		{"mute", [2]string{einval + ": Device failed to offload this state", einval + ": Device failed to offload this state"}},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			setParameter(t, "fault", tt.fault)
			l.wantAnswer(t, log, section, "fault "+tt.fault, words, tt.want)
		})
	}
	t.Run("full", func(t *testing.T) {
		setParameter(t, "max_sas", "2")
		for spi := range 2 {
			l.apply(t, l.A, strings.Replace(words, "0x1000", fmt.Sprintf("%#x", 0x2000+spi), 1))
		}
		full := [2]string{"refused: no space left on device: labnic: No space in the SA table", "refused: no space left on device: Device failed to offload this state; kernel log: p4p1: No space in the SA table"}
		l.wantAnswer(t, log, section, "one SA more than it holds", words, full)
		l.wantAnswer(t, log, section, "one more, in software", state+aead+"128", [2]string{software, software})
		l.apply(t, l.A, "state flush")
		l.wantAnswer(t, log, section, "after a flush", words, [2]string{offloaded, offloaded})
	})
	t.Run("policy", func(t *testing.T) {
		p := parse(t, l.A, "policy add src 192.168.1.64 dst 192.168.1.65 dir out offload packet dev p4p1 tmpl "+ends+"mode transport").Policy
		got := software
		if err := l.kernel[l.A].AddPolicy(context.Background(), p); err != nil {
			got = refusal(t, err)
		}
		Tell("Policy add, on the lab's NIC", "packet offload", got)
		if want := forKernel(t, einval+": Policy offload is not supported", software); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// A device that does not exist: the kernel takes the one of the route to the other end.
func TestNICByRoute(t *testing.T) {
	const section = "State add, crypto offload to a device that does not exist"
	l := newNICLab(t, "p4p1")
	own := parse(t, l.A, state+aead+"128"+offload).State.Offload.Ifindex
	for _, tt := range []struct {
		name, dst, dir, want string
	}{
		{"the route goes by a NIC that offloads, outbound", "192.168.1.65", "out", "accepted, offloaded to the route's device"},
		{"the route goes by a NIC that offloads, inbound", "192.168.1.65", "in", "accepted, offloaded to the route's device"},
		{"the route goes by lo", "127.0.0.1", "out", software},
		{"there is no route", "198.51.100.1", "out", software},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := "192.168.1.64"
			if tt.dir == "in" {
				src, tt.dst = tt.dst, src
			}
			ends := "src " + src + " dst " + tt.dst
			s := parse(t, l.A, strings.Replace(state, "src 192.168.1.64 dst 192.168.1.65", ends, 1)+aead+"128 offload dev p4p1 dir "+tt.dir).State
			elsewhere(s)
			ctx := context.Background()
			if err := l.kernel[l.A].AddState(ctx, s); err != nil {
				t.Fatal(err)
			}
			back, err := l.kernel[l.A].GetState(ctx, s.ID())
			if err != nil {
				t.Fatal(err)
			}
			got := software
			if back.Offload != nil {
				got = fmt.Sprintf("accepted, offloaded to device %d", back.Offload.Ifindex)
				if back.Offload.Ifindex == own {
					got = "accepted, offloaded to the route's device"
				}
			}
			Tell(section, tt.name, got)
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
