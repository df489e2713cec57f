package trial

// Case is one kind of SA that is to be tried. Its fields have the words of `ip xfrm`.
type Case struct {
	Dir     string `json:"dir"`      // Out or In
	Offload string `json:"offload"`  // Crypto or Packet
	KeyBits uint32 `json:"key_bits"` // of AES, without the salt
	Mode    string `json:"mode"`     // Transport or Tunnel
	ESN     bool   `json:"esn"`
	Window  uint32 `json:"window"` // anti-replay window in packets; 0 for sending, where there is none
	Family  string `json:"family"` // IPv4 or IPv6
}

// The words of a Case.
const (
	Out, In           = "out", "in"
	Crypto, Packet    = "crypto", "packet"
	Transport, Tunnel = "transport", "tunnel"
	IPv4, IPv6        = "ipv4", "ipv6"
)

// usualWindow is that of receiving SAs where it is not the question: every driver that has a rule
// for windows takes it.
const usualWindow = 64

// otherWindows are asked for besides. mlx5_core takes 32, 64, 128 and 256 for packet offload; the
// kernel has no more than 4096 (XFRMA_REPLAY_ESN_MAX).
var otherWindows = []uint32{0, 32, 128, 256, 1024, 4096}

// Plan is what a trial asks, what matters most first.
//
// It is all of offload × key × mode × ESN × family × direction. Windows are asked for with one kind of
// key, mode and family: what a driver says of them hangs on offload and ESN alone. For sending there
// is no such question, since Linux 6.10 refuses a window there; and with ESN none goes without.
func Plan() []Case {
	var plan []Case
	for _, offload := range []string{Crypto, Packet} {
		for _, bits := range []uint32{256, 128, 192} {
			for _, mode := range []string{Transport, Tunnel} {
				for _, esn := range []bool{false, true} {
					for _, family := range []string{IPv4, IPv6} {
						c := Case{Dir: Out, Offload: offload, KeyBits: bits, Mode: mode, ESN: esn, Family: family}
						plan = append(plan, c)
						c.Dir, c.Window = In, usualWindow
						plan = append(plan, c)
					}
				}
			}
		}
	}
	for _, offload := range []string{Crypto, Packet} {
		for _, esn := range []bool{false, true} {
			for _, window := range otherWindows {
				if window == 0 && esn {
					continue
				}
				plan = append(plan, Case{Dir: In, Offload: offload, KeyBits: 256, Mode: Transport, ESN: esn, Window: window, Family: IPv4})
			}
		}
	}
	return plan
}

// asksWindow reports whether c is asked for its window.
func (c Case) asksWindow() bool {
	return c.Dir == In && c.KeyBits == 256 && c.Mode == Transport && c.Family == IPv4
}

// usual reports whether c has the window that is taken where it is not the question.
func (c Case) usual() bool { return c.Dir == Out || c.Window == usualWindow }
