package boot

import (
	"context"
	"errors"
)

// Hold sees to it that a UDP socket takes ESP in UDP (RFC 3948) for the kernel on each of the ports, for
// IPv4 and IPv6, now and after a reboot, and that no others of ours do. It returns when the sockets are there.
func (p *Place) Hold(ctx context.Context, ports []uint16) error { return errors.ErrUnsupported }
