package cli

import (
	"errors"
	"fmt"
	"strings"
)

// xfrmOptions are the options of `espalier xfrm`.
type xfrmOptions struct {
	sadFlag        string
	batch          string
	force          bool
	stats          bool
	format         format
	family         uint16
	netns          string
	showKeys       bool
	dryRun         bool
	requireOffload bool
	help           bool
}

// xfrmFlags are the options by name, without dashes: as with ip, one dash is as good as two.
var xfrmFlags = map[string]struct {
	value bool // takes a value
	set   func(o *xfrmOptions, value string)
}{
	"sad":             {true, func(o *xfrmOptions, v string) { o.sadFlag = v }},
	"b":               {true, func(o *xfrmOptions, v string) { o.batch = v }},
	"batch":           {true, func(o *xfrmOptions, v string) { o.batch = v }},
	"force":           {false, func(o *xfrmOptions, _ string) { o.force = true }},
	"s":               {false, func(o *xfrmOptions, _ string) { o.stats = true }},
	"stats":           {false, func(o *xfrmOptions, _ string) { o.stats = true }},
	"statistics":      {false, func(o *xfrmOptions, _ string) { o.stats = true }},
	"oneline":         {false, func(o *xfrmOptions, _ string) { o.format = formatOneLine }},
	"j":               {false, func(o *xfrmOptions, _ string) { o.format = formatJSON }},
	"json":            {false, func(o *xfrmOptions, _ string) { o.format = formatJSON }},
	"4":               {false, func(o *xfrmOptions, _ string) { o.family = 2 }},
	"6":               {false, func(o *xfrmOptions, _ string) { o.family = 10 }},
	"n":               {true, func(o *xfrmOptions, v string) { o.netns = v }},
	"netns":           {true, func(o *xfrmOptions, v string) { o.netns = v }},
	"show-keys":       {false, func(o *xfrmOptions, _ string) { o.showKeys = true }},
	"dry-run":         {false, func(o *xfrmOptions, _ string) { o.dryRun = true }},
	"require-offload": {false, func(o *xfrmOptions, _ string) { o.requireOffload = true }},
	"h":               {false, func(o *xfrmOptions, _ string) { o.help = true }},
	"help":            {false, func(o *xfrmOptions, _ string) { o.help = true }},
}

// parseXfrmOptions takes the options out of args. They may stand in front of the command,
// as ip wants them, or after it. The word behind `aead NAME` is a key whatever it looks
// like.
func parseXfrmOptions(args []string) (xfrmOptions, []string, error) {
	var o xfrmOptions
	var words []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		isKey := i >= 2 && args[i-2] == "aead"
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
		flag, ok := xfrmFlags[name]
		switch {
		case !ok:
			return o, nil, fmt.Errorf("there is no option %q", shorten("-"+strings.TrimLeft(name, "-")))
		case flag.value && !hasValue:
			if i+1 == len(args) {
				return o, nil, fmt.Errorf("%s needs a value", arg)
			}
			i++
			value = args[i]
		case !flag.value && hasValue:
			return o, nil, fmt.Errorf("-%s takes no value", name)
		}
		flag.set(&o, value)
	}
	if o.batch == "" && len(words) == 0 && !o.help {
		return o, nil, errors.New("nothing to do: state … or policy … goes here")
	}
	return o, words, nil
}

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
