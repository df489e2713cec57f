// Package verify sends probe traffic through an outbound SA and gathers what everybody saw of it:
//
//	SAD, SPD ─► Choose ─► Flow ─► Session.Run: probes ─► the stack ─► wire ─► peer
//	                                  │                               │       │
//	              verdict.Probed ◄────┴── this host's word ◄── TapWord┘       └─► Receipt
//
// The judgement is [verdict.Probed]'s. Nothing is changed on either host; what is sent besides the
// probes, a control packet, is told. No key leaves the process: what a tap has captured is opened
// here.
package verify
