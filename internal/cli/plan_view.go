package cli

import (
	"espalier/config"
	"espalier/tunnel"
)

// planView is the JSON of `espalier plan`.
type planView struct {
	Schema   string           `json:"schema"`
	OK       bool             `json:"ok"`      // there is a plan
	Changes  bool             `json:"changes"` // there is anything to change
	Problems []config.Problem `json:"problems"`
	Notes    []config.Problem `json:"notes"`
	Hosts    []planHost       `json:"hosts"`
	Pairs    []planPair       `json:"pairs"`
	Order    []string         `json:"order"`             // of the change
	Scripts  []string         `json:"scripts,omitempty"` // files that were written, with keys in them
	Without  []string         `json:"without,omitempty"` // hosts that take no part
}

type planHost struct {
	Name    string       `json:"name"` // as the file reaches it
	Host    string       `json:"hostname"`
	Kernel  string       `json:"kernel"`
	Changes []planChange `json:"changes"`
}

type planChange struct {
	Sign    string `json:"sign"`    // + added, - removed, ~ changed
	Command string `json:"command"` // of ip xfrm, with the key hidden
}

type planPair struct {
	Tunnel        string          `json:"tunnel"`
	A             string          `json:"a"`
	B             string          `json:"b"`
	Action        tunnel.Action   `json:"action"` // keep, create, adjust, replace or remove
	Why           []string        `json:"why"`
	Choices       []tunnel.Choice `json:"choices"` // of what the file leaves open
	Traffic       string          `json:"traffic"` // what it sees of the change
	Notes         []string        `json:"notes"`
	RotateSeconds uint64          `json:"rotate_seconds"` // at the latest; 0: never
}

func viewPlan(file *config.File, p *tunnel.Plan) planView {
	view := planView{
		Schema: schemaOf("plan"), OK: true, Changes: p.Changes(), Problems: []config.Problem{}, Notes: append([]config.Problem{}, file.Notes...),
		Hosts: []planHost{}, Pairs: []planPair{}, Order: append([]string{}, p.Steps()...),
	}
	for i := range p.Hosts {
		h := planHost{Name: p.Hosts[i].Name, Host: p.Hosts[i].Facts.Hostname, Kernel: p.Hosts[i].Facts.Kernel, Changes: []planChange{}}
		for _, d := range p.Diff(i) {
			h.Changes = append(h.Changes, planChange{string(d.Sign), command(p, i, &d)})
		}
		view.Hosts = append(view.Hosts, h)
	}
	for i := range p.Pairs {
		pair := &p.Pairs[i]
		view.Pairs = append(view.Pairs, planPair{
			Tunnel: pair.Tunnel, A: pair.Ends[0].Local.String(), B: pair.Ends[0].Remote.String(), Action: pair.Action,
			Why: append([]string{}, pair.Why...), Choices: append([]tunnel.Choice{}, pair.Choices...), Traffic: pair.Traffic(),
			Notes: append([]string{}, pair.Notes...), RotateSeconds: uint64(pair.Rotate.Every.Seconds()),
		})
	}
	return view
}
