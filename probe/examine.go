package probe

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

// NoDeviceError is the error of [Examine] about a device that is not there.
type NoDeviceError struct {
	Name  string
	There []string // the devices that are
}

func (e *NoDeviceError) Error() string {
	return fmt.Sprintf("there is no device %s here; there are %s", e.Name, strings.Join(e.There, ", "))
}

// Examine asks a host and some of its network devices: kernel, NIC, driver and firmware, topology, all
// at the same time, and then, when nothing else runs, the speed of the CPU. Without devices it takes
// those that could offload; of a host without any, the topology of those that default routes take. What cannot be found out is in the report as such; the error is a
// [NoDeviceError] or that of ctx.
func Examine(ctx context.Context, sys System, devices []string) (Report, error) {
	refused := new(refusals)
	sys = refused.watch(sys)
	s := newSurvey(sys)
	var k *kernel
	var host [2]Layer
	var reading sync.WaitGroup
	reading.Go(func() {
		k = readKernel(sys.Root)
		host[0] = k.layer()
	})
	reading.Go(func() { host[1] = hostNetworkLayer(s) })
	var none Check // why there is no device to examine
	var err error
	if len(devices) > 0 {
		devices, err = namedDevices(s, devices)
	} else {
		devices, none = candidates(s)
	}
	reading.Wait()
	if err != nil {
		return Report{}, err
	}

	report := Report{
		Host:         readWord(sys.Root, "proc/sys/kernel/hostname"),
		Kernel:       k.release,
		Distribution: k.distribution.Pretty,
		AsRoot:       isRoot(sys.Root),
		Layers:       host[:],
		Devices:      make([]Device, len(devices)),
	}
	var asking sync.WaitGroup
	for i, name := range devices {
		layers := make([]Layer, 4)
		report.Devices[i] = Device{Name: name, Layers: layers}
		asking.Go(func() { layers[0] = k.driverLayer(driversBelow(s, name)) })
		asking.Go(func() { layers[1] = nicLayer(s, name) })
		asking.Go(func() { layers[2] = driverLayer(s, name) })
		asking.Go(func() { layers[3] = topologyLayer(s, name) })
	}
	asking.Wait()
	for i := range report.Devices {
		d := &report.Devices[i]
		d.Layers = slices.DeleteFunc(d.Layers, func(l Layer) bool { return len(l.Checks) == 0 })
	}
	if len(devices) == 0 {
		report.Layers[0].Checks = append(report.Layers[0].Checks, k.connectX()...)
		instead := []Layer{{Name: "NIC", Checks: []Check{none}}}
		for _, name := range s.ways() {
			instead = append(instead, wayLayer(s, name))
		}
		report.Layers = slices.Insert(report.Layers, 1, instead...)
	}
	if sys.Speed != nil {
		report.Layers = append(report.Layers, speedLayer(sys.Speed(ctx)))
	}
	slices.Sort(refused.what) // of several that asked at once
	report.Unseen = refused.what
	report.Conclude()
	return report, ctx.Err()
}

// namedDevices takes each device once. Whether it is there is left to its layers if nobody lists them.
func namedDevices(s *survey, named []string) (devices []string, err error) {
	there := s.names()
	for _, name := range named {
		switch {
		case slices.Contains(devices, name):
		case !slices.Contains(there, name) && len(there) > 0:
			return nil, &NoDeviceError{name, there}
		default:
			devices = append(devices, name)
		}
	}
	return devices, nil
}

// candidates are the devices that could offload; the check is for when there is none.
func candidates(s *survey) ([]string, Check) {
	c := Check{ID: "nic.candidate", Title: "a NIC that could offload", Weight: Required}
	devices, leftOut, err := s.choose()
	if err != nil {
		c.Why = "the network devices are not known: " + err.Error()
		return nil, c
	}
	c.Answer, c.Why = No, "no NIC that could offload ESP"
	c.Fix = "ESP is offloaded by crypto-enabled ConnectX-6 Dx, ConnectX-7 and BlueField cards. Without one, the kernel or espalier's userspace device encrypts on the CPU: espalier demo shows that."
	if len(s.ways()) == 0 {
		c.Fix += " espalier doctor DEV tells what ESP meets on a device."
	}
	for _, l := range leftOut {
		c.Evidence = append(c.Evidence, Evidence{l.Name, l.Why})
	}
	if len(leftOut) == 0 {
		c.Evidence = []Evidence{{"ip -d link", "only devices without hardware, of " + count(len(s.names()), "device")}}
	}
	return devices, c
}

// driversBelow are those that do the work of a device: its own, those of a bond's ports, that of the
// device below a VLAN. Each once.
func driversBelow(s *survey, name string) []string {
	links, _ := s.links()
	var drivers []string
	waiting := []string{name}
	for i := 0; i < len(waiting); i++ {
		if d := s.driver(waiting[i]); d != "" && !slices.Contains(drivers, d) {
			drivers = append(drivers, d)
		}
		at := slices.IndexFunc(links, func(l Link) bool { return l.Name == waiting[i] })
		if at < 0 || links[at].Kind == "" {
			continue
		}
		for _, l := range links {
			below := l.Index == links[at].Lower && !links[at].Elsewhere || links[at].Kind == "bond" && l.Master == links[at].Index
			if below && !slices.Contains(waiting, l.Name) {
				waiting = append(waiting, l.Name)
			}
		}
	}
	return drivers
}

// isRoot reports whether the files of this process say that it runs as root.
func isRoot(root fs.FS) bool {
	status, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			words := strings.Fields(ids) // real, effective, saved, of the file system
			return len(words) > 1 && words[1] == "0"
		}
	}
	return false
}
