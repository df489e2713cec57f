package demo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/safchain/ethtool"

	"espalier/internal/wire"
	"espalier/ipsec"
)

// splitOnTheWire has the kernel cut UDP super-packets before they cross the virtual cable, as
// a real NIC would: the tap then sees the packets of the wire.
func splitOnTheWire() error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer e.Close()
	if err := e.Change(device, map[string]bool{"tx-udp-segmentation": false}); err != nil {
		return fmt.Errorf("ethtool -K %s tx-udp-segmentation off: %w", device, err)
	}
	return nil
}

// watch taps the cable at A's end. Everything that A sends passes there behind its guard, and
// everything that B sent before A's.
func (r *run) watch(context.Context) error {
	c := wire.Classifier{}
	for _, f := range families {
		for _, d := range r.directions(f) {
			c.Protected = append(c.Protected, selector(d.src, d.dst))
			if r.UDP {
				c.Encaps = append(c.Encaps, wire.Ends{Src: netip.AddrPortFrom(d.src, udpPort), Dst: netip.AddrPortFrom(d.dst, udpPort)})
			}
		}
	}
	if err := r.openPcap(); err != nil {
		return err
	}
	r.Step("A: watch every packet on %s", device)
	return r.a.ns.Do(func() (err error) {
		r.watcher, err = wire.Watch(device, c, r.writer)
		return err
	})
}

func (r *run) openPcap() (err error) {
	if r.Pcap == "" {
		return nil
	}
	if r.pcap, err = os.Create(r.Pcap); err != nil {
		return err
	}
	r.writer, err = wire.NewPcapWriter(r.pcap)
	return err
}

// stopWatching may be called again; the second time it has nothing to do.
func (r *run) stopWatching() (wire.Counts, error) {
	w := r.watcher
	r.watcher = nil
	if w == nil {
		return r.report.Wire, nil
	}
	counts, err := w.Stop()
	if r.pcap != nil {
		err = errors.Join(err, r.writer.Flush(), r.pcap.Close())
	}
	return counts, err
}

// writeKeys writes Wireshark's esp_sa table. The names of the algorithms are those of
// Wireshark's preferences. Its last column, the length of sequence numbers, came late: it stands
// only where it is not the default, since older versions warn of it.
func (r *run) writeKeys() error {
	if r.Keys == "" {
		return nil
	}
	// Removed first: an existing file would keep its mode, and its readers.
	if err := os.Remove(r.Keys); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(r.Keys, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for i := range r.sas {
		if err := writeKey(f, &r.sas[i]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

func writeKey(f *os.File, sa *ipsec.SA) error {
	version, esn := "IPv4", ""
	if sa.Src.Is6() {
		version = "IPv6"
	}
	if sa.ESN {
		esn = `,"64-bit"`
	}
	_, err := fmt.Fprintf(f, "%q,%q,%q,\"%s\",%q,\"0x%s\",%q,%q%s\n",
		version, sa.Src, sa.Dst, sa.SPI, "AES-GCM with 16 octet ICV [RFC4106]", hex.EncodeToString(sa.Key.ExposeSecretBytes()), "NULL", "", esn)
	return err
}
