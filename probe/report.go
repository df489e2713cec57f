package probe

import "slices"

// Readiness of a device for crypto offload.
type Readiness string

const (
	Ready    Readiness = "READY"
	NotReady Readiness = "NOT READY"
	Unclear  Readiness = "UNKNOWN"
)

// badness orders them: what is known to be missing is worse than what is not known.
var badness = map[Readiness]int{Ready: 0, Unclear: 1, NotReady: 2}

func (r Readiness) worse(than Readiness) bool { return badness[r] > badness[than] }

// Worst is the worse of the two: of several devices or hosts, that of all of them.
func (r Readiness) Worst(of Readiness) Readiness {
	if of.worse(r) {
		return of
	}
	return r
}

// Report on a host.
type Report struct {
	Host         string    `json:"host"`
	Kernel       string    `json:"kernel"`             // release, "6.12.0-21-amd64"
	Distribution string    `json:"distribution"`       // PRETTY_NAME of os-release
	Readiness    Readiness `json:"readiness"`          // the worst of the devices or, if there are none, of the host
	Reason       string    `json:"reason"`             // as a Device's
	Warnings     []string  `json:"warnings,omitempty"` // as a Device's
	Layers       []Layer   `json:"layers"`             // of the host as a whole
	Devices      []Device  `json:"devices"`
	AsRoot       bool      `json:"as_root"`          // who asked was root
	Unseen       []string  `json:"unseen,omitempty"` // files and commands that who asked was not let see
}

// Conclude judges all devices and the host by their checks.
func (r *Report) Conclude() {
	r.Readiness, r.Reason = Judge(r.Layers)
	r.Warnings = warnings(r.Layers)
	for i := range r.Devices {
		d := &r.Devices[i]
		d.Readiness, d.Reason = Judge(r.Layers, d.Layers)
		d.Warnings = warnings(r.Layers, d.Layers)
		if i == 0 || d.Readiness.worse(r.Readiness) {
			r.Readiness, r.Reason = d.Readiness, d.Reason
		}
	}
}

// Device is what was found of one network device.
type Device struct {
	Name      string    `json:"name"`
	Readiness Readiness `json:"readiness"`
	Reason    string    `json:"reason"` // "" for READY: else what stands in the way, or is not known
	// Warnings are reasons of answers of no that do not stand in the way, and cost speed, safety or all packets:
	// first those by which packets are lost or come in clear.
	Warnings []string `json:"warnings,omitempty"`
	Layers   []Layer  `json:"layers"`
}

// Judge is what the checks of a host and of one of its devices say together: ready if a required one
// was tried and it worked; else not ready as soon as one thing that is required is missing, whatever
// else is not known. The reason is the first that was asked.
func Judge(layers ...[]Layer) (Readiness, string) {
	ready, reason := Ready, ""
	for _, of := range layers {
		for _, l := range of {
			for _, c := range l.Checks {
				switch {
				case c.Weight != Required:
				case c.Tried && c.Answer == Yes:
					return Ready, ""
				case c.Answer == Yes || ready == NotReady:
				case c.Answer == No:
					ready, reason = NotReady, c.Why
				case ready == Ready:
					ready, reason = Unclear, c.Why
				}
			}
		}
	}
	return ready, reason
}

// losing are the questions whose no costs packets, or lets cleartext in, whatever the NIC can do.
var losing = []string{"nic.link", "topology.firewall-esp", "topology.firewall-udp", "topology.port", "topology.disable-policy", "topology.disable-policy6"}

// warnings are the reasons for each no to what only warns, each once.
func warnings(layers ...[]Layer) []string {
	var first, others []string
	for _, of := range layers {
		for _, l := range of {
			for _, c := range l.Checks {
				switch {
				case c.Weight != Warns || c.Answer != No || slices.Contains(first, c.Why) || slices.Contains(others, c.Why):
				case slices.Contains(losing, c.ID):
					first = append(first, c.Why)
				default:
					others = append(others, c.Why)
				}
			}
		}
	}
	return append(first, others...)
}
