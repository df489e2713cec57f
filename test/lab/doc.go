// Package lab builds two hosts for tests, as demo does for people: network namespaces joined by
// a cable, with espalier's own binary running in them. It needs root, and says so.
//
// Everything ends with the test: processes are ended by their ids, namespaces go with the last
// process in them.
package lab
