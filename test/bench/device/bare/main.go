// Command bare carries packets between two hosts by IP protocol 50 and does nothing else to them:
// what a user-space program can do at best on this kernel without any ESP. TCP comes from a TUN
// device in frames of up to 64 KiB, is cut into packets behind headers as long as those of ESP, and
// sent; what arrives is joined to frames again and written to the TUN. Each direction has a thread, which
// Go's scheduler never gets to see again; no system call waits but poll.
//
//	bare --via raw|packet --tun NAME --dev DEV --local ADDR --peer ADDR --mac MAC
//
// It is a peer of the userspace device in `bench device`, which runs it on both hosts.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run() error {
	via := flag.String("via", "raw", "raw: a socket of protocol 50; packet: packet sockets on the device")
	name := flag.String("tun", "bare0", "TUN device to make")
	device := flag.String("dev", "", "underlay device")
	local := flag.String("local", "", "IPv4 address of this host")
	peer := flag.String("peer", "", "IPv4 address of the other host")
	mac := flag.String("mac", "", "link address of the other host")
	flag.Parse()
	var ends ends
	var errs [4]error
	ends.local, errs[0] = netip.ParseAddr(*local)
	ends.peer, errs[1] = netip.ParseAddr(*peer)
	ends.mac, errs[2] = net.ParseMAC(*mac)
	ends.device, errs[3] = net.InterfaceByName(*device)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	tun, err := openTUN(*name)
	if err != nil {
		return err
	}
	wire, err := openWire(*via, ends)
	if err != nil {
		return err
	}
	// The threads of the path never give way to Go's scheduler: nothing may ask them to, and there
	// has to be room for the rest.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(4)
	ended := make(chan error, 2)
	go func() { ended <- outbound(tun, wire) }()
	go func() { ended <- inbound(wire, tun) }()
	fmt.Println("ready")
	return <-ended
}
