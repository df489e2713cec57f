package guest

import (
	"testing"
	"time"

	"espalier/test/lab"
)

// tally is what both ends count of one direction: the sender's SA and its NIC, then the
// receiver's NIC and its SA. The NICs' counts are of all SAs.
type tally struct {
	Numbered, Packets        uint64 // sequence numbers; packets, of which many a one was cut up
	Encrypted, SendDropped   uint64
	Decrypted, ReceiveFailed uint64
	Accepted, Failed         uint64 // failed: the ICV was wrong
}

func (t tally) since(before tally) tally {
	return tally{
		t.Numbered - before.Numbered, t.Packets - before.Packets,
		t.Encrypted - before.Encrypted, t.SendDropped - before.SendDropped,
		t.Decrypted - before.Decrypted, t.ReceiveFailed - before.ReceiveFailed,
		t.Accepted - before.Accepted, t.Failed - before.Failed,
	}
}

// rest is for how long nothing must move to have come to rest: the kernel hands packets from one
// of its threads to another, and the last of a connection are under way when its owner has closed
// it.
const rest = 20 * time.Millisecond

// tallies gives both directions of SAs, A→B first, once they have come to rest.
func (l *nicLab) tallies(t *testing.T, sas [2]lab.SA) [2]tally {
	t.Helper()
	const patience = 5 * time.Second
	last := l.glance(t, sas)
	for start := time.Now(); ; {
		time.Sleep(rest)
		now := l.glance(t, sas)
		if now == last {
			return now
		}
		if last = now; time.Since(start) > patience {
			t.Fatalf("does not come to rest: %+v", now)
		}
	}
}

// glance is what is counted now.
func (l *nicLab) glance(t *testing.T, sas [2]lab.SA) (all [2]tally) {
	t.Helper()
	for i, sa := range sas {
		from, to := l.Hosts()[i], l.Hosts()[1-i]
		out, in := l.state(t, from, sa), l.state(t, to, sa)
		tx, rx := statistics(t, from), statistics(t, to)
		all[i] = tally{
			Numbered: uint64(out.Replay.OSeqHi)<<32 | uint64(out.Replay.OSeq), Packets: out.Current.Packets,
			Encrypted: tx["ipsec_tx_pkts"], SendDropped: tx["ipsec_tx_drop_pkts"],
			Decrypted: rx["ipsec_rx_pkts"], ReceiveFailed: rx["ipsec_rx_drop_pkts"],
			Accepted: in.Current.Packets, Failed: uint64(in.Stats.IntegrityFailed),
		}
	}
	return all
}
