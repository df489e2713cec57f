// Package sequence watches the sequence numbers of the ESP packets that cross a cable: a number that is
// missing is a packet that got lost before.
package sequence
