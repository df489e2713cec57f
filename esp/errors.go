package esp

import "errors"

// Why a packet was not delivered. Besides these, [Inbound.Open] reports the verdicts of
// package replay: ErrReplayed, ErrTooOld, ErrZero.
var (
	// ErrTruncated: too short to hold header, IV, pad length, next header and ICV.
	ErrTruncated = errors.New("ESP packet is too short")
	// ErrSPI: the packet belongs to another SA.
	ErrSPI = errors.New("SPI is not that of the SA")
	// ErrIntegrity: the ICV does not verify; forged, damaged, or another key.
	ErrIntegrity = errors.New("ICV does not verify")
	// ErrPadding: authentic, but the padding is longer than the packet or is not 1, 2, 3…
	// (RFC 4303 §2.4).
	ErrPadding = errors.New("ESP padding is wrong")
	// ErrLength: authentic, but the inner IP or UDP length does not fit the payload.
	ErrLength = errors.New("inner length does not fit the payload")
	// ErrNextHeader: authentic, but the payload is not what the next header or the mode of
	// the SA says: tunnel mode carries IPv4 (4) and IPv6 (41).
	ErrNextHeader = errors.New("payload is not what the next header and the mode say")
	// ErrDummy: an authentic dummy packet (next header 59), to be dropped silently
	// (RFC 4303 §2.6). It is not a fault.
	ErrDummy = errors.New("dummy packet")
)

// Why packets cannot be sent.
var (
	// ErrExhausted: the sequence numbers of the SA do not suffice. They never wrap; a new
	// SA must take over (RFC 4303 §3.3.3).
	ErrExhausted = errors.New("sequence numbers are used up")
	// ErrSequence: a packet to be sealed does not carry a number reserved for it.
	ErrSequence = errors.New("packet does not carry a reserved sequence number")
)

// ErrWiped is reported by both directions after Wipe.
var ErrWiped = errors.New("the key of the SA is wiped")
