package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"espalier/config"
)

// describeConfig says what a file means, a paragraph for each tunnel.
func describeConfig(w io.Writer, f *config.File) error {
	var b strings.Builder
	pairs := 0
	for i := range f.Tunnels {
		describeTunnel(&b, &f.Tunnels[i])
		pairs += len(f.Tunnels[i].Pairs)
	}
	fmt.Fprintf(&b, "%s: nothing is wrong: %s, %s of hosts\n", f.Name, plural(len(f.Tunnels), "tunnel"), plural(pairs, "pair"))
	_, err := io.WriteString(w, b.String())
	return err
}

func describeTunnel(b *strings.Builder, t *config.Tunnel) {
	if len(t.Hosts) == 2 {
		fold(b, t.Name+": ", []string{describeHost(&t.Hosts[0]), "↔ " + describeHost(&t.Hosts[1])}, " ")
		if len(t.Hosts[0].Subnets) > 0 {
			fold(b, hanging, []string{strings.Join(texts(t.Hosts[0].Subnets), ", "), "↔ " + strings.Join(texts(t.Hosts[1].Subnets), ", ")}, " ")
		}
	} else {
		fmt.Fprintf(b, "%s: mesh of %d hosts, %s\n", t.Name, len(t.Hosts), plural(len(t.Pairs), "pair"))
		for i := range t.Hosts {
			line := describeHost(&t.Hosts[i])
			if len(t.Hosts[i].Subnets) > 0 {
				line += " for " + strings.Join(texts(t.Hosts[i].Subnets), ", ")
			}
			b.WriteString(hanging + line + "\n")
		}
	}
	fold(b, hanging, describeSettings(t), ", ")
	if len(t.Selectors) > 0 {
		fold(b, hanging+"protects ", texts(t.Selectors), ", ")
	}
	if len(t.Bypass) > 0 {
		fold(b, hanging+"in clear ", texts(t.Bypass), ", ")
	}
	if limits := describeLimits(t); len(limits) > 0 {
		fold(b, hanging+"SAs end after ", limits, ", ")
	}
	if t.Rotate.Every == config.Never {
		b.WriteString(hanging + "never rotated\n")
	} else {
		fmt.Fprintf(b, "%srotated every %s, or at %s of the sequence numbers\n", hanging, t.Rotate.Every, t.Rotate.AtMostShare)
	}
}

func describeHost(h *config.Host) string {
	text := h.Address.String() + " (" + h.Dev
	if h.SSH != nil {
		text += ", " + h.SSH.To
	}
	return text + ")"
}

// describeSettings leaves out what is as ever.
func describeSettings(t *config.Tunnel) []string {
	s := []string{string(t.Mode), fmt.Sprintf("AES-GCM-%d", t.KeySize), "ESN " + string(t.ESN), "offload " + string(t.Offload)}
	if t.Encap.Type == config.UDPEncap {
		s = append(s, fmt.Sprintf("in UDP port %d", t.Encap.Port))
	}
	if t.Window != 0 {
		s = append(s, fmt.Sprintf("window %d", t.Window))
	}
	if t.Engine != config.AnyEngine {
		s = append(s, "engine "+string(t.Engine))
	}
	if t.SAs.By != config.SpreadAuto {
		s = append(s, map[config.Spread]string{config.SpreadCount: plural(int(t.SAs.Count), "SA"), config.SpreadCPU: "an SA for each CPU", config.SpreadPorts: "an SA for each port"}[t.SAs.By])
	}
	if t.Mark.Mask != 0 {
		s = append(s, "mark "+t.Mark.String())
	}
	if t.OutputMark.Mask != 0 {
		s = append(s, "output-mark "+t.OutputMark.String())
	}
	if t.IfID != 0 {
		s = append(s, fmt.Sprintf("if_id %d", t.IfID))
	}
	return s
}

func describeLimits(t *config.Tunnel) (limits []string) {
	l := t.Lifetime
	if l.Time > 0 {
		limits = append(limits, fmt.Sprintf("%s (soft %s)", l.Time, l.Soft.Time))
	}
	if l.Bytes > 0 {
		limits = append(limits, fmt.Sprintf("%s (soft %s)", l.Bytes, l.Soft.Bytes))
	}
	if l.Packets > 0 {
		limits = append(limits, fmt.Sprintf("%s (soft %d)", plural(int(l.Packets), "packet"), l.Soft.Packets))
	}
	return limits
}

const (
	hanging   = "    "
	lineWidth = 96
)

// fold writes parts on one line, or where that gets too long on several.
func fold(b *strings.Builder, start string, parts []string, between string) {
	line := start
	for i, part := range parts {
		if i > 0 {
			if utf8.RuneCountInString(line+between+part) > lineWidth {
				b.WriteString(line + strings.TrimRight(between, " ") + "\n")
				line = hanging + hanging
			} else {
				line += between
			}
		}
		line += part
	}
	b.WriteString(line + "\n")
}
