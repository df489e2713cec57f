package lint

// Kind tells of all findings of an ID what they have in common.
type Kind struct {
	ID       ID
	Severity Severity // of most
	Title    string   // what is wrong
	Happens  string   // what comes of it on Linux
	Counters []string // of /proc/net/xfrm_stat, that rise
	Fix      string   // what to do
	Mended   bool     // by the corrected scripts, where it can be decided
	Scripts  bool     // found in scripts only
}

// KindOf is the kind of an ID, false if there is none.
func KindOf(id ID) (Kind, bool) {
	for _, k := range Kinds {
		if k.ID == id {
			return k, true
		}
	}
	return Kind{}, false
}

// Kinds are all there are: what keeps traffic from passing first.
var Kinds = []Kind{
	{ReqidMismatch, Error, "A template's reqid is not that of the SA between its addresses.",
		"Output needs the same number, 0 included; input takes a template's 0 for any. Packets are dropped.",
		[]string{"XfrmOutNoStates", "XfrmInTmplMismatch"}, "Give the template the reqid of the SA.", true, false},
	{TemplateMismatch, Error, "A policy or its template asks for another mode, if_id, mark, SPI or address than the SA has that is right else.",
		"Output drops the packets; what the SA receives is dropped, or falls under no policy.",
		[]string{"XfrmOutNoStates", "XfrmInTmplMismatch", "XfrmInNoPols"}, "Say the same in both.", false, false},
	{PolicyWithoutSA, Error, "No SA serves a policy.", "Packets are dropped; with level use they pass in clear.",
		[]string{"XfrmOutNoStates", "XfrmInTmplMismatch"}, "Add the SA, or delete the policy.", false, false},
	{SAWithoutPolicy, Warning, "An SA serves no policy.",
		"Nothing is sent by it; what it receives in tunnel mode is dropped, in transport mode cleartext is as welcome.",
		[]string{"XfrmInNoPols"}, "Add the policy.", false, false},
	{MissingIn, Error, "Traffic is protected on its way out, and no in policy asks for ESP on its way in.",
		"Cleartext is accepted: whoever can send from that address can forge.", nil, "Add the in policy.", true, false},
	{OneSided, Warning, "There are SAs in one direction only.", "Answers are dropped, or do not arrive.",
		[]string{"XfrmInNoStates", "XfrmOutNoStates"}, "Add the SA of the other direction.", false, false},
	{WrongDirection, Error, "An SA says dir in and its policy is for sending, or the other way round.",
		"From Linux 6.10 on packets are dropped; a NIC is programmed for the wrong direction.",
		[]string{"XfrmOutStateDirError", "XfrmInStateDirError"}, "Exchange dir.", true, false},
	{SASelector, Error, "An SA's own selector (sel) leaves out traffic of the policy that it serves.",
		"The SA does not count for that traffic: it is not sent, or refused when it arrives.",
		[]string{"XfrmOutNoStates", "XfrmInStateMismatch"}, "Leave sel out, or make it that of the policy.", false, false},
	{NoReplayWindow, Warning, "An inbound SA has replay-window 0, which is the default.",
		"A captured packet that is sent again is delivered again.", nil, "Add replay-window 64.", true, false},
	{CleartextAllowed, Warning, "A template is optional (level use).", "Packets leave in clear while there is no SA; of what comes in, cleartext is always accepted.", nil,
		"Leave level use out.", true, false},
	{HalfOffloaded, Error, "Packet offload of an SA and not of its policy, or of the policy alone.",
		"Packets do not find from one to the other; Linux 6.1 ignores a policy's offload.", nil, "Offload both, or neither.", false, false},
	{Larval, Note, "A place is held for an SA that is being negotiated.", "Packets wait, or are dropped.",
		[]string{"XfrmAcquireError"}, "See whether the key exchange runs.", false, false},

	{NotUnderstood, Warning, "A line takes a shell to know what it does.",
		"It is left out here; what would be missing because of it is not told.", nil,
		"Write the values, or run the script where it does no harm and use espalier status.", false, true},
	{BadCommand, Error, "ip refuses a line.", "Nothing of the line is done; of a batch, neither is what follows.", nil,
		"Put the words right.", false, true},
	{AddedTwice, Error, "A line adds an SA or policy that is there already.",
		"\"RTNETLINK answers: File exists\": the second one is not added; a batch ends there.", nil,
		"Delete one of the lines, or give one another SPI or selector.", false, true},
	{KernelRefuses, Error, "Linux does not take an SA like this.",
		"\"RTNETLINK answers: Invalid argument\": it is not added, and its policy drops what it covers.",
		[]string{"XfrmOutNoStates", "XfrmInNoStates"}, "As it says.", true, true},
	{NICRefuses, Error, "A ConnectX or BlueField card does not offload an SA like this.",
		"The driver answers EINVAL, and the SA is not added, not even in software.",
		[]string{"XfrmOutNoStates", "XfrmInNoStates"}, "As it says, or leave offload out.", true, true},
	{ReservedSPI, Warning, "An SPI below 256.", "0 is never on the wire; 1 to 255 are reserved (RFC 4303 section 2.1): peers may drop them.",
		[]string{"XfrmInNoStates"}, "Use 0x100 or more.", false, true},
	{Limit0, Error, "A limit of 0 bytes or packets.", "It is reached from the start: the first packet ends the SA.",
		[]string{"XfrmOutStateExpired", "XfrmInStateExpired"}, "Leave the limit out for none.", true, true},
	{NoESN, Warning, "Sequence numbers of 32 bits.", "After 2^32 packets the SA sends nothing more: minutes at 100 Gbit/s.",
		[]string{"XfrmOutStateSeqError"}, "Add flag esn at both ends (with replay-window 64 before Linux 6.11), or rekey in time.", false, true},
	{NoIntegrity, Error, "Encrypted, and not authenticated.", "Packets can be changed on the way without anybody noticing.", nil,
		"Use aead 'rfc4106(gcm(aes))'.", false, true},
	{WeakAlgorithm, Error, "An algorithm that is broken, or none.", "What is encrypted by it can be read or forged.", nil,
		"Use aead 'rfc4106(gcm(aes))'.", false, true},
	{MissingFwd, Warning, "A tunnel's in policy is for others than this host, and there is no fwd policy.",
		"What this host would forward out of the tunnel is dropped.", []string{"XfrmInNoPols"}, "Add the fwd policy, with the words of the in policy.", true, true},
	{NeighbourDiscovery, Warning, "A policy between IPv6 addresses covers neighbour discovery.",
		"On one link, the hosts lose each other when their neighbour caches expire.", nil,
		"Let ICMPv6 types 135 and 136 pass by policies of their own, before it.", true, true},

	{KeyOnCommandLine, Warning, "A key stands among the words of a command that a shell runs.",
		"Every user sees it in the list of processes meanwhile; typed, it stays in the shell's history. Each run installs the same key again, and AES-GCM repeats its nonces.", nil,
		"espalier xfrm takes @FILE, and makes keys with --generate-key; ip takes them by ip -batch, from a file made anew each time.", false, true},
	{KeyReadable, Warning, "A file that holds keys can be read by others.", "Whoever reads it can decrypt and forge.", nil,
		"chmod 600, and make new keys: these are known.", true, true},
	{KeyReused, Error, "Two SAs have the same key.",
		"Both count their nonces from 1: what they send under one nonce gives both plaintexts away, and the key of the authentication (RFC 4106 section 11).", nil,
		"A key of its own for each SA and direction, new ones each time.", true, true},
	{WeakKey, Warning, "A key that others can guess, or have from documentation.", "Whoever tries it can decrypt and forge.", nil,
		"Make keys at random: espalier xfrm --generate-key.", true, true},

	{NoPeerSA, Error, "The other host has no SA for what this one sends.", "It drops all of it.", []string{"XfrmInNoStates"}, "Add the same SA there.", false, true},
	{SPIMismatch, Error, "The two ends of an SA have different SPIs.", "The receiver drops all of it.", []string{"XfrmInNoStates"},
		"Give both the receiver's SPI.", true, true},
	{KeyMismatch, Error, "The two ends of an SA have different keys.", "The receiver drops all of it: the ICV is wrong.", []string{"XfrmInStateProtoError"},
		"Give both one new key.", true, true},
	{AlgorithmMismatch, Error, "The two ends of an SA have different algorithms, or lengths of the ICV.", "The receiver drops all of it.",
		[]string{"XfrmInStateProtoError"}, "Say the same at both ends.", false, true},
	{ESNMismatch, Error, "One end of an SA has extended sequence numbers, the other has not.", "The receiver drops all of it: the ICV covers the high half.",
		[]string{"XfrmInStateProtoError"}, "Say flag esn at both ends.", false, true},
	{ModeMismatch, Error, "One end of an SA is in tunnel mode, the other in transport mode.", "The receiver drops it, or takes it for something else.",
		[]string{"XfrmInStateModeError", "XfrmInTmplMismatch"}, "Say the same mode at both ends.", false, true},
	{EncapMismatch, Error, "One end of an SA sends in UDP and the other does not, or by other ports.", "The receiver drops it.", []string{"XfrmInStateMismatch"},
		"Say the same encap at both ends.", false, true},
	{ReqidDiffers, Note, "The two ends of an SA have different reqids.", "Nothing: a reqid counts on its own host only. But it makes errors easy.", nil,
		"Give both the same.", false, true},
	{PolicyMismatch, Error, "What one host encrypts is not what the other one wants encrypted.",
		"Where only the receiver has a policy, cleartext is dropped; where only the sender has one, the receiver takes cleartext, too.",
		[]string{"XfrmInTmplMismatch", "XfrmInNoPols"}, "Make the in policy the mirror image of the other host's out policy.", false, true},
}
