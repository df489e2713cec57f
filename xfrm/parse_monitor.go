package xfrm

import "slices"

// monitorGroups are the event groups by name, which may be shortened: the first match in this
// order wins, which is ip's order.
var monitorGroups = []struct {
	name  string
	group uint32
}{
	{"acquire", GroupAcquire}, {"expire", GroupExpire}, {"SA", GroupSA}, {"aevent", GroupAEvents},
	{"policy", GroupPolicy}, {"report", GroupReport},
}

// monitorCommand reads [nokeys] [all-nsid] [all | GROUP…] [file FILE]. Groups that are named
// are all there is, whatever `all` says.
func (c *cursor) monitorCommand(cmd *Command) error {
	m := &Monitor{}
	cmd.Monitor = m
	for c.more() {
		switch word := c.next(); {
		case isAbbreviation(word, "file"):
			var err error
			if m.File, err = c.value(ValueFile); err != nil {
				return err
			}
		case word == "nokeys":
			cmd.NoKeys = true
		case word == "all":
		case isAbbreviation(word, "all-nsid"):
			m.AllNSID = true
		default:
			if err := c.monitorGroup(m, word); err != nil {
				return err
			}
		}
	}
	c.offer(monitorWords()...)
	if m.Groups == nil {
		for g := GroupAcquire; g <= GroupMapping; g++ {
			m.Groups = append(m.Groups, g)
		}
	}
	return nil
}

func (c *cursor) monitorGroup(m *Monitor, word string) error {
	for _, g := range monitorGroups {
		if isAbbreviation(word, g.name) {
			if !slices.Contains(m.Groups, g.group) {
				m.Groups = append(m.Groups, g.group)
			}
			return nil
		}
	}
	return c.wrong("is not a group of events", monitorWords()...)
}

func monitorWords() []string {
	words := []string{"all", "all-nsid", "nokeys", "file"}
	for _, g := range monitorGroups {
		words = append(words, g.name)
	}
	return words
}
