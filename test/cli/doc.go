// Package cli tests espalier as people and scripts meet it: words in; text, JSON and an exit
// code out. The scripts are in testdata.
package cli
