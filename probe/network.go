package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"espalier/probe/firewall"
)

// kernelNetwork asks the kernel, in the network namespace of the calling thread. Sockets live as
// long as a question.
type kernelNetwork struct{}

func here() Network { return kernelNetwork{} }

// Driver asks ETHTOOL_GDRVINFO.
func (kernelNetwork) Driver(device string) (Driver, error) {
	return ask(device, "driver", func(e *ethtool.Ethtool) (Driver, error) {
		info, err := e.DriverInfo(device)
		return Driver{Name: info.Driver, Version: info.Version, Firmware: said(info.FwVersion), Bus: said(info.BusInfo)}, err
	})
}

// said is a text of ethtool's, "" for what drivers say instead of nothing.
func said(text string) string {
	if text == "N/A" {
		return ""
	}
	return text
}

// Features asks ETHTOOL_GFEATURES.
func (kernelNetwork) Features(device string) (map[string]Feature, error) {
	return ask(device, "features", func(e *ethtool.Ethtool) (map[string]Feature, error) {
		states, err := e.FeaturesWithState(device)
		if err != nil {
			return nil, err
		}
		features := make(map[string]Feature, len(states))
		for name, s := range states {
			// The kernel calls a feature available that can be switched.
			features[name] = Feature{Known: true, On: s.Active, Fixed: !s.Available || s.NeverChanged}
		}
		return features, nil
	})
}

// Counters asks ETHTOOL_GSTATS. A device without any answers with none.
func (kernelNetwork) Counters(device string) (map[string]uint64, error) {
	return ask(device, "counters", func(e *ethtool.Ethtool) (map[string]uint64, error) {
		counters, err := e.Stats(device)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, nil
		}
		return counters, err
	})
}

// Speed asks ETHTOOL_GSET, which newer drivers answer, too, by the kernel's translation, with
// 32 bits of Mb/s.
func (kernelNetwork) Speed(device string) (uint32, error) {
	return ask(device, "speed", func(e *ethtool.Ethtool) (uint32, error) {
		speed, err := e.CmdGet(&ethtool.EthtoolCmd{}, device)
		if errors.Is(err, unix.EOPNOTSUPP) || speed == math.MaxUint32 { // SPEED_UNKNOWN
			return 0, nil
		}
		return speed, err
	})
}

// Queues asks ETHTOOL_GCHANNELS and ETHTOOL_GRXFH.
func (kernelNetwork) Queues(device string) (Queues, error) {
	return ask(device, "queues", func(e *ethtool.Ethtool) (Queues, error) {
		c, err := e.GetChannels(device)
		return Queues{int(c.RxCount), int(c.MaxRx), int(c.CombinedCount), int(c.MaxCombined), espHash(device)}, err
	})
}

// Chains reads the rules of nftables.
func (kernelNetwork) Chains() ([]firewall.Chain, error) { return firewall.Read() }

// ask puts one question. The error of a device that is not there is fs.ErrNotExist as well.
func ask[T any](device, what string, question func(*ethtool.Ethtool) (T, error)) (T, error) {
	var none T
	e, err := ethtool.NewEthtool()
	if err != nil {
		return none, fmt.Errorf("ask %s for its %s: %w", device, what, err)
	}
	defer e.Close()
	answer, err := question(e)
	if errors.Is(err, unix.ENODEV) {
		return none, fmt.Errorf("ask %s for its %s: %w (%w)", device, what, err, fs.ErrNotExist)
	}
	if err != nil {
		return none, fmt.Errorf("ask %s for its %s: %w", device, what, err)
	}
	return answer, nil
}
