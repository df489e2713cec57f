package esp

import (
	"fmt"
	"sync"

	"espalier/aesgcm"
	"espalier/esp/replay"
	"espalier/ipsec"
)

const (
	// HeaderLen is SPI and sequence number (RFC 4303 §2.1, §2.2).
	HeaderLen = 8
	// IVLen is the explicit IV, the first bytes of the ESP payload data (RFC 4106 §3.1).
	IVLen = 8

	trailerLen = 2 // pad length and next header
	align      = 4 // encrypted part, in bytes (RFC 4303 §2.4)
	saltLen    = 4 // RFC 4106 §4
	minSPI     = 256
)

// saCrypto is what both directions of an SA have in common.
type saCrypto struct {
	spi    uint32
	icvLen int
	esn    bool

	// alive is held for reading while a batch uses the key, for writing to wipe it.
	alive sync.RWMutex
	wiped bool
	salt  [saltLen]byte
	aead  aesgcm.AEAD
}

// init validates sa for use in direction d and takes its key over.
func (c *saCrypto) init(sa *ipsec.SA, d ipsec.Direction) error {
	if err := validate(sa, d); err != nil {
		return fmt.Errorf("%sbound SA %s: %w", d, sa.ID(), err)
	}
	key := sa.Key.ExposeSecretBytes()
	salt := key[len(key)-saltLen:]
	aead, err := aesgcm.New(key[:len(key)-saltLen], sa.ICVBits/8)
	if err != nil {
		return fmt.Errorf("%sbound SA %s: %w: %w", d, sa.ID(), ipsec.ErrUnsupported, err)
	}
	c.spi, c.icvLen, c.esn = uint32(sa.SPI), sa.ICVBits/8, sa.ESN
	c.aead = aead
	copy(c.salt[:], salt)
	return nil
}

// validate says what of sa this package cannot work with. Its errors match
// ipsec.ErrInvalid or ipsec.ErrUnsupported.
func validate(sa *ipsec.SA, d ipsec.Direction) error {
	if sa.Direction != ipsec.AnyDirection && sa.Direction != d {
		return fmt.Errorf("%w: the SA is for direction %s", ipsec.ErrInvalid, sa.Direction)
	}
	if sa.SPI < minSPI {
		return fmt.Errorf("%w: SPIs below %d are reserved (RFC 4303 §2.1)", ipsec.ErrInvalid, minSPI)
	}
	if sa.Mode != ipsec.Transport && sa.Mode != ipsec.Tunnel {
		return fmt.Errorf("%w: mode is neither transport nor tunnel", ipsec.ErrInvalid)
	}
	switch sa.Key.Len() {
	case 16 + saltLen, 24 + saltLen, 32 + saltLen:
	default:
		return fmt.Errorf("%w: key and salt have %d bytes: they must have 20, 28 or 36 (RFC 4106 §8.1)", ipsec.ErrInvalid, sa.Key.Len())
	}
	switch sa.ICVBits {
	case 128, 96, 64:
	default:
		return fmt.Errorf("%w: ICV of %d bits: RFC 4106 has 64, 96 and 128", ipsec.ErrInvalid, sa.ICVBits)
	}
	// An outbound SA keeps no window, so there it need not fit ESN.
	if _, err := replay.New(sa.Window, sa.ESN && d == ipsec.Inbound); err != nil {
		return fmt.Errorf("%w: %w", ipsec.ErrInvalid, err)
	}
	return nil
}

// Wipe ends the use of the key: it waits for batches under way, then wipes salt and key as
// far as the AES-GCM implementation can (see [aesgcm.AEAD]). Later batches fail with
// ErrWiped. It may be called more than once. The caller's ipsec.Key is not touched.
func (c *saCrypto) Wipe() {
	c.alive.Lock()
	defer c.alive.Unlock()
	c.wiped = true
	c.aead.Wipe()
	clear(c.salt[:])
}
