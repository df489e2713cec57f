package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xfrmOptions are the options of `espalier xfrm`.
type xfrmOptions struct {
	sadFlag        string
	batch          string
	force          bool
	stats          bool
	timestamp      timestamp
	format         format
	family         uint16
	netns          string
	showKeys       bool
	dryRun         bool
	requireOffload bool
	allowKeyReuse  bool
	ipCompat       bool
	generateKey    bool
	atomic         bool
	help           bool
}

type xfrmFlag struct {
	name  string
	value bool // takes a value
	set   func(o *xfrmOptions, value string) error
}

// ownFlags are the options that ip does not have. They are not shortened.
var ownFlags = []xfrmFlag{
	{"sad", true, func(o *xfrmOptions, v string) error { o.sadFlag = v; return nil }},
	{"show-keys", false, func(o *xfrmOptions, _ string) error { o.showKeys = true; return nil }},
	{"dry-run", false, func(o *xfrmOptions, _ string) error { o.dryRun = true; return nil }},
	{"require-offload", false, func(o *xfrmOptions, _ string) error { o.requireOffload = true; return nil }},
	{"allow-key-reuse", false, func(o *xfrmOptions, _ string) error { o.allowKeyReuse = true; return nil }},
	{"ip-compat", false, func(o *xfrmOptions, _ string) error { o.ipCompat = true; return nil }},
	{"generate-key", false, func(o *xfrmOptions, _ string) error { o.generateKey = true; return nil }},
	{"atomic", false, func(o *xfrmOptions, _ string) error { o.atomic = true; return nil }},
	{"h", false, func(o *xfrmOptions, _ string) error { o.help = true; return nil }},
}

// ipFlags are those of ip, which may be shortened: the first match in this order wins. What
// makes no difference to `ip xfrm` makes none here.
var ipFlags = []xfrmFlag{
	{"loops", true, ignored},
	{"family", true, (*xfrmOptions).setFamily},
	{"4", false, func(o *xfrmOptions, _ string) error { o.family = unix.AF_INET; return nil }},
	{"6", false, func(o *xfrmOptions, _ string) error { o.family = unix.AF_INET6; return nil }},
	{"stats", false, func(o *xfrmOptions, _ string) error { o.stats = true; return nil }},
	{"statistics", false, func(o *xfrmOptions, _ string) error { o.stats = true; return nil }},
	{"details", false, ignored},
	{"resolve", false, ignored},
	{"oneline", false, func(o *xfrmOptions, _ string) error { o.format = formatOneLine; return nil }},
	{"timestamp", false, func(o *xfrmOptions, _ string) error { o.timestamp = timestampLong; return nil }},
	{"tshort", false, func(o *xfrmOptions, _ string) error { o.timestamp = timestampShort; return nil }},
	{"ts", false, func(o *xfrmOptions, _ string) error { o.timestamp = timestampShort; return nil }},
	{"force", false, func(o *xfrmOptions, _ string) error { o.force = true; return nil }},
	{"batch", true, func(o *xfrmOptions, v string) error { o.batch = v; return nil }},
	{"brief", false, ignored},
	{"json", false, func(o *xfrmOptions, _ string) error { o.format = formatJSON; return nil }},
	{"pretty", false, ignored},
	{"rcvbuf", true, ignored},
	{"netns", true, func(o *xfrmOptions, v string) error { o.netns = v; return nil }},
	{"Numeric", false, ignored},
	{"human-readable", false, ignored},
	{"iec", false, ignored},
	{"echo", false, ignored},
	{"all", false, ignored},
	{"color", false, ignored},
	{"help", false, func(o *xfrmOptions, _ string) error { o.help = true; return nil }},
}

func ignored(*xfrmOptions, string) error { return nil }

func (o *xfrmOptions) setFamily(name string) error {
	switch name {
	case "inet":
		o.family = unix.AF_INET
	case "inet6":
		o.family = unix.AF_INET6
	default:
		return fmt.Errorf("-family %s: inet or inet6 goes here", shorten(name))
	}
	return nil
}

// findFlag finds an option by its name without dashes: as with ip, one dash is as good as two.
func findFlag(name string) *xfrmFlag {
	for i := range ownFlags {
		if name == ownFlags[i].name {
			return &ownFlags[i]
		}
	}
	for i := range ipFlags {
		if name != "" && strings.HasPrefix(ipFlags[i].name, name) {
			return &ipFlags[i]
		}
	}
	return nil
}

// parseXfrmOptions takes the options out of args. They may stand in front of the command,
// as ip wants them, or after it. The word behind the name of an algorithm is a key whatever it
// looks like.
func parseXfrmOptions(args []string) (xfrmOptions, []string, error) {
	var o xfrmOptions
	var words []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		isKey := i >= 2 && slices.Contains(keyKeywords, args[i-2])
		if isKey || len(arg) < 2 || arg[0] != '-' {
			words = append(words, arg)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if name == "o" && !hasValue {
			o.format = formatOneLine
			if i+1 < len(args) && isFormat(args[i+1]) {
				i++
				value, hasValue = args[i], true
			}
		}
		if name == "o" {
			if hasValue && !o.setFormat(value) {
				return o, nil, fmt.Errorf("-o %s is not one of xfrm's formats: json, yaml, wide, or nothing for one line per object", value)
			}
			continue
		}
		flag := findFlag(name)
		switch {
		case flag == nil:
			return o, nil, fmt.Errorf("there is no option %q", shorten("-"+strings.TrimLeft(name, "-")))
		case flag.value && !hasValue:
			if i+1 == len(args) {
				return o, nil, fmt.Errorf("%s needs a value", arg)
			}
			i++
			value = args[i]
		case !flag.value && hasValue && flag.name != "color":
			return o, nil, fmt.Errorf("-%s takes no value", name)
		}
		if err := flag.set(&o, value); err != nil {
			return o, nil, err
		}
	}
	if o.atomic && (o.force || o.batch == "") {
		return o, nil, errors.New("--atomic is for a batch that ends with its first failure: give -batch, and no -force")
	}
	if o.batch == "" && len(words) == 0 && !o.help && !o.generateKey {
		return o, nil, errors.New("nothing to do: state …, policy … or monitor … goes here")
	}
	return o, words, nil
}

// keyKeywords stand two words before a key.
var keyKeywords = []string{"aead", "enc", "auth", "auth-trunc"}

// isFormat tells a format behind -o from the command that follows ip's own -o.
func isFormat(word string) bool { return word == "json" || word == "yaml" || word == "wide" }

func (o *xfrmOptions) setFormat(name string) bool {
	switch name {
	case "json":
		o.format = formatJSON
	case "yaml":
		o.format = formatYAML
	case "wide":
		o.format, o.stats = formatWide, true
	case "oneline":
		o.format = formatOneLine
	case "text":
		o.format = formatText
	default:
		return false
	}
	return true
}

// shorten keeps a word that may be anything, also a key, out of messages.
func shorten(word string) string {
	if len(word) > 20 {
		return "…"
	}
	return word
}
