package vmlab

import (
	"archive/tar"
	"bytes"
	"maps"
	"slices"
	"testing"
)

// Wherever a stream of files is cut off, those before the cut are given, and nothing else.
func TestFilesCutOff(t *testing.T) {
	files := []struct{ name, data string }{
		{"a", "first"}, {"empty", ""}, {"captures/b.pcap", string(bytes.Repeat([]byte("0123456789abcdef"), 100))},
	}
	var stream bytes.Buffer
	var whole []int // lengths of the stream at which one more file is there
	for _, f := range files {
		w := tar.NewWriter(&stream)
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
		whole = append(whole, stream.Len())
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for cut := range stream.Len() + 1 {
		got, err := readFiles(bytes.NewReader(stream.Bytes()[:cut]))
		if err != nil {
			t.Fatalf("cut off after %d bytes: %v", cut, err)
		}
		var names []string
		for i, f := range files {
			if cut < whole[i] {
				continue
			}
			names = append(names, f.name)
			if string(got[f.name]) != f.data {
				t.Errorf("cut off after %d bytes: %s holds %d bytes, want %d", cut, f.name, len(got[f.name]), len(f.data))
			}
		}
		if found := slices.Sorted(maps.Keys(got)); !slices.Equal(found, slices.Sorted(slices.Values(names))) {
			t.Errorf("cut off after %d bytes: %q, want %q", cut, found, names)
		}
	}
}

func TestFilesGarbage(t *testing.T) {
	if files, err := readFiles(bytes.NewReader(bytes.Repeat([]byte("no tar"), 200))); err == nil || len(files) != 0 {
		t.Errorf("%d files, %v; want an error", len(files), err)
	}
}
