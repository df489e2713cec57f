package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// knownValues looks up what may stand for a value. What does not answer in time, or may not be
// asked, is not offered.
type knownValues struct {
	ctx   context.Context
	sad   string   // --sad
	words []string // of the command so far
}

func (k *knownValues) of(value string) (words []cobra.Completion) {
	switch value {
	case xfrm.ValueInterface:
		links, _ := net.Interfaces()
		for _, l := range links {
			words = append(words, l.Name)
		}
	case xfrm.ValueSPI, xfrm.ValueReqid:
		k.eachState(func(s *xfrm.State) { words = append(words, k.aboutState(value, s)...) })
	case xfrm.ValueIndex:
		k.eachPolicy(func(p *xfrm.Policy) {
			words = append(words, cobra.CompletionWithDesc(fmt.Sprint(p.Index), fmt.Sprintf("%s %s→%s", p.Dir, p.Sel.Src, p.Sel.Dst)))
		})
	case xfrm.ValueAddress:
		k.eachState(func(s *xfrm.State) { words = append(words, addrText(s.Src), addrText(s.Dst)) })
		k.eachPolicy(func(p *xfrm.Policy) { words = append(words, p.Sel.Src.String(), p.Sel.Dst.String()) })
		own, _ := net.InterfaceAddrs()
		for _, a := range own {
			if p, ok := a.(*net.IPNet); ok && !p.IP.IsLoopback() && !p.IP.IsLinkLocalUnicast() {
				words = append(words, p.IP.String())
			}
		}
		slices.Sort(words)
		words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	}
	return words
}

// aboutState is the SPI or reqid of a state that has the destination of the command, if it has one.
func (k *knownValues) aboutState(value string, s *xfrm.State) []cobra.Completion {
	if i := slices.Index(k.words, "dst"); i >= 0 && i+1 < len(k.words) && k.words[i+1] != addrText(s.Dst) {
		return nil
	}
	between := addrText(s.Src) + "→" + addrText(s.Dst)
	if value == xfrm.ValueReqid {
		return []cobra.Completion{cobra.CompletionWithDesc(fmt.Sprint(s.Reqid), between)}
	}
	return []cobra.Completion{cobra.CompletionWithDesc(s.SPI.String(), fmt.Sprintf("%s reqid %d", between, s.Reqid))}
}

func (k *knownValues) open() (engine, error) {
	dir, err := client.SocketDir()
	if err != nil {
		return nil, err
	}
	choice, err := chooseSAD(k.sad, os.Getenv("ESPALIER_SAD"), dir, nil)
	if err != nil {
		return nil, err
	}
	return choice.open()
}

// eachState calls f for each state; its keys are gone before.
func (k *knownValues) eachState(f func(*xfrm.State)) {
	e, err := k.open()
	if err != nil {
		return
	}
	defer e.Close()
	for s, err := range e.States(k.ctx, xfrm.StateFilter{}) {
		if err != nil {
			return
		}
		s.WipeKeys()
		f(s)
	}
}

func (k *knownValues) eachPolicy(f func(*xfrm.Policy)) {
	e, err := k.open()
	if err != nil {
		return
	}
	defer e.Close()
	for p, err := range e.Policies(k.ctx) {
		if err != nil {
			return
		}
		if !p.IsSocket() {
			f(p)
		}
	}
}
