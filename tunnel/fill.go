package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"espalier/ipsec"
)

// lowestSPI leaves those below alone that people write by hand; 0 to 255 are reserved (RFC 4303 §2.1).
const lowestSPI = 0x1000

// Taken are SPIs that cannot be given to another SA.
type Taken map[ipsec.SAID]bool

// Taken are those of the SAs that hosts have.
func (p *Plan) Taken() Taken {
	taken := Taken{}
	for _, h := range p.Hosts {
		if h.Facts == nil {
			continue
		}
		for _, e := range h.Facts.Engines {
			for i := range e.SAs {
				taken[e.SAs[i].SAID.SAID] = true
			}
		}
	}
	return taken
}

// Fill gives each new SA of the plan an SPI that is in none of the hosts' SADs, and a key, of random
// bytes. Outbound and inbound SA share the key: it is wiped once, by [Plan.Wipe].
func (p *Plan) Fill(random io.Reader) error {
	taken := p.Taken()
	for i := range p.Pairs {
		if err := p.Pairs[i].Fill(random, taken); err != nil {
			return err
		}
	}
	return nil
}

// Wipe overwrites the keys of the plan.
func (p *Plan) Wipe() {
	for i := range p.Pairs {
		for e := range p.Pairs[i].Ends {
			for j := range p.Pairs[i].Ends[e].Outbound {
				p.Pairs[i].Ends[e].Outbound[j].Key.Wipe()
			}
		}
	}
}

// Fill gives the SAs of the pair SPIs that are not taken, and takes them, and keys.
func (p *Pair) Fill(random io.Reader, taken Taken) error {
	for e := range p.Ends {
		out, in := p.Ends[e].Outbound, p.Ends[1-e].Inbound
		if len(out) != len(in) {
			return fmt.Errorf("tunnel %s: %d SAs from %s, and %d for them", p.Tunnel, len(out), p.Ends[e].Local, len(in))
		}
		for i := range out {
			spi, err := freshSPI(random, &out[i], uint32(p.Ends[1-e].Queues), taken)
			if err != nil {
				return err
			}
			key := make([]byte, p.Of.KeySize/8+saltBytes)
			if _, err := io.ReadFull(random, key); err != nil {
				return fmt.Errorf("make a key: %w", err)
			}
			out[i].SPI, out[i].Key = spi, ipsec.NewKey(key)
			in[i].SPI, in[i].Key = spi, out[i].Key
			clear(key)
		}
	}
	return nil
}

// saltBytes behind an AES-GCM key (RFC 4106 §8.1).
const saltBytes = 4

// freshSPI is one that is not taken. A userspace device gives the packets of an SA to the queue that
// is the SPI modulo their number, and what answers them is sent by that queue: so the SA of queue n,
// or with one SA for all a number that both directions and all generations share, has an SPI of that
// residue.
func freshSPI(random io.Reader, sa *SA, queues uint32, taken Taken) (ipsec.SPI, error) {
	n := sa.RequestID
	if sa.CPU != nil {
		n = *sa.CPU
	}
	const tries = 1000 // of 2³² SPIs hardly any are taken
	for range tries {
		var b [4]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("make an SPI: %w", err)
		}
		spi := binary.BigEndian.Uint32(b[:])
		if queues > 1 {
			spi = spi - spi%queues + n%queues
		}
		id := ipsec.SAID{Dst: sa.Dst, SPI: ipsec.SPI(spi)}
		if id.SPI >= lowestSPI && !taken[id] {
			taken[id] = true
			return id.SPI, nil
		}
	}
	return 0, errors.New("no SPI is free")
}
