package config

import (
	"fmt"
	"strconv"
	"strings"
)

// A group of settings that mostly is one value may be written as that value alone.

func (h *Host) UnmarshalText(text []byte) (err error) {
	h.Address, err = parseAddress(string(text))
	return err
}

func (s *SSH) UnmarshalText(text []byte) error {
	s.To = string(text)
	return nil
}

func (s SSH) MarshalYAML() (any, error) {
	if s == (SSH{To: s.To}) {
		return s.To, nil
	}
	type whole SSH
	return whole(s), nil
}

func (e *Encap) UnmarshalText(text []byte) error {
	word, ok := chosen(e.Type, string(text))
	if !ok {
		return &wrong{"encap cannot be " + quoted(string(text)), "write " + oneOf(e.Type.Words())}
	}
	e.Type = EncapType(word)
	return nil
}

func (e Encap) MarshalYAML() (any, error) {
	if e.Port == 0 {
		return string(e.Type), nil
	}
	type whole Encap
	return whole(e), nil
}

func (s *Soft) UnmarshalText(text []byte) error { return s.Share.UnmarshalText(text) }

func (s Soft) MarshalYAML() (any, error) {
	if s.Share != 0 && s == (Soft{Share: s.Share}) {
		return s.Share.String(), nil
	}
	type whole Soft
	return whole(s), nil
}

func (r *Rotate) UnmarshalText(text []byte) error { return r.Every.UnmarshalText(text) }

func (r Rotate) MarshalYAML() (any, error) {
	if r.AtMostShare == 0 && r.Every != 0 {
		return r.Every.String(), nil
	}
	type whole Rotate
	return whole(r), nil
}

func (t *Traffic) UnmarshalText(text []byte) error {
	protocol, port, hasPort := strings.Cut(string(text), "/")
	if isNumber(protocol) && !hasPort && len(protocol) > 3 {
		return &wrong{fmt.Sprintf("%s is no traffic", quoted(string(text))), fmt.Sprintf("write tcp/%s for a port", protocol)}
	}
	if err := t.Protocol.UnmarshalText([]byte(protocol)); err != nil || !hasPort {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return &wrong{fmt.Sprintf("port %s is no number", quoted(port)), "write tcp/22; several as {protocol: tcp, ports: [80, 443]}, ranges there are none"}
	}
	t.Ports = []uint16{uint16(n)}
	return nil
}

// String is as short as the file may have it.
func (t Traffic) String() string {
	text := t.Protocol.String()
	for i, p := range t.Ports {
		text += []string{"/", ","}[min(i, 1)] + strconv.Itoa(int(p))
	}
	if t.At.IsValid() {
		text += " at " + t.At.String()
	}
	return text
}

func (t Traffic) MarshalYAML() (any, error) {
	if len(t.Ports) <= 1 && !t.At.IsValid() {
		if text := t.String(); !isNumber(text) {
			return text, nil
		}
	}
	whole := struct {
		Protocol Protocol `yaml:"protocol"`
		Ports    []uint16 `yaml:"ports,omitempty,flow"`
		At       string   `yaml:"at,omitempty"`
	}{Protocol: t.Protocol, Ports: t.Ports}
	if t.At.IsValid() {
		whole.At = t.At.String()
	}
	return whole, nil
}
