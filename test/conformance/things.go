package conformance

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// state is an outbound transport SA from Local to Peer.
func (e *env) state(spi ipsec.SPI, change ...func(*xfrm.State)) *xfrm.State {
	s := &xfrm.State{
		Src: e.Local, Dst: e.Peer, Proto: unix.IPPROTO_ESP, SPI: spi, Mode: xfrm.ModeTransport, Reqid: 7, Limits: xfrm.NoLimits,
		ReplayWindow: 32,
		AEAD:         &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.RandomKey(36), ICVBits: 128},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// outbound has a state send only.
func outbound(s *xfrm.State) { s.Dir, s.ReplayWindow = xfrm.StateDirOut, 0 }

// forCPU has a state send only what one CPU sends.
func forCPU(cpu uint32) func(*xfrm.State) {
	return func(s *xfrm.State) { outbound(s); s.PCPU = &cpu }
}

// addForCPUs installs an SA for each CPU there is, with SPIs from first on, and tells how many.
func (e *env) addForCPUs(first ipsec.SPI) (cpus uint32) {
	e.Helper()
	const most = 512
	for ; cpus < most; cpus++ {
		err := e.Client.AddState(e.ctx, e.state(first+ipsec.SPI(cpus), forCPU(cpus)))
		if errors.Is(err, unix.ERANGE) {
			break
		}
		e.must(err)
	}
	return cpus
}

// add installs SAs.
func (e *env) add(states ...*xfrm.State) {
	e.Helper()
	for _, s := range states {
		e.must(e.Client.AddState(e.ctx, s))
	}
}

// id is the name of an SA to Peer.
func (e *env) id(spi ipsec.SPI) xfrm.StateID {
	return xfrm.StateID{Dst: e.Peer, Proto: unix.IPPROTO_ESP, SPI: spi}
}

// larva asks for an SPI for an SA from Local to Peer.
func (e *env) larva(low, high uint32, change ...func(*xfrm.State)) (*xfrm.State, error) {
	s := &xfrm.State{Src: e.Local, Dst: e.Peer, Proto: unix.IPPROTO_ESP, Mode: xfrm.ModeTransport, Reqid: 7, Limits: xfrm.NoLimits}
	for _, f := range change {
		f(s)
	}
	return e.Client.AllocateSPI(e.ctx, &xfrm.SPIRange{State: s, Min: low, Max: high})
}

// policy is one that protects UDP from Local to Peer, in transport mode.
func (e *env) policy(change ...func(*xfrm.Policy)) *xfrm.Policy {
	p := &xfrm.Policy{
		Sel: xfrm.Selector{Selector: ipsec.Selector{
			Src: netip.PrefixFrom(e.Local, e.Local.BitLen()), Dst: netip.PrefixFrom(e.Peer, e.Peer.BitLen()), Protocol: unix.IPPROTO_UDP,
		}, Family: unix.AF_INET},
		Dir: xfrm.PolicyOut, Limits: xfrm.NoLimits,
		Tmpls: []xfrm.Tmpl{{Src: e.Local, Dst: e.Peer, Proto: unix.IPPROTO_ESP, Family: unix.AF_INET, Reqid: 7, AAlgos: ^uint32(0), EAlgos: ^uint32(0), CAlgos: ^uint32(0)}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

// elsewhere is a policy that no traffic falls under; n tells one from another.
func (e *env) elsewhere(n int, change ...func(*xfrm.Policy)) *xfrm.Policy {
	return e.policy(append([]func(*xfrm.Policy){func(p *xfrm.Policy) {
		p.Sel.Src, p.Sel.Dst = netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix(fmt.Sprintf("10.78.%d.0/24", n))
	}}, change...)...)
}

// install adds policies.
func (e *env) install(policies ...*xfrm.Policy) {
	e.Helper()
	for _, p := range policies {
		e.must(e.Client.AddPolicy(e.ctx, p))
	}
}

// read is a policy as the engine has it.
func (e *env) read(id xfrm.PolicyID) *xfrm.Policy {
	e.Helper()
	p, err := e.Client.GetPolicy(e.ctx, id)
	e.must(err)
	return p
}

// packets of the SA that carry 100 bytes of ESP payload in transport mode: UDP header and data.
const hundred = 92

// port is where datagrams go unless a case says otherwise.
const port = 7777

func (e *env) send(datagrams int) {
	e.Helper()
	e.must(e.Send(port, datagrams, hundred))
}
