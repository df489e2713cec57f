package probe

import "sync"

// survey is what the layers of all devices have in common.
type survey struct {
	sys   System
	links func() ([]Link, error)
}

// LeftOut is a device that was not examined, and why.
type LeftOut struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

func newSurvey(sys System) *survey {
	return &survey{sys: sys, links: sync.OnceValues(func() ([]Link, error) {
		if sys.Network == nil {
			return nil, nil
		}
		return sys.Network.Links()
	})}
}

func (s *survey) choose() (devices []string, leftOut []LeftOut, err error) { return nil, nil, nil }

func (s *survey) names() (names []string) {
	links, _ := s.links()
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

func (s *survey) driver(device string) string {
	d, _ := s.sys.Network.Driver(device)
	return d.Name
}

func nicLayer(s *survey, device string) Layer      { return Layer{Name: "NIC"} }
func driverLayer(s *survey, device string) Layer   { return Layer{Name: "driver and firmware"} }
func topologyLayer(s *survey, device string) Layer { return Layer{Name: "topology"} }

func here() Network { return nil }
