package xfrm

import (
	"bytes"
	"strings"

	"espalier/ipsec"
)

// AEAD is struct xfrm_algo_aead. Key includes the salt. Name is the kernel's, such as
// "rfc4106(gcm(aes))".
type AEAD struct {
	Name    string
	Key     ipsec.Key
	ICVBits uint32
	// KeyBits is the length the message named; it differs from Key.Len()*8 only where the
	// key itself was withheld.
	KeyBits uint32
}

// AEADName is the name the kernel gives to AES-GCM in ESP.
const AEADName = "rfc4106(gcm(aes))"

// Algorithm is struct xfrm_algo: encryption, authentication or compression by the kernel's
// name, such as "cbc(aes)". KeyBits is as in AEAD.
type Algorithm struct {
	Name    string
	Key     ipsec.Key
	KeyBits uint32
}

// AuthTrunc is struct xfrm_algo_auth: authentication whose ICV is cut to TruncBits.
type AuthTrunc struct {
	Name      string
	Key       ipsec.Key
	TruncBits uint32
	KeyBits   uint32
}

// WipeKeys overwrites the keys of the state, for those who read states back and have no use for
// them. Copies of the state share its keys.
func (s *State) WipeKeys() {
	if s.AEAD != nil {
		s.AEAD.Key.Wipe()
	}
	if s.AuthTrunc != nil {
		s.AuthTrunc.Key.Wipe()
	}
	for _, a := range []*Algorithm{s.Crypt, s.Auth, s.Comp} {
		if a != nil {
			a.Key.Wipe()
		}
	}
}

const (
	// maxName is the room for an algorithm's name and its NUL.
	maxName = 64
	// sizeAlgorithm is struct xfrm_algo without its key; some have one more number.
	sizeAlgorithm = 68
	// maxKeyBytes keeps an attribute with a key within its 16-bit length.
	maxKeyBytes = 1<<16 - 1 - 4 - sizeAEAD
)

// putAlgorithm adds a struct xfrm_algo; with a number (of bits of the ICV) between the key's
// length and the key it is a struct xfrm_algo_aead or xfrm_algo_auth.
func putAlgorithm(p *payload, typ uint16, what, name string, key ipsec.Key, keyBits uint32, number ...uint32) error {
	if len(name) == 0 || len(name) >= maxName {
		return invalid("%s name of %d characters: 1 to %d fit", what, len(name), maxName-1)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return invalid("%s name %q holds a NUL", what, name)
	}
	if n := key.Len(); n > 0 {
		if keyBits != 0 && keyBits != uint32(n)*8 {
			return invalid("%s key of %d bits said to be %d", what, n*8, keyBits)
		}
		keyBits = uint32(n) * 8
	}
	if keyBits%8 != 0 || keyBits/8 > maxKeyBytes {
		return invalid("%s key of %d bits", what, keyBits)
	}
	head := sizeAlgorithm + 4*len(number)
	b := p.attr(typ, head+int(keyBits/8))
	copy(b, name)
	host.PutUint32(b[maxName:], keyBits)
	for i, v := range number {
		host.PutUint32(b[sizeAlgorithm+4*i:], v)
	}
	copy(b[head:], key.ExposeSecretBytes())
	return nil
}

// getAlgorithm reads what putAlgorithm writes, with the number where to is given. A key of
// zeros counts as withheld. The key in data is wiped.
func getAlgorithm(what string, data []byte, number *uint32) (a Algorithm, err error) {
	head := sizeAlgorithm
	if number != nil {
		head += 4
	}
	if err := need(what, data, head); err != nil {
		return a, err
	}
	n := bytes.IndexByte(data[:maxName], 0)
	if n <= 0 {
		return a, invalid("%s: the name is empty or does not end", what)
	}
	a = Algorithm{Name: string(data[:n]), KeyBits: host.Uint32(data[maxName:])}
	if number != nil {
		*number = host.Uint32(data[sizeAlgorithm:])
	}
	key := data[head:]
	defer clear(key)
	if a.KeyBits%8 != 0 || uint64(a.KeyBits/8) > uint64(len(key)) {
		return a, invalid("%s: a key of %d bits in %d bytes", what, a.KeyBits, len(key))
	}
	if key = key[:a.KeyBits/8]; !allZero(key) {
		a.Key = ipsec.NewKey(key)
	}
	return a, nil
}

// getStateAlgorithm reads an attribute that carries an algorithm into s, and wipes the key there. A
// key that was there before, of an attribute that comes twice, is wiped.
func getStateAlgorithm(s *State, typ uint16, data []byte) error {
	var number uint32
	switch typ {
	case attrAEAD:
		a, err := getAlgorithm("XFRMA_ALG_AEAD", data, &number)
		if err != nil {
			return err
		}
		if s.AEAD != nil {
			s.AEAD.Key.Wipe()
		}
		s.AEAD = &AEAD{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits, ICVBits: number}
	case attrAlgAuthTrunc:
		a, err := getAlgorithm("XFRMA_ALG_AUTH_TRUNC", data, &number)
		if err != nil {
			return err
		}
		if s.AuthTrunc != nil {
			s.AuthTrunc.Key.Wipe()
		}
		s.AuthTrunc = &AuthTrunc{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits, TruncBits: number}
	case attrAlgCrypt:
		return getPlainAlgorithm("XFRMA_ALG_CRYPT", data, &s.Crypt)
	case attrAlgAuth:
		return getPlainAlgorithm("XFRMA_ALG_AUTH", data, &s.Auth)
	case attrAlgComp:
		return getPlainAlgorithm("XFRMA_ALG_COMP", data, &s.Comp)
	}
	return nil
}

func getPlainAlgorithm(what string, data []byte, to **Algorithm) error {
	a, err := getAlgorithm(what, data, nil)
	if err != nil {
		return err
	}
	if *to != nil {
		(*to).Key.Wipe()
	}
	*to = &a
	return nil
}
