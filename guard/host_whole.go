package guard

import (
	"errors"
	"maps"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// HostLoaded reports whether the host's guard is in force for just these rules, with nothing taken from
// it or added to it since: it compares how often each rule and each element of a set is there, by what
// their comments say. loaded is whether there is any rule of it.
func HostLoaded(r HostRules) (loaded, whole bool, err error) {
	entries, encaps, err := r.check()
	if err != nil {
		return false, false, err
	}
	var want, have parts
	if want, err = wantedParts(hostRequests(&r, entries, encaps, drops{})); err != nil {
		return false, false, err
	}
	err = withConn(func(c *conn) error {
		return c.unchanged(func() (err error) {
			if have, err = c.readParts(hostTable); errors.Is(err, unix.ENOENT) {
				have, err = nil, nil // the table is not there
			}
			return err
		})
	})
	for p := range have {
		loaded = loaded || strings.HasPrefix(p.in, chainWord)
	}
	return loaded, err == nil && maps.Equal(have, want), err
}

const chainWord = "chain "

// part is a rule of a chain, or an element of a set, by its comment.
type part struct{ in, comment string }

// parts counts those that are the same.
type parts map[part]int

func (p parts) addRule(of table, m netlink.Message) error {
	var name string
	var one part
	err := attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			name = ad.String()
		case unix.NFTA_RULE_CHAIN:
			one.in = chainWord + ad.String()
		case unix.NFTA_RULE_USERDATA:
			one.comment = decodeUserdata(ad.Bytes())
		}
	})
	if err == nil && name == of.name {
		p[one]++
	}
	return err
}

func (p parts) addElements(set string, m netlink.Message) error {
	comments, err := decodeElements(m)
	for _, comment := range comments {
		p[part{setWord + set, comment}]++
	}
	return err
}

// nameOfSet is that of a set, or of the set that elements are of.
func nameOfSet(m netlink.Message) (table, set string, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_SET_TABLE: // NFTA_SET_ELEM_LIST_TABLE has the same number
			table = ad.String()
		case unix.NFTA_SET_NAME: // as NFTA_SET_ELEM_LIST_SET
			set = ad.String()
		}
	})
	return table, set, err
}

// wantedParts are those that requests make.
func wantedParts(requests []request) (parts, error) {
	all := parts{}
	for i := range requests {
		kind := requests[i].kind
		if kind != unix.NFT_MSG_NEWRULE && kind != unix.NFT_MSG_NEWSETELEM {
			continue
		}
		m, err := requests[i].message()
		if err != nil {
			return nil, err
		}
		if kind == unix.NFT_MSG_NEWRULE {
			err = all.addRule(hostTable, m)
		} else {
			var set string
			if _, set, err = nameOfSet(m); err == nil {
				err = all.addElements(set, m)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// readParts are those of a table; none if it is not there.
func (c *conn) readParts(of table) (parts, error) {
	all := parts{}
	rules, err := c.dump(unix.NFT_MSG_GETRULE, of)
	if err != nil {
		return nil, err
	}
	for _, m := range rules {
		if err := all.addRule(of, m); err != nil {
			return nil, err
		}
	}
	sets, err := c.dump(unix.NFT_MSG_GETSET, of)
	if err != nil {
		return nil, err
	}
	for _, m := range sets {
		table, set, err := nameOfSet(m)
		if err != nil {
			return nil, err
		}
		if table != of.name {
			continue
		}
		elements, err := c.elementsOf(of, set)
		if err != nil {
			return nil, err
		}
		for _, m := range elements {
			if err := all.addElements(set, m); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
