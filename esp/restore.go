package esp

import (
	"fmt"

	"espalier/ipsec"
)

// Skip makes the next sequence number the one after sent, as another host has used those up to
// it. Errors are those of MaySkip.
func (o *Outbound) Skip(sent uint64) error {
	if err := o.MaySkip(sent); err != nil {
		return err
	}
	o.numbers.raise(sent)
	return nil
}

// MaySkip reports why Skip would fail. Numbers never go back: one before those reserved here is
// refused with an error that matches ipsec.ErrInvalid.
func (o *Outbound) MaySkip(sent uint64) error {
	if sent > o.limit {
		return fmt.Errorf("%w: sequence number %d without extended sequence numbers", ipsec.ErrInvalid, sent)
	}
	if have := o.numbers.sent.Load(); sent < have {
		return fmt.Errorf("%w: sequence number %d is behind %d, which was sent: nonces would be used twice", ipsec.ErrInvalid, sent, have)
	}
	return nil
}

// Restore sets the anti-replay window as [replay.Window.Restore] does. The error matches
// ipsec.ErrInvalid; then nothing has changed.
func (in *Inbound) Restore(received uint64, bitmap []uint32) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.window.Restore(received, bitmap); err != nil {
		return fmt.Errorf("%w: %w", ipsec.ErrInvalid, err)
	}
	return nil
}
