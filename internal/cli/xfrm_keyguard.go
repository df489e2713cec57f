package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"espalier/internal/usedkeys"
	"espalier/xfrm"
)

// keyGuard sees to it that no AES-GCM key is used twice for sending. It claims the keys of all
// jobs when the first is needed. The zero keyGuard has claimed nothing.
type keyGuard struct {
	record  *usedkeys.Record
	claim   *usedkeys.Claim
	uses    map[*xfrm.State]int // by the state of a job
	refused []error
}

// guardKey refuses the job if its SA would send with a key that was installed before.
func (r *xfrmRun) guardKey(ctx context.Context, j job) error {
	if !hasNonces(j.State) {
		return nil
	}
	if r.keys.claim == nil {
		if err := r.keys.open(r.all, r.scope()); err != nil {
			return err
		}
	}
	err := r.keys.refused[r.keys.uses[j.State]]
	if err == nil {
		return nil
	}
	// The key of an SA that is there goes on counting: an update keeps it, an add is refused.
	if _, err := r.engine.GetState(ctx, j.State.ID()); err == nil {
		return nil
	}
	if r.allowKeyReuse {
		r.warning(j, err.Error())
		return nil
	}
	return r.unlessCompat(j, err.Error()+"; make a new one with --generate-key, or say --allow-key-reuse if nothing was ever sent with it")
}

// hasNonces tells AES-GCM from algorithms that stand the same key twice.
func hasNonces(s *xfrm.State) bool { return s.AEAD != nil && s.AEAD.Key.Len() > 0 }

// open claims the keys of all jobs.
func (k *keyGuard) open(jobs []job, scope string) error {
	dir := stateDir()
	record, err := usedkeys.Open(dir)
	if err != nil {
		return &exitError{exitXfrmEngine, fmt.Errorf("%w: without it nobody knows if a key was used before (ESPALIER_STATE_DIR moves it)", err)}
	}
	local, err := localAddresses()
	if err != nil {
		return errors.Join(err, record.Close())
	}
	k.record, k.uses = record, make(map[*xfrm.State]int)
	var uses []usedkeys.Use
	for _, j := range jobs {
		if j.State != nil && hasNonces(j.State) {
			k.uses[j.State] = len(uses)
			uses = append(uses, usedkeys.Use{Key: j.State.AEAD.Key, Sends: sends(j.State, local), Scope: scope})
		}
	}
	k.claim, k.refused, err = record.Claim(uses...)
	if err != nil {
		return errors.Join(err, k.Close())
	}
	return nil
}

// installed keeps the job's key in the record.
func (k *keyGuard) installed(j job) {
	if i, ok := k.uses[j.State]; ok {
		k.claim.Installed(i)
	}
}

// Close forgets the keys that were not installed, and lets others in.
func (k *keyGuard) Close() error {
	var errs []error
	if k.claim != nil {
		errs = append(errs, k.claim.Close())
	}
	if k.record != nil {
		errs = append(errs, k.record.Close())
	}
	*k = keyGuard{}
	return errors.Join(errs...)
}

// sends reports whether an SA is for sending: it says so, or its source is an address of ours.
func sends(s *xfrm.State, local map[netip.Addr]bool) bool {
	switch {
	case s.Dir != 0:
		return s.Dir == xfrm.StateDirOut
	case s.Offload != nil:
		return s.Offload.Flags&xfrm.OffloadInbound == 0
	}
	return local[s.Src.Unmap()]
}

// localAddresses are those of the calling thread's network namespace.
func localAddresses() (map[netip.Addr]bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("look for the addresses of this host: %w", err)
	}
	local := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			local[p.Addr().Unmap()] = true
		}
	}
	return local, nil
}

// scope names what the SAs are in: a device by its socket, else the kernel's.
func (r *xfrmRun) scope() string {
	if r.sad.socket != "" {
		return r.sad.name()
	}
	return usedkeys.KernelScope()
}

// stateDir is where espalier keeps what has to outlive it.
func stateDir() string {
	if dir := os.Getenv("ESPALIER_STATE_DIR"); dir != "" {
		return dir
	}
	return filepath.Join("/var/lib", "espalier")
}
