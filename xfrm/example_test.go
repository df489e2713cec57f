package xfrm_test

import (
	"fmt"
	"log"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// nics looks interfaces up; a program would ask net.InterfaceByName.
func nics(name string) (int, error) {
	if name != "p4p1" {
		return 0, fmt.Errorf("no such device")
	}
	return 4, nil
}

// A key file is one line, 0x and hexadecimal digits, that others cannot read.
func keyFile(string) ([]byte, error) {
	return []byte("0x492e8ffe718a95a00c1893ea61afc64997f4732848ccfe6ea07db483175cb18de9ae411a"), nil
}

func parse(line string) *xfrm.Command {
	cmd, err := xfrm.Parse(strings.Fields(line), xfrm.Env{Interface: nics, KeyFile: keyFile})
	if err != nil {
		log.Fatal(err)
	}
	return cmd
}

const offloaded = "state add src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x28f39549 reqid 1 mode transport " +
	"aead rfc4106(gcm(aes)) @out.key 128 offload crypto dev p4p1 dir out"

// The direction of the offload is that of the SA, too (XFRMA_SA_DIR). Keys do not print.
func ExampleParse() {
	cmd := parse(offloaded)
	fmt.Println(cmd.Object, cmd.Verb, cmd.State.ID())
	fmt.Println("offload to", cmd.Device, "dir", cmd.State.Dir)
	fmt.Printf("key %v, %d bits, from %s\n", cmd.State.AEAD.Key, cmd.State.AEAD.KeyBits, cmd.KeyFiles["aead"])
	// Output:
	// state add 0x28f39549 192.168.1.64→192.168.1.65
	// offload to p4p1 dir out
	// key <key hidden>, 288 bits, from out.key
}

// A word that is not in the grammar is an error that says what would be.
func ExampleSyntaxError() {
	_, err := xfrm.Parse(strings.Fields("state add src 10.0.0.1 dst 10.0.0.2 porto esp"), xfrm.Env{})
	fmt.Println(err)
	// Output: state add: proto is missing; expected esp, ah, comp, route2, hao or ipsec-any
}

func ExampleComplete() {
	for _, words := range []string{"state", "state add src 10.0.0.1 dst 10.0.0.2", "state list reqid"} {
		var next []string
		for _, c := range xfrm.Complete(strings.Fields(words), xfrm.Env{}) {
			next = append(next, c.Word+c.Value) // one of them is empty
		}
		fmt.Println(strings.Join(next, ", "))
	}
	// Output:
	// add, update, allocspi, delete, deleteall, list, get, flush, count
	// src, dst, proto, spi
	// a reqid
}

// The line that installs a state again has a file for its key, or a placeholder.
func ExampleFormatState() {
	s := parse(offloaded).State
	fmt.Println(xfrm.FormatState(s, xfrm.FormatOptions{
		KeyFiles:      map[string]string{"aead": "out.key"},
		InterfaceName: func(int) string { return "p4p1" },
	}))
	// Output: ip xfrm state add src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x28f39549 reqid 1 mode transport aead 'rfc4106(gcm(aes))' @out.key 128 offload dev p4p1 dir out
}

// A policy is offloaded to a NIC that does all of IPsec.
func ExampleFormatPolicy() {
	p := parse("policy add src 192.168.1.64 dst 192.168.1.65 dir out offload packet dev p4p1 " +
		"tmpl src 192.168.1.64 dst 192.168.1.65 proto esp reqid 1 mode transport").Policy
	fmt.Println(p.Offload.Flags == xfrm.OffloadPacket, p.Offload.Ifindex)
	fmt.Println(xfrm.FormatPolicy(p, xfrm.FormatOptions{}))
	// Output:
	// true 4
	// ip xfrm policy add src 192.168.1.64/32 dst 192.168.1.65/32 dir out offload packet dev if4 tmpl src 192.168.1.64 dst 192.168.1.65 proto esp reqid 1 mode transport
}

// What an engine gives back decodes and prints as ip has it, with keys left out.
func ExampleFprintState() {
	payload, err := xfrm.EncodeState(parse(offloaded).State) // a NEWSA, or one part of a dump
	if err != nil {
		log.Fatal(err)
	}
	defer clear(payload) // it holds the key
	s, err := xfrm.DecodeState(payload)
	if err != nil {
		log.Fatal(err)
	}
	var text strings.Builder
	xfrm.FprintState(&text, s, xfrm.PrintOptions{InterfaceName: func(int) string { return "p4p1" }})
	for line := range strings.Lines(text.String()) {
		if strings.Contains(line, "aead") || strings.Contains(line, "offload") {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	// Output:
	// aead rfc4106(gcm(aes)) <<Keys hidden>> 128
	// crypto offload parameters: dev p4p1 dir out mode crypto
}

// A filter goes into the request for a dump (XFRMA_PROTO, XFRMA_ADDRESS_FILTER) and is applied to
// the answer, for what has no attribute.
func ExampleStateFilter() {
	f := xfrm.StateFilter{Proto: unix.IPPROTO_ESP, Dst: netip.MustParsePrefix("192.168.1.0/24"), Reqid: 1}
	request, err := xfrm.EncodeStateFilter(&f)
	if err != nil {
		log.Fatal(err)
	}
	asked, err := xfrm.DecodeStateFilter(request)
	fmt.Println(asked.Proto, asked.Dst, asked.Reqid, err)
	s := parse(offloaded).State
	fmt.Println(f.Match(s))
	s.Reqid = 2
	fmt.Println(f.Match(s))
	// Output:
	// 50 192.168.1.0/24 0 <nil>
	// true
	// false
}

// Refusals tells beforehand what a kernel will say only as EINVAL.
func ExampleRefusals() {
	s := &xfrm.State{Dir: xfrm.StateDirOut, ReplayWindow: 64, Proto: unix.IPPROTO_ESP,
		AEAD: &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.RandomKey(36), KeyBits: 288, ICVBits: 128}}
	for _, r := range xfrm.Refusals(s, xfrm.Release{Major: 6, Minor: 12}) {
		fmt.Println(r)
	}
	// Output: replay-window with dir out; anti-replay is the receiver's: leave it out
}
