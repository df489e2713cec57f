package tunnel

// Facts are what a host told of itself.
type Facts struct {
	Hostname string `json:"hostname"`
}
