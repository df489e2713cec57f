package client_test

import (
	"context"
	"iter"
	"log"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"espalier/ipsec"
	"espalier/xfrm/client"
	"espalier/xfrm/server"
)

// memory is an engine for the examples: a SAD that keeps what it is given, and takes the NIC with
// index 4 for one that encrypts.
type memory struct {
	ipsec.Database // of what the examples do not use
	mu             sync.Mutex
	sas            []ipsec.SA
}

func (m *memory) find(id ipsec.SAID) int {
	return slices.IndexFunc(m.sas, func(sa ipsec.SA) bool { return sa.ID() == id })
}

func (m *memory) AddSA(_ context.Context, sa ipsec.SA) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(sa.ID()) >= 0 {
		return ipsec.ErrExist
	}
	if sa.Offload.Interface != 4 {
		sa.Offload = ipsec.Offload{}
	}
	m.sas = append(m.sas, sa)
	return nil
}

func (m *memory) DeleteSA(_ context.Context, id ipsec.SAID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.find(id)
	if i < 0 {
		return ipsec.ErrNotExist
	}
	m.sas = slices.Delete(m.sas, i, i+1)
	return nil
}

func (m *memory) LookupSA(_ context.Context, id ipsec.SAID) (ipsec.SA, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.find(id); i >= 0 {
		return m.sas[i], nil
	}
	return ipsec.SA{}, ipsec.ErrNotExist
}

func (m *memory) SAs(context.Context) iter.Seq2[ipsec.SA, error] {
	m.mu.Lock()
	defer m.mu.Unlock()
	sas := slices.Clone(m.sas)
	return func(yield func(ipsec.SA, error) bool) {
		for _, sa := range sas {
			if !yield(sa, nil) {
				return
			}
		}
	}
}

// dial connects to a memory of its own; a program would call client.Kernel or client.Dial.
func dial() (c *client.Client, end func()) {
	dir, err := os.MkdirTemp("", "espalier")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "nic.sock")
	l, err := server.Listen(path)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := server.New(&memory{}, nil)
	s.PeerUID = uint32(os.Getuid())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l) }()
	if c, err = client.Dial(path); err != nil {
		log.Fatal(err)
	}
	return c, func() {
		c.Close()
		cancel()
		<-served
		os.RemoveAll(dir)
	}
}
