// Package xfrmstat explains the counters of /proc/net/xfrm_stat (net/xfrm/xfrm_proc.c): what the kernel
// did when it raised one, why that usually happens, and what to look at.
package xfrmstat

// Counter is one line of /proc/net/xfrm_stat.
type Counter struct {
	Name    string   `json:"name"`
	Since   string   `json:"since,omitempty"` // the kernel that brought it, if that is a recent one
	Meaning string   `json:"meaning"`
	Causes  []string `json:"causes"` // the likeliest first
	Look    []string `json:"look_at"`
}

// Find finds a counter by its name.
func Find(name string) (Counter, bool) {
	for _, c := range Counters {
		if c.Name == name {
			return c, true
		}
	}
	return Counter{}, false
}
