package tunnel

import (
	"fmt"
	"slices"
	"strings"

	"espalier/config"
	"espalier/ipsec"
)

// kernelName is that of the kernel's engine.
const kernelName = "kernel"

// side is one end of a pair in the making.
type side struct {
	*place
	name   string // of the host
	of     *config.Host
	engine *Engine
	// offload of the SAs, and whether it counts for those that receive, too
	offload  ipsec.OffloadMode
	receives bool
	window   uint32    // of inbound SAs
	cpus     []*uint32 // of the outbound SAs of each lane; nil: any
}

// lack is a reason for which an engine will not do.
type lack struct{ setting, what, instead string }

// lacks are what an engine does not have of what a tunnel asks for.
func (e *Engine) lacks(t *config.Tunnel) (lacks []lack) {
	add := func(setting, what, instead string) { lacks = append(lacks, lack{setting, what, instead}) }
	userspace := e.Device != ""
	if setting := t.KernelOnly(); userspace && setting != "" {
		add(settingOf(setting), "cannot have "+setting, "leave "+settingOf(setting)+" out, or have the kernel do ESP there")
	}
	if esp := e.esp(t); esp.Can == No {
		add("engine", reason("does no ESP", esp), "")
		return lacks
	}
	if t.ESN == config.On && e.ESN.Can == No {
		add("esn", reason("has no ESN", e.ESN), "write esn: auto")
	}
	if t.Encap.Type == config.UDPEncap && e.UDP.Can == No {
		add("encap", reason("does no ESP in UDP", e.UDP), "write encap: none")
	}
	if e.MaxWindow > 0 && uint32(t.Window) > e.MaxWindow {
		add("window", fmt.Sprintf("has windows of up to %d packets, not %d", e.MaxWindow, t.Window), "write window: auto")
	}
	several := t.SAs.By == config.SpreadCPU || t.SAs.By == config.SpreadCount && t.SAs.Count > 1
	switch {
	case several && e.PCPU.Can == No:
		add("sas", reason("cannot tie an SA to a CPU", e.PCPU), "write sas: ports, with a port for each SA in selectors, or sas: auto")
	case t.SAs.By == config.SpreadCount && e.Lanes > 0 && int(t.SAs.Count) > e.mostSAs():
		add("sas", fmt.Sprintf("has %d %s, so that %d SAs are of no use", e.Lanes, e.lanesAre(), t.SAs.Count), fmt.Sprintf("write up to %d, or auto", e.mostSAs()))
	}
	return lacks
}

// esp is whether it does ESP in the family of a tunnel's hosts.
func (e *Engine) esp(t *config.Tunnel) Answer {
	if t.Hosts[0].Address.Is6() {
		return e.ESP6
	}
	return e.ESP
}

// lanesAre is what an engine has several of.
func (e *Engine) lanesAre() string {
	if e.Device != "" {
		return "queues"
	}
	return "CPUs"
}

// mostSAs are one for each lane; with the kernel, where CPUs come and go, one more for all others.
func (e *Engine) mostSAs() int {
	if e.Device != "" {
		return e.Lanes
	}
	return e.Lanes + 1
}

// settingOf is the setting in "offload: require".
func settingOf(text string) string {
	name, _, _ := strings.Cut(text, ":")
	return name
}

func reason(what string, a Answer) string {
	if a.Why == "" {
		return what
	}
	return what + ": " + a.Why
}

// chooseEngine follows the file, else takes the one that has the pair already, else the kernel where it can, else
// the device's own.
func (m *maker) chooseEngine(t *config.Tunnel, s *side, had *Owned) (why string, ok bool) {
	kernel := s.facts.Engine(kernelName)
	var userspace *Engine
	for i := range s.facts.Engines {
		if e := &s.facts.Engines[i]; e.Device == s.device.Name {
			userspace = e
		}
	}
	missing := fmt.Sprintf("no userspace device runs for %s", s.device.Name)
	start := fmt.Sprintf("start one there: espalier dataplane --dev %s", s.device.Name)
	refuse := func(e *Engine) {
		for _, l := range e.lacks(t) {
			instead := l.instead
			if l.setting == "engine" && e.Device == "" {
				instead = start
			}
			m.problem(t.Place(l.setting), fmt.Sprintf("%s of %s %s", e.words(), s.name, l.what), instead)
		}
	}
	switch t.Engine {
	case config.Kernel:
		s.engine = kernel
		if kernel == nil {
			m.problem(t.Place("engine"), fmt.Sprintf("engine is kernel, and %s was asked for another SAD", s.name), "write engine: auto, or leave --sad out")
			return "", false
		}
		refuse(kernel)
	case config.Userspace:
		s.engine = userspace
		if userspace == nil {
			m.problem(t.Place("engine"), fmt.Sprintf("engine is userspace, and on %s %s", s.name, missing), start)
			return "", false
		}
		refuse(userspace)
	default:
		candidates := []*Engine{kernel, userspace}
		if had != nil && userspace != nil && had.Engine == userspace.Name {
			candidates = []*Engine{userspace, kernel}
		}
		s.engine, why = pick(t, candidates, had)
		if s.engine != nil {
			break
		}
		if userspace == nil && kernel != nil {
			if lacks := kernel.lacks(t); lacks[0].setting != "engine" {
				refuse(kernel)
				return "", false
			}
		}
		if userspace != nil {
			start = userspace.lacks(t)[0].instead
		}
		m.problem(t.Place("engine"), fmt.Sprintf("nobody on %s does ESP for this: %s", s.name, whyNot(t, kernel, userspace, missing)), start)
		return "", false
	}
	if had != nil && had.Engine != s.engine.Name {
		m.problem(t.Place("engine"), fmt.Sprintf("on %s tunnel %s is set up in %s, and would now be in %s", s.name, t.Name, had.Engine, s.engine.Name), "espalier down, then apply again")
		return "", false
	}
	return why, true
}

// pick takes the first engine that lacks nothing.
func pick(t *config.Tunnel, candidates []*Engine, had *Owned) (e *Engine, why string) {
	var before []string
	for _, e := range candidates {
		if e == nil {
			continue
		}
		lacks := e.lacks(t)
		switch {
		case len(lacks) > 0:
			before = append(before, fmt.Sprintf("%s %s", e.words(), lacks[0].what))
		case had != nil && had.Engine == e.Name:
			return e, "it has the tunnel already"
		case len(before) > 0:
			return e, before[0]
		case e.Device == "":
			return e, "it can all that is asked for"
		default:
			return e, "it runs for " + e.Device
		}
	}
	return nil, ""
}

// whyNot is why no engine will do.
func whyNot(t *config.Tunnel, kernel, userspace *Engine, missing string) string {
	var whys []string
	for _, e := range []*Engine{kernel, userspace} {
		if e != nil {
			whys = append(whys, fmt.Sprintf("%s %s", e.words(), e.lacks(t)[0].what))
		}
	}
	if userspace == nil {
		whys = append(whys, missing)
	}
	return strings.Join(whys, "; ")
}

func (e *Engine) words() string {
	if e.Device != "" {
		return "the userspace device"
	}
	return "the kernel"
}

// crypto is whether the NIC does crypto offload for a tunnel.
func (s *side) crypto(t *config.Tunnel, esn bool) Answer {
	a := s.device.Crypto
	if a.Can == No {
		return a
	}
	lacks := func(l Lack) bool { return slices.Contains(s.device.Lacks, l) }
	no := func(why string) Answer { return Answer{No, why} }
	switch {
	case t.Encap.Type == config.UDPEncap:
		return no("no NIC does crypto offload of ESP in UDP")
	case t.Mode == config.TunnelMode && lacks(LacksTunnel):
		return no(s.device.without(LacksTunnel))
	case t.KeySize == 256 && lacks(LacksAES256):
		return no(s.device.without(LacksAES256))
	case esn && lacks(LacksESN):
		return no(s.device.without(LacksESN))
	}
	return a
}

func (d *Device) without(l Lack) string {
	return fmt.Sprintf("the NIC of %s (%s) offloads without %s", d.Name, d.Driver, l)
}

// packet is whether the NIC does packet offload for a tunnel.
func (s *side) packet(t *config.Tunnel) Answer {
	a := s.device.Packet
	if a.Can == No {
		return a
	}
	selects := func(traffic config.Traffic) bool {
		return !slices.Contains([]config.Protocol{0, 6, 17}, traffic.Protocol)
	}
	switch {
	case slices.ContainsFunc(slices.Concat(t.Selectors, t.Bypass), selects):
		return Answer{No, "with packet offload the NIC selects, and knows only tcp, udp and any"}
	case t.Window != 0 && !slices.Contains(packetWindows, uint32(t.Window)):
		return Answer{No, fmt.Sprintf("with packet offload there is no window of %d packets", t.Window)}
	case t.Encap.Type == config.UDPEncap && t.Mode == config.TunnelMode:
		return Answer{No, "no NIC offloads ESP in UDP in tunnel mode"}
	}
	return a
}

// packetWindows are those that mlx5_core has with packet offload.
var packetWindows = []uint32{32, 64, 128, 256}

// chooseOffload follows the file as far as the NIC can. why is empty if nothing was left open.
func (m *maker) chooseOffload(t *config.Tunnel, s *side, esn bool) (why string, ok bool) {
	s.receives = !slices.Contains(s.device.Lacks, LacksReceiving)
	crypto, packet := s.crypto(t, esn), s.packet(t)
	if s.engine.Device != "" {
		crypto, packet = Answer{No, "the userspace device encrypts on the CPU"}, Answer{No, "packet offload is the kernel's"}
	}
	setting := "offload"
	switch t.Offload {
	case config.NoOffload:
		return "", true
	case config.CryptoOffload:
		if crypto.Can == No {
			return crypto.Why, true
		}
		s.offload = ipsec.CryptoOffload
		return orWhy(crypto), true
	case config.PacketOffload:
		if packet.Can == No {
			m.problem(t.Place(setting), fmt.Sprintf("%s of %s has no packet offload for this: %s", s.device.Name, s.name, packet.Why), "write offload: auto")
			return "", false
		}
		s.offload = ipsec.PacketOffload
		return orWhy(packet), true
	case config.RequireOffload:
		switch {
		case packet.Can == Yes:
			s.offload = ipsec.PacketOffload
			return "the most that the NIC does", true
		case crypto.Can == No:
			m.problem(t.Place(setting), fmt.Sprintf("offload is required, and %s of %s has none for this: %s", s.device.Name, s.name, crypto.Why), "write offload: auto")
			return "", false
		case !s.receives:
			m.problem(t.Place(setting), fmt.Sprintf("offload is required, and %s", s.device.without(LacksReceiving)), "write offload: auto")
			return "", false
		}
		s.offload = ipsec.CryptoOffload
		return orWhy(crypto), true
	}
	switch {
	case packet.Can == Yes:
		s.offload = ipsec.PacketOffload
		return "the most that the NIC does", true
	case crypto.Can == Yes:
		s.offload = ipsec.CryptoOffload
		if packet.Can == Unknown {
			return "esp-hw-offload is on; whether it does packet offload only trying shows", true
		}
		return "esp-hw-offload is on", true
	}
	return crypto.Why, true
}

// orWhy tells of what is not known beforehand.
func orWhy(a Answer) string {
	if a.Can == Unknown {
		return reason("not known beforehand", a)
	}
	return ""
}

// chooseESN follows the file, else takes 64 bits where both engines, and NICs that are to encrypt, can.
func chooseESN(t *config.Tunnel, sides *[2]side) (esn bool, why string) {
	if t.ESN != config.Auto {
		return t.ESN == config.On, ""
	}
	for i := range sides {
		s := &sides[i]
		if s.engine.ESN.Can == No {
			return false, fmt.Sprintf("%s of %s %s", s.engine.words(), s.name, reason("has none", s.engine.ESN))
		}
		wantsNIC := t.Offload != config.NoOffload && t.Offload != config.PacketOffload && s.engine.Device == ""
		if wantsNIC && s.crypto(t, false).Can == Yes && s.crypto(t, true).Can == No {
			return false, s.device.without(LacksESN)
		}
	}
	return true, "both hosts can"
}

// usualWindow is that of an engine that does not say what it can, in packets.
const usualWindow = 64

// chooseWindow follows the file, else takes the largest.
func chooseWindow(t *config.Tunnel, s *side) (why string) {
	if t.Window != 0 {
		s.window = uint32(t.Window)
		return ""
	}
	switch {
	case s.offload == ipsec.PacketOffload:
		s.window = packetWindows[len(packetWindows)-1]
		return "the largest with packet offload"
	case s.engine.MaxWindow == 0:
		s.window = usualWindow
		return "it is not known what the engine can"
	}
	s.window = s.engine.MaxWindow
	return "the largest there is"
}

// chooseSAs lays out how many SAs there are for a lane, and which CPU each is for.
func chooseSAs(t *config.Tunnel, s *side) (why string) {
	n := func(i int) *uint32 { cpu := uint32(i); return &cpu }
	lanes, userspace := s.engine.Lanes, s.engine.Device != ""
	switch t.SAs.By {
	case config.SpreadCPU:
		s.cpus = []*uint32{nil} // for CPUs that come later
		for i := range lanes {
			s.cpus = append(s.cpus, n(i))
		}
	case config.SpreadCount:
		count := int(t.SAs.Count)
		if !userspace || count != lanes || count == 1 {
			s.cpus = []*uint32{nil} // for the other CPUs or queues, whose number may not be known
			count--
		}
		for i := range count {
			s.cpus = append(s.cpus, n(i))
		}
	case config.SpreadAuto:
		if userspace && lanes > 1 && s.engine.PCPU.Can == Yes {
			for i := range lanes {
				s.cpus = append(s.cpus, n(i))
			}
			return fmt.Sprintf("one for each queue of the userspace device of %s", s.name)
		}
		s.cpus = []*uint32{nil}
		return "one carries all traffic"
	default:
		s.cpus = []*uint32{nil}
	}
	return ""
}
