package config

import "espalier/ipsec"

// Choices, as they are written. The empty word is "not said" and is gone once a file is resolved.
type (
	Mode      string // transport or tunnel
	Switch    string // auto, on or off
	EncapType string // none or udp
	Engine    string // auto, kernel or userspace
	Offload   string // no, crypto, packet, auto or require
)

const (
	Transport  Mode = "transport"
	TunnelMode Mode = "tunnel"

	Auto Switch = "auto"
	On   Switch = "on"
	Off  Switch = "off"

	NoEncap  EncapType = "none"
	UDPEncap EncapType = "udp"

	AnyEngine Engine = "auto"
	Kernel    Engine = "kernel"
	Userspace Engine = "userspace"

	NoOffload      Offload = "no"
	CryptoOffload  Offload = "crypto"
	PacketOffload  Offload = "packet"
	AutoOffload    Offload = "auto"
	RequireOffload Offload = "require"
)

// Words are what may be written.
func (Mode) Words() []string      { return []string{"transport", "tunnel"} }
func (Switch) Words() []string    { return []string{"auto", "on", "off"} }
func (EncapType) Words() []string { return []string{"none", "udp"} }
func (Engine) Words() []string    { return []string{"auto", "kernel", "userspace"} }
func (Offload) Words() []string   { return []string{"no", "crypto", "packet", "auto", "require"} }

// IPsec is the mode in the vocabulary of RFC 4301.
func (m Mode) IPsec() ipsec.Mode {
	if m == TunnelMode {
		return ipsec.Tunnel
	}
	return ipsec.Transport
}

type choice interface{ Words() []string }

// chosen is the word of c that text stands for. YAML's other words for true and false are taken for
// on and off, or no: programs that rewrite YAML exchange them.
func chosen(c choice, text string) (string, bool) {
	same := map[string][]string{"true": {"on"}, "yes": {"on"}, "false": {"off", "no"}, "off": {"no"}, "no": {"off"}}
	for _, want := range append([]string{text}, same[text]...) {
		for _, word := range c.Words() {
			if word == want {
				return word, true
			}
		}
	}
	return "", false
}
