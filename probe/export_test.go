package probe

// NetworkLayers are the layers of a device that this package asks of the network, and of the host.
func NetworkLayers(sys System, device string) []Layer {
	s := newSurvey(sys)
	return []Layer{nicLayer(s, device), driverLayer(s, device), topologyLayer(s, device), hostNetworkLayer(s)}
}

// Choose is what is examined if no device is named.
func Choose(sys System) ([]string, []LeftOut, error) { return newSurvey(sys).choose() }

// Room is the longest packet that fits through ESP.
var Room = room
