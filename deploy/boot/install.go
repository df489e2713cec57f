package boot

import "errors"

// Install makes the guard of these pairs, all that this host owns, last: it writes them down, puts
// their guard in force in the place of the one before, and has them loaded at each boot before
// networking. The same pairs again change nothing. With no pairs it is Remove.
//
// The guard is in force and written down even if the unit cannot be installed, which the error then says.
func (p *Place) Install(pairs []Pair) error { return errors.ErrUnsupported }

// Remove takes the guard out of force and away, with its unit; ends the holders; and removes what
// belongs to nothing else. The timer goes with its last rotation (SetRotation). Each part is tried even
// if another fails.
func (p *Place) Remove() error { return errors.ErrUnsupported }

// Load puts the guard in force that was written down: what a host does when it boots, before its
// network comes up. What is damaged is told, and does not keep the rest from being loaded; then
// fallback, unless nil, tells what else was owned (from the journal), and both together are loaded. found tells
// whether there was anything to load.
func (p *Place) Load(fallback func() ([]Pair, error)) (found bool, err error) {
	return false, errors.ErrUnsupported
}
