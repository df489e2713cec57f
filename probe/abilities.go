package probe

import (
	"io/fs"
	"strconv"
	"strings"
)

// Ability is whether a kernel can do something, and why not or why that is not known.
type Ability struct {
	Answer Answer
	Why    string
}

// Abilities are what a kernel can do with ESP.
type Abilities struct {
	Release          string  // uname -r
	ESP4, ESP6       Ability // AES-GCM over IPv4, IPv6
	Crypto4, Crypto6 Ability // of it, crypto offload
	Packet           Ability // packet offload
	Direction        Ability // SAs of one direction (XFRMA_SA_DIR)
	PCPU             Ability // SAs of one CPU (XFRMA_SA_PCPU)
	CPUs             int     // that are on, or were: one more than the highest number; 0 is not known
}

// KernelAbilities reads what can be told at once: unlike Examine it does not look for functions in the
// running kernel, which takes 100 ms, so that a version alone proves only what is there.
func KernelAbilities(root fs.FS) Abilities {
	k := readKernel(root)
	k.symbols = func() symbols { return symbols{err: fs.ErrInvalid} }
	a := Abilities{Release: k.release, CPUs: readCPUs(root)}
	for _, esp := range []struct {
		to      *Ability
		options []string
	}{
		{&a.ESP4, []string{"XFRM", "XFRM_USER", "INET_ESP", "CRYPTO_GCM", "CRYPTO_SEQIV"}},
		{&a.ESP6, []string{"XFRM", "XFRM_USER", "INET6_ESP", "CRYPTO_GCM", "CRYPTO_SEQIV"}},
		{&a.Crypto4, []string{"XFRM_OFFLOAD", "INET_ESP_OFFLOAD"}},
		{&a.Crypto6, []string{"XFRM_OFFLOAD", "INET6_ESP_OFFLOAD"}},
	} {
		*esp.to = k.able(esp.options)
	}
	for id, to := range map[string]*Ability{"kernel.packet-offload": &a.Packet, "kernel.sa-direction": &a.Direction, "kernel.pcpu": &a.PCPU} {
		for _, f := range features {
			if f.id == id {
				*to = k.came(f)
			}
		}
	}
	return a
}

// able asks for all of some options: the first that is missing, else that is not known, decides.
func (k *kernel) able(names []string) Ability {
	able := Ability{Answer: Yes}
	for _, name := range names {
		for _, o := range hostOptions {
			if o.name != name {
				continue
			}
			switch c := k.find(o).check; {
			case c.Answer == No:
				return Ability{No, c.Why}
			case c.Answer == Unknown && able.Answer == Yes:
				able = Ability{Unknown, c.Why}
			}
		}
	}
	return able
}

// came answers by the version, which says nothing of what was taken over.
func (k *kernel) came(f feature) Ability {
	switch {
	case k.version == version{}:
		return Ability{Unknown, "the kernel's release cannot be read"}
	case !k.version.before(f.since):
		return Ability{Answer: Yes}
	case f.symbol == "":
		return Ability{No, "it came with Linux " + f.since.String() + ", this is " + k.version.String()}
	}
	return Ability{Unknown, "it came with Linux " + f.since.String() + ", this is " + k.version.String() + "; whether it was taken over only trying shows"}
}

// readCPUs takes the last number of "0-3,8-11".
func readCPUs(root fs.FS) int {
	list := readWord(root, "sys/devices/system/cpu/online")
	last := list[strings.LastIndexAny(list, ",-")+1:]
	n, err := strconv.ParseUint(last, 10, 16)
	if err != nil {
		return 0
	}
	return int(n) + 1
}
