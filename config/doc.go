// Package config is the file in which a person says what tunnels there are to be. The text of a
// file flows into [Parse]; a [File] with every default filled in and every mesh laid out in pairs
// flows out, or [Problems], all at once, each with its line and what to write instead.
//
// The types are both: what a person writes (the `yaml` tags), and the vocabulary of whoever plans
// from it. Nothing here asks a host or does I/O. What only hosts know, such as whether an address is
// theirs, whoever knows it tells as a [Problem] at the place ([Tunnel.Place], [Host.Place]) of the
// setting. No secret has a place in the file: keys are made when SAs are installed.
//
// What a File holds belongs to the caller; pairs point at the hosts of their tunnel.
//
// Selectors, and that the order of policies matters, are RFC 4301 §4.4.1; which traffic an SA of
// transport or tunnel mode carries is §4.1.
package config
