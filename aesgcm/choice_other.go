//go:build !amd64 || purego

package aesgcm

var implementations = []implementation{{stdName, stdMissing, newStd}}
