package xfrm

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Object is what a command is about: the SAD, the SPD, or the events of both.
type Object uint8

const (
	ObjectState Object = iota
	ObjectPolicy
	ObjectMonitor
)

var objectWords = [...]string{"state", "policy", "monitor"}

func (o Object) String() string {
	if int(o) < len(objectWords) {
		return objectWords[o]
	}
	return "?"
}

// Verb is what a command does.
type Verb uint8

const (
	VerbAdd Verb = iota
	VerbUpdate
	VerbDelete
	VerbGet
	VerbList
	VerbDeleteAll
	VerbFlush
	VerbCount
	VerbAllocSPI
	VerbSet
	VerbSetDefault
	VerbGetDefault
	VerbMonitor // the only one of ObjectMonitor
)

var verbWords = [...]string{
	"add", "update", "delete", "get", "list", "deleteall", "flush", "count",
	"allocspi", "set", "setdefault", "getdefault", "monitor",
}

func (v Verb) String() string {
	if int(v) < len(verbWords) {
		return verbWords[v]
	}
	return "?"
}

// Command is one parsed `ip xfrm` command. Object and Verb tell which of the other fields
// are set.
type Command struct {
	Object Object
	Verb   Verb

	State    *State    // state add, update
	SPIRange *SPIRange // state allocspi
	Policy   *Policy   // policy add, update

	StateID  *StateID  // state delete, get
	PolicyID *PolicyID // policy delete, get

	StateFilter *StateFilter // state list, deleteall
	NoKeys      bool         // state list: asked not to be shown keys
	PolicyQuery *PolicyQuery // policy list, deleteall

	FlushProto uint8      // state flush; 0 is every protocol
	FlushType  PolicyType // policy flush

	Thresholds Thresholds // policy set
	Defaults   Defaults   // policy setdefault

	Monitor *Monitor // monitor

	Device   string // interface name after `offload dev`, for messages
	KeyTyped bool   // a key itself stood among the words
	// KeyFiles are the files that keys came from, by keyword: aead, enc, auth, auth-trunc.
	KeyFiles map[string]string
}

// Monitor is what `monitor` listens to.
type Monitor struct {
	Groups  []uint32 // Group…, never empty
	AllNSID bool     // also of the network namespaces that have an id here
	File    string   // messages come from this file instead
}

// PolicyQuery narrows `policy list` and `policy deleteall`. The zero value matches every
// policy. The selector's prefixes match policies whose own prefix lies within them.
type PolicyQuery struct {
	Sel       Selector
	Dir       *PolicyDir
	Index     *uint32
	Type      *PolicyType
	Action    *PolicyAction
	Priority  *uint32
	Flags     PolicyFlag // all of these must be set
	Family    uint16     // AF_INET, AF_INET6; 0: any
	NoSockets bool       // leave out per-socket policies
}

// Match reports whether p is asked for.
func (q *PolicyQuery) Match(p *Policy) bool {
	return selectorMatches(&q.Sel, &p.Sel) &&
		(q.Dir == nil || *q.Dir == p.Dir) &&
		!(q.NoSockets && p.IsSocket()) &&
		(q.Index == nil || *q.Index == p.Index) &&
		(q.Type == nil || *q.Type == p.Type) &&
		(q.Action == nil || *q.Action == p.Action) &&
		(q.Priority == nil || *q.Priority == p.Priority) &&
		p.Flags&q.Flags == q.Flags &&
		(q.Family == 0 || q.Family == p.Sel.Family)
}

// policyDirs is XFRM_POLICY_MAX.
const policyDirs = 3

// IsSocket reports whether the policy belongs to one socket (IP_XFRM_POLICY): the kernel
// shows the directions of those from XFRM_POLICY_MAX on.
func (p *Policy) IsSocket() bool { return p.Dir >= policyDirs }

func selectorMatches(q, s *Selector) bool {
	return prefixContains(q.Src, s.Src) && prefixContains(q.Dst, s.Dst) &&
		(q.Protocol == 0 || q.Protocol == s.Protocol) &&
		(q.SrcPort.Any() || q.SrcPort == s.SrcPort) &&
		(q.DstPort.Any() || q.DstPort == s.DstPort) &&
		(q.Interface == 0 || q.Interface == s.Interface)
}

func prefixContains(outer, inner netip.Prefix) bool {
	if !outer.IsValid() {
		return true
	}
	return inner.IsValid() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// stateFamily is the address family of a state: AF_INET unless it names IPv6 addresses.
func stateFamily(s *State) uint16 {
	if isIPv6(s.Src) || isIPv6(s.Dst) {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func isIPv6(a netip.Addr) bool { return a.IsValid() && !a.Is4() }
