// Package ipsec is the vocabulary of espalier: security associations, selectors and
// policies in the words of RFC 4301, and the two interfaces every engine implements,
// [SAD] (RFC 4301 §4.4.2) and [SPD] (§4.4.1).
//
// What flows in and out are plain values. A value returned by a SAD or SPD belongs to
// the caller; nothing here is shared, and nothing here does I/O. The kernel speaks
// another dialect of the same language (linux/xfrm.h): package xfrm translates, and is
// the only place where its words (state, reqid, tmpl) are used.
package ipsec
