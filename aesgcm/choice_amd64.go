//go:build !purego

package aesgcm

// implementations, the fastest first.
var implementations = []implementation{
	{vaes512Name, vaes512Missing, newVAES512},
	{vaes256Name, vaes256Missing, newVAES256},
	{stdName, stdMissing, newStd},
}
