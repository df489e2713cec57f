package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
)

// installState adds or updates an SA: it says beforehand what is known to be refused, or to be
// taken and not done; sees to it that no key is used twice for sending; and reads back an SA that
// was to be offloaded.
func (r *xfrmRun) installState(ctx context.Context, j job) error {
	if r.requireOffload && j.State.Offload == nil {
		return &exitError{exitXfrmSemantic, errors.New("--require-offload: the SA asks for none; add offload dev DEV dir in|out")}
	}
	if err := r.unlessCompat(j, r.foresee(j)...); err != nil {
		return err
	}
	install := r.engine.AddState
	if j.Verb == xfrm.VerbUpdate {
		if err := r.checkUpdate(ctx, j); err != nil {
			return err
		}
		install = r.engine.UpdateState
	}
	if err := r.guardKey(ctx, j); err != nil {
		return err
	}
	if err := install(ctx, j.State); err != nil {
		return err
	}
	r.keys.installed(j)
	if j.State.Offload == nil {
		return r.done(j, nil)
	}
	return r.readBack(ctx, j)
}

// unlessCompat makes an error of reasons not to go on, or with --ip-compat warnings.
func (r *xfrmRun) unlessCompat(j job, reasons ...string) error {
	if len(reasons) == 0 {
		return nil
	}
	if !r.ipCompat {
		return &exitError{exitXfrmEngine, fmt.Errorf("%s %s %s: %s", j.Object, j.Verb, j.State.ID(), strings.Join(reasons, "; "))}
	}
	for _, reason := range reasons {
		r.warning(j, reason)
	}
	return nil
}

// foresee is what the kernel, or the device's driver, is known to refuse. A userspace device
// gives its reasons by itself.
func (r *xfrmRun) foresee(j job) (reasons []string) {
	if r.sad.socket != "" {
		return nil
	}
	for _, bad := range xfrm.Refusals(j.State, kernelRelease()) {
		reasons = append(reasons, bad.String())
	}
	if reasons != nil || j.State.Offload == nil {
		return reasons
	}
	if nic, err := r.askNIC(j.Device); err == nil && nic.Driver == "mlx5_core" {
		if bad := xfrm.ConnectXRefusal(j.State); bad != nil {
			reasons = append(reasons, fmt.Sprintf("%s does not offload %s", j.Device, bad))
		}
	}
	return reasons
}

// checkUpdate refuses an update that would be taken and not done: a kernel changes lifetimes,
// encapsulation and marks of an SA, and lets its key, selector and offload be. A larval SA is
// completed.
func (r *xfrmRun) checkUpdate(ctx context.Context, j job) error {
	now, err := r.engine.GetState(ctx, j.State.ID())
	if errors.Is(err, ipsec.ErrNotExist) || err == nil && now.IsLarval() {
		return nil // the engine says so, or completes it
	}
	if err != nil {
		return err
	}
	var ignored []string
	if !sameKeys(now, j.State) {
		ignored = append(ignored, "key")
	}
	if !sameSelector(now, j.State) {
		ignored = append(ignored, "selector")
	}
	if !sameOffload(now.Offload, j.State.Offload) {
		ignored = append(ignored, "offload")
	}
	if ignored == nil {
		return nil
	}
	return r.unlessCompat(j, fmt.Sprintf("an update does not change the %s of an SA, and says nothing about it; add a new SA with another spi, and delete this one", strings.Join(ignored, " and the ")))
}

// sameKeys compares algorithms, and their keys where the engine shows them.
func sameKeys(a, b *xfrm.State) bool {
	return sameAEAD(a.AEAD, b.AEAD) && sameAlgorithm(a.Crypt, b.Crypt) && sameAuth(a, b)
}

func sameAEAD(a, b *xfrm.AEAD) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && a.ICVBits == b.ICVBits && sameKey(a.Key, b.Key)
}

func sameAlgorithm(a, b *xfrm.Algorithm) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && sameKey(a.Key, b.Key)
}

// sameAuth takes either of the two ways to say it.
func sameAuth(a, b *xfrm.State) bool {
	name := func(s *xfrm.State) (string, ipsec.Key) {
		switch {
		case s.AuthTrunc != nil:
			return s.AuthTrunc.Name, s.AuthTrunc.Key
		case s.Auth != nil:
			return s.Auth.Name, s.Auth.Key
		}
		return "", ipsec.Key{}
	}
	nameA, keyA := name(a)
	nameB, keyB := name(b)
	return nameA == nameB && sameKey(keyA, keyB)
}

// sameKey counts a key that is withheld as any.
func sameKey(a, b ipsec.Key) bool { return a.Len() == 0 || b.Len() == 0 || a.Equal(b) }

func sameSelector(a, b *xfrm.State) bool {
	return everything(a.Sel.Selector) == everything(b.Sel.Selector)
}

// everything writes "all addresses" in one of its two ways.
func everything(s ipsec.Selector) ipsec.Selector {
	for _, p := range []*netip.Prefix{&s.Src, &s.Dst} {
		if p.IsValid() && p.Bits() == 0 {
			*p = netip.Prefix{}
		}
	}
	return s
}

// sameOffload looks at the device, the direction and the mode.
func sameOffload(a, b *xfrm.Offload) bool {
	if a == nil || b == nil {
		return a == b
	}
	const said = xfrm.OffloadInbound | xfrm.OffloadPacket
	return a.Ifindex == b.Ifindex && a.Flags&said == b.Flags&said
}
