package differential

import (
	"slices"
	"strings"
)

// Difference is one thing that espalier does otherwise than ip, on purpose.
type Difference struct {
	What string // as a person would meet it
	Why  string

	// explains reports whether this is why the outcomes of a command differ. nil: the
	// difference is one of bytes or text that normal or the tests of printing take away.
	explains func(*comparison) bool
	old      bool // only from versions of ip before 6.11
}

// comparison is one command and what became of it.
type comparison struct {
	options  []string // of ip, before the object
	words    []string
	ip, ours outcome
	newIP    bool // iproute2 6.11 or newer, which knows dir and sends it with offload
	ipSent   []message
	oursSent []message
	ourWords string // espalier's error
}

// outcome is how a command ended: as an exit code.
type outcome int

const (
	exitOK       outcome = 0
	exitSemantic outcome = 1
	exitKernel   outcome = 2
	exitSyntax   outcome = 255
)

func (c *comparison) has(word string) bool { return slices.Contains(c.words, word) }

// after are the words that follow a keyword, wherever it stands.
func (c *comparison) after(keywords ...string) []string {
	var words []string
	for i, w := range c.words[:max(len(c.words)-1, 0)] {
		if slices.Contains(keywords, w) {
			words = append(words, c.words[i+1])
		}
	}
	return words
}

// refused: espalier does not send what ip sends.
func (c *comparison) refused() bool {
	return (c.ours == exitSyntax || c.ours == exitSemantic || c.ours == exitKernel && len(c.oursSent) == 0) &&
		(c.ip == exitOK || c.ip == exitKernel)
}

func (c *comparison) verb() string {
	if len(c.words) < 2 {
		return ""
	}
	return c.words[1]
}

func anyWord(words []string, f func(string) bool) bool { return slices.IndexFunc(words, f) >= 0 }

// Differences is everything that differs on purpose.
var Differences = []Difference{
	{
		What: "Options may stand behind the command, too, and `-h` is help.",
		Why:  "That is what the other commands of espalier do; `ip` takes options before the object only.",
	},
	{
		What: "`-o` followed by `json`, `yaml`, `wide`, `text` or `oneline` is a format; `-j` gives JSON.",
		Why:  "`ip xfrm` has no JSON: it ignores `-j`.",
	},
	{
		What: "Keys are not printed unless `--show-keys` is given.",
		Why:  "A listing or a log should not leak them. `nokeys` is taken, and wins.",
	},
	{
		What: "`monitor` of SAs also tells when a link goes down, goes away or loses its carrier that offloaded SAs are on, and which SAs went with it.",
		Why:  "Linux deletes them without an event. Nothing is added while no SA is offloaded, or for other groups.",
	},
	{
		What: "A key may be `@FILE`, `-` for standard input, or `--generate-key`.",
		Why:  "Keys on the command line are in the process list and the shell's history.",
		explains: func(c *comparison) bool {
			return c.ours == exitSyntax && anyWord(c.words, func(w string) bool { return strings.HasPrefix(w, "@") })
		},
	},
	{
		What: "What the kernel, or the driver of a ConnectX, is known to refuse is refused without asking, with the cure; `--ip-compat` asks, and warns.",
		Why:  "Kernels say it in few words, or in their log, or not at all.",
	},
	{
		What: "`state update` with another key, selector or offload is refused; `--ip-compat` sends it, and warns.",
		Why:  "The kernel takes it and changes none of them. So an update looks at the SA first.",
	},
	{
		What: "An AES-GCM key that was ever installed on this host is not taken for sending; `--allow-key-reuse` and `--ip-compat` warn instead.",
		Why:  "The new SA would count its nonces from 1 again, and a nonce used twice gives the plaintext away.",
	},
	{
		What: "An SA with `offload` is read back, and what became of it told; `--require-offload` takes it out again.",
		Why:  "The kernel takes it and encrypts in software without a word.",
	},
	{
		What: "A batch is parsed whole before anything is sent, with `-force`, too; it then goes on after what the kernel refuses.",
		Why:  "Half a set of SAs is worse than none. `ip -batch` finds a bad line when it comes to it, and ends there even with `-force`.",
	},
	{
		What: "Attributes are sent in a fixed order, those given twice (encap, offload) once: the last.",
		Why:  "Netlink gives the order no meaning, and the kernel keeps the last.",
	},
	{
		What: "`if_id 0`, `ptype main` and `output-mark N mask 0xffffffff` do not send what is the default.",
		Why:  "To the kernel it means the same.",
	},
	{
		What: "`output-mark 0 mask N` does not send the mask.",
		Why:  "The kernel ignores a mask without a mark.",
	},
	{
		What: "Flush and default policy messages are padded to four bytes.",
		Why:  "The netlink library sends whole words, as netlink(7) has it.",
	},
	{
		What:     "`deleteall` deletes one by one, each acknowledged.",
		Why:      "Then an error names the SA or policy. `ip` sends them in one go, and stumbles over larval SAs with marks.",
		explains: func(c *comparison) bool { return strings.HasPrefix(c.verb(), "del") && len(c.verb()) > 3 },
	},
	{
		old:  true,
		What: "`offload dir in` without a device is refused.",
		Why:  "`ip` has required one since 6.2.",
		explains: func(c *comparison) bool {
			return !c.newIP && slices.Contains(c.after("offload"), "dir") && c.refused()
		},
	},
	{
		What: "Of `offload` given twice the last one counts.",
		Why:  "`ip` keeps the packet mode of the first.",
		explains: func(c *comparison) bool {
			const offload = 28
			return len(c.after("offload")) > 1 && c.has("packet") && len(c.ipSent) == 1 && len(c.oursSent) == 1 &&
				c.ipSent[0].without(offload).equal(c.oursSent[0].without(offload))
		},
	},
	{
		What: "`offload … dir out` with a replay window does not send the SA's direction.",
		Why:  "The kernel refuses a replay window with direction out, and the vendor's commands have one: `ip` has broken them in 6.11.",
		explains: func(c *comparison) bool {
			return c.newIP && c.has("offload") && c.has("replay-window") && c.ours == c.ip && onlyDirDiffers(c)
		},
	},
	{
		What: "`dir` that contradicts `offload … dir`, before or after it, is refused.",
		Why:  "The kernel refuses it; `ip` lets the last one win.",
		explains: func(c *comparison) bool {
			return c.has("offload") && len(c.after("dir")) > 1 && c.ours == exitSemantic
		},
	},
	{
		What: "Numbers have no sign and no blanks.",
		Why:  "`ip` takes -1 for 2⁶⁴-1, which is never what was meant.",
		explains: func(c *comparison) bool {
			return c.ours == exitSyntax && c.ip != exitSyntax && anyWord(c.words, func(w string) bool {
				return strings.HasPrefix(w, "-") || strings.HasPrefix(w, "+") || strings.HasPrefix(w, " ")
			})
		},
	},
	{
		What: "A number of an address that begins with 0 is refused, and so is hexadecimal.",
		Why:  "010.0.0.1 is 8.0.0.1 to some and 10.0.0.1 to others.",
		explains: func(c *comparison) bool {
			return c.ours == exitSemantic && c.ip != exitSemantic && anyWord(c.after("src", "dst", "coa"), func(w string) bool {
				return strings.HasPrefix(w, "0") && w != "0/0"
			})
		},
	},
	{
		What: "Empty keys, `0x` as a key, empty names and names beyond 63 bytes are refused.",
		Why:  "`ip` makes an empty key, a key of the letters 0x, and cuts names off.",
		explains: func(c *comparison) bool {
			return c.ours == exitSyntax && c.ip != exitSyntax && anyWord(c.words, func(w string) bool { return w == "" || w == "0x" || len(w) > 63 })
		},
	},
	{
		What: "An algorithm's name that begins with 0x is refused.",
		Why:  "It is a key in the wrong place.",
		explains: func(c *comparison) bool {
			return c.ours == exitSyntax && c.ip != exitSyntax && anyWord(c.after("enc", "auth", "auth-trunc", "aead", "comp"), func(w string) bool { return strings.HasPrefix(w, "0x") })
		},
	},
	{
		What: "`replay-seq-hi` and `replay-oseq-hi` without ESN, and without a window beyond 32, are refused.",
		Why:  "There is no room for them in what is sent: `ip` drops them without a word.",
		explains: func(c *comparison) bool {
			return (c.has("replay-seq-hi") || c.has("replay-oseq-hi")) && c.ours == exitSemantic
		},
	},
	{
		What: "Addresses of both families in one SA (`sel` twice, `coa`, the address of `encap`) or policy are refused.",
		Why:  "`ip` sends four bytes of one where sixteen of the other belong.",
		explains: func(c *comparison) bool {
			return c.refused() && (strings.Contains(c.ourWords, "is not of the SA's family") || (c.has("sel") || c.has("coa")) && bothFamilies(c.words))
		},
	},
	{
		What: "`state delete` and `get` without an ID are refused.",
		Why:  "`ip` sends nothing but zeros, and the kernel refuses.",
		explains: func(c *comparison) bool {
			return c.words[0] == "state" && !c.has("proto") && c.ours == exitSemantic && c.ip == exitKernel
		},
	},
	{
		What: "Words behind `count` and `getdefault` are refused.",
		Why:  "`ip` ignores them.",
		explains: func(c *comparison) bool {
			v := c.verb()
			return (strings.HasPrefix("count", v) || strings.HasPrefix("getdefault", v)) && len(c.words) > 2 && c.ours == exitSyntax && c.ip == exitOK
		},
	},
	{
		What: "`delete`, `get` and `allocspi` send a mark also where no bit of it is within its mask.",
		Why:  "Without it a policy with such a mark, which `add` makes, is never found.",
		explains: func(c *comparison) bool {
			const mark = 21
			return c.has("mark") && len(c.ipSent) == 1 && len(c.oursSent) == 1 && c.ipSent[0].attrs[mark] == nil &&
				c.ipSent[0].equal(c.oursSent[0].without(mark))
		},
	},
	{
		What: "More than six templates are refused before anything is sent.",
		Why:  "The kernel refuses them.",
		explains: func(c *comparison) bool {
			return len(c.after("tmpl")) > 6 && c.ours == exitKernel && c.ip == exitKernel
		},
	},
	{
		What: "Protocols of selectors may be written in capitals.",
		Why:  "`ip` takes the names and aliases of /etc/protocols; espalier has the usual ones built in, so that a command means the same on every host.",
		explains: func(c *comparison) bool {
			return c.ip == exitSyntax && anyWord(c.after("proto"), func(w string) bool { return w != strings.ToLower(w) })
		},
	},
	{
		What:     "`pcpu-num` is taken.",
		Why:      "iproute2 has it since 6.19.",
		explains: func(c *comparison) bool { return c.has("pcpu-num") && c.ip == exitSyntax },
	},
	{
		What: "`nat-keepalive SECONDS` and `mapping-maxage SECONDS` are taken and printed.",
		Why:  "`ip` has no words for XFRMA_NAT_KEEPALIVE_INTERVAL and XFRMA_MTIMER_THRESH.",
		explains: func(c *comparison) bool {
			return (c.has("nat-keepalive") || c.has("mapping-maxage")) && c.ip == exitSyntax
		},
	},
	{
		old:  true,
		What: "The direction of an SA and `offload packet` are taken.",
		Why:  "iproute2 has them since 6.2 and 6.11.",
		explains: func(c *comparison) bool {
			return !c.newIP && (c.has("dir") || c.has("packet") || c.has("crypto") || c.has("allow"))
		},
	},
	{
		What: "`flag esn` without a replay window is taken with `dir out`.",
		Why:  "As `ip` does since 6.11; older ones refuse it.",
	},
	{
		What: "The bitmap of an ESN state that is only announced prints as zeros.",
		Why:  "`ip` prints what lies behind the message.",
	},
	{
		What: "`state list proto ipsec-any` lists ESP, AH and IPComp.",
		Why:  "`ip` asks the kernel for them, and then prints none.",
	},
}

// onlyDirDiffers reports whether the messages are the same but for XFRMA_SA_DIR.
func onlyDirDiffers(c *comparison) bool {
	const dir = 33
	if len(c.ipSent) != 1 || len(c.oursSent) != 1 {
		return false
	}
	return c.ipSent[0].without(dir).equal(c.oursSent[0].without(dir))
}

func bothFamilies(words []string) bool {
	v6 := anyWord(words, func(w string) bool { return strings.Contains(w, "::") })
	return v6 && anyWord(words, func(w string) bool { return strings.Count(w, ".") >= 1 }) || v6 && anyWord(words, func(w string) bool { return w == "any" })
}
