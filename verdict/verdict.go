package verdict

// Verdict on an SA, or on several.
type Verdict string

const (
	Hardware Verdict = "HARDWARE" // a NIC encrypts 99 % of the packets or more: its counters leave nothing else
	Software Verdict = "SOFTWARE" // the kernel or the userspace device encrypts on the CPU
	Mixed    Verdict = "MIXED"    // some packets by the NIC, some not; of several SAs, one so and one so
	Emulated Verdict = "EMULATED" // an offload device that is no NIC, such as espalier's own
	Idle     Verdict = "IDLE"     // no packet in the interval: nothing to judge
	Unknown  Verdict = "UNKNOWN"  // the evidence does not suffice
)

// Judgement is a verdict and what it rests on.
type Judgement struct {
	Verdict Verdict
	Reason  Reason
	Why     string // the reason with its numbers, for a person
	// Unchecked is what could still be otherwise, and how to find out.
	Unchecked []string
}

// Reason for a verdict, by a name that stays the same.
type Reason string

const (
	// SOFTWARE
	NoOffload       Reason = "no-offload"       // read back without an offload device
	RoutedElsewhere Reason = "routed-elsewhere" // packets leave by another device than the SA's
	SwitchedOff     Reason = "feature-off"      // esp-hw-offload is off: the kernel encrypts packet by packet
	KernelESP       Reason = "kernel-esp"       // the kernel's own ESP was seen at work on these packets

	// HARDWARE, or EMULATED by a driver that is no hardware's
	Balanced Reason = "balanced" // 99 % of the SA's packets must have been the device's, whatever it did of others

	// EMULATED
	UserspaceDevice Reason = "userspace" // a userspace device answered for the SA
	Simulated       Reason = "simulated" // the driver is known to play a NIC, and does not count

	// MIXED
	Partly Reason = "partly" // the device has encrypted some of the SA's packets

	// IDLE
	NoPacket Reason = "no-packet"

	// UNKNOWN
	Backwards  Reason = "went-backwards" // a counter of the SA's did: 32 bits wrapped, or another SA has its name
	Integrity  Reason = "integrity"      // every packet failed the integrity check
	NotAsked   Reason = "not-asked"      // the device could not be asked
	NoCounters Reason = "no-counters"    // the driver does not count what the device encrypts
	NoCarrier  Reason = "no-carrier"     // the device's link is down: what is sent is lost
	Dropped    Reason = "dropped"        // the NIC dropped every packet
	Lost       Reason = "lost"           // packets were lost in a queue, which may be those that are missing
	LinkStill  Reason = "link-still"     // the SA's device has carried nothing at all
	StoodStill Reason = "stood-still"    // the NIC's counters did, and nothing tells who encrypted
	Nobody     Reason = "nobody"         // neither the NIC nor the kernel was seen to encrypt
	Surplus    Reason = "surplus"        // the NIC counts more than its SAs have sent
	CameOrWent Reason = "came-or-went"   // SAs were added or deleted meanwhile
	Coarse     Reason = "coarse"         // too much passed while the counters were read
	SomeOfThem Reason = "some-of-them"   // the NIC has encrypted some of the packets of several SAs
	Strange    Reason = "strange-driver" // a driver that nobody has looked at yet
	Uncounted  Reason = "uncounted"      // the NIC has counted packets, but this kernel does not tell of which SA
)

// MaySettle reports whether packets that were under way when the counters were read would explain
// the judgement: then to read again a little later helps.
func (j *Judgement) MaySettle() bool {
	switch j.Reason {
	case StoodStill, LinkStill, Nobody, Partly, SomeOfThem, Coarse, Surplus, Lost:
		return true
	}
	return false
}

// Together is the verdict on several SAs, as the two of a pair. Those that are idle do not count
// as long as others are not; what is unknown of one is unknown of all. A CPU encrypts what is EMULATED, too:
// with SOFTWARE it is that.
func Together(verdicts ...Verdict) Verdict {
	all := Idle
	for _, v := range verdicts {
		switch {
		case v == Idle || v == all:
		case v == Unknown:
			return Unknown
		case all == Idle:
			all = v
		case all == Software && v == Emulated, all == Emulated && v == Software:
			all = Software
		default:
			all = Mixed
		}
	}
	return all
}
