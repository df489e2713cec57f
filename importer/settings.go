package importer

import (
	"fmt"
	"time"

	"espalier/config"
	"espalier/xfrm"
)

// settings are what the SAs of a group say beside the traffic.
func (im *importer) settings(g *group) config.Settings {
	set := config.Settings{Mark: g.settings.mark, IfID: g.settings.ifID}
	states := []*state{}
	for _, s := range g.states {
		if s != nil {
			states = append(states, s)
		}
	}
	if len(states) == 0 {
		im.lost(g.at, "no SA belongs to it: the file's defaults are taken")
		return set
	}
	first := states[0]
	im.algorithm(&set, first)
	im.encap(&set, first)
	im.offload(&set, states)
	im.numbers(&set, states)
	set.Lifetime = im.lifetime(first)
	if m := first.OutputMark; m != nil {
		set.OutputMark = config.Mark{Value: m.Value, Mask: m.Mask}
	}
	if first.PCPU != nil {
		set.SAs = config.SAs{By: config.SpreadCPU}
	}
	for _, s := range states {
		im.beyond(g, s)
	}
	return set
}

// algorithm: the file knows AES-GCM with an ICV of 128 bits alone.
func (im *importer) algorithm(set *config.Settings, s *state) {
	a := s.AEAD
	if a == nil || a.Name != xfrm.AEADName {
		im.lost(s.at, "another algorithm than %s: the file has AES-GCM", xfrm.AEADName)
		return
	}
	if a.ICVBits != 128 {
		im.lost(s.at, "an ICV of %d bits: the file has 128", a.ICVBits)
	}
	switch a.Key.Len() {
	case 20:
		set.KeySize = 128
	case 36: // the default
	case 0:
		im.note(s.at, "the key is not in the script: its size is taken to be 256 bits")
	default:
		im.lost(s.at, "an AES key of %d bits: the file has 256", 8*(a.Key.Len()-4))
	}
}

func (im *importer) encap(set *config.Settings, s *state) {
	e := s.Encap
	switch {
	case e == nil:
	case e.Type != xfrm.EncapESPInUDP:
		im.lost(s.at, "encap %s: the file has ESP in UDP", e.Type)
		set.Encap.Type = config.UDPEncap
	default:
		set.Encap.Type = config.UDPEncap
		if e.DstPort != 4500 && e.DstPort != 0 {
			set.Encap.Port = e.DstPort
		}
		if e.SrcPort != e.DstPort {
			im.lost(s.at, "UDP ports %d and %d: the file has one for both hosts", e.SrcPort, e.DstPort)
		}
	}
}

func (im *importer) offload(set *config.Settings, states []*state) {
	asked := map[config.Offload]bool{}
	for _, s := range states {
		switch {
		case s.Offload == nil:
			asked[config.NoOffload] = true
		case s.Offload.Flags&xfrm.OffloadPacket != 0:
			asked[config.PacketOffload] = true
		default:
			asked[config.CryptoOffload] = true
		}
	}
	for o := range asked {
		set.Offload = o
	}
	if len(asked) > 1 {
		im.lost(states[0].at, "the two directions differ in offload: the file has one for both, auto")
		set.Offload = config.AutoOffload
	}
	if s := states[0]; set.Encap.Type == config.UDPEncap && (set.Offload == config.CryptoOffload || set.Offload == config.PacketOffload && s.Mode == xfrm.ModeTunnel) {
		im.lost(s.at, "no NIC does this offload of ESP in UDP: the file has auto")
		set.Offload = config.AutoOffload
	}
	if s := states[0]; set.Offload == config.PacketOffload && s.Sel.Protocol != 0 && s.Sel.Protocol != 6 && s.Sel.Protocol != 17 {
		set.Offload = config.AutoOffload
	}
}

// numbers are ESN and the anti-replay window.
func (im *importer) numbers(set *config.Settings, states []*state) {
	esn := 0
	window := uint32(0)
	for _, s := range states {
		if s.Flags&xfrm.FlagESN != 0 {
			esn++
		}
		if s.ReplayWindow > window {
			window = s.ReplayWindow
		}
	}
	s := states[len(states)-1]
	switch {
	case esn == len(states):
		set.ESN = config.On
	case esn == 0:
		set.ESN = config.Off
		im.note(states[0].at, "no ESN, as in the script: with esn: auto sequence numbers last")
	default:
		im.lost(states[0].at, "ESN in one direction only: the file has it for both, where both hosts can")
	}
	switch {
	case window == 0:
		im.note(s.at, "no anti-replay window: the file has one, auto")
	case window < 32 || window > 4096, set.Offload == config.PacketOffload && window != 32 && window != 64 && window != 128 && window != 256:
		im.lost(s.at, "a replay window of %d packets: the file has auto", window)
	default:
		set.Window = config.Window(window)
	}
}

// lifetime: the file has hard limits, and soft ones below them.
func (im *importer) lifetime(s *state) (l config.Lifetime) {
	limits := s.Limits
	if limits.SoftUse != 0 || limits.HardUse != 0 {
		im.lost(s.at, "limits of time since the first use: the file has those since the SA was made")
	}
	take := func(what string, soft, hard, least, none uint64) (uint64, uint64) {
		switch {
		case hard == none && soft == none:
			return 0, 0
		case hard == none:
			im.lost(s.at, "a soft limit of %s without a hard one: the file has none", what)
			return 0, 0
		case hard < least || hard > most:
			im.lost(s.at, "a limit of %d %s: the file has none like it", hard, what)
			return 0, 0
		case soft == none || soft >= hard || soft < least/2:
			if soft != none {
				im.lost(s.at, "a soft limit of %d %s: the file has 80%% of the hard one", soft, what)
			}
			return 0, hard
		}
		return soft, hard
	}
	soft, hard := take("seconds", limits.SoftAdd, limits.HardAdd, 120, 0)
	l.Soft.Time, l.Time = config.Duration(time.Duration(soft)*time.Second), config.Duration(time.Duration(hard)*time.Second)
	soft, hard = take("bytes", limits.SoftBytes, limits.HardBytes, 1<<20, xfrm.Infinity)
	l.Soft.Bytes, l.Bytes = config.Bytes(soft), config.Bytes(hard)
	l.Soft.Packets, l.Packets = take("packets", limits.SoftPackets, limits.HardPackets, 1000, xfrm.Infinity)
	return l
}

// most of a limit that makes sense: of seconds ten years, of bytes and packets far less than it would take.
const most = 1 << 62

// beyond tells of what else an SA says.
func (im *importer) beyond(g *group, s *state) {
	tell := func(there bool, what string) {
		if there {
			im.lost(s.at, "%s: the file has no word for it", what)
		}
	}
	tell(s.TFCPad != 0, "tfcpad")
	tell(s.Flags&^xfrm.FlagESN != 0, "flag "+(s.Flags&^xfrm.FlagESN).String())
	tell(s.ExtraFlags != 0, fmt.Sprintf("extra-flag %#x", s.ExtraFlags))
	tell(s.SecCtx != nil, "ctx")
	tell(s.NATKeepalive != 0, "nat-keepalive")
	tell(s.MappingThresh != 0, "mapping-maxage")
	if m := markOf(s.Mark); m != g.settings.mark {
		im.lost(s.at, "the SA's mark is not that of its policy: the file has one for both, the policy's")
	}
	if s.Replay != nil {
		im.note(s.at, "sequence numbers begin anew, with new keys")
	}
}
