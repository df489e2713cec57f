package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func TestFramesSurviveTheWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sent []frame
		var wire bytes.Buffer
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			f := frame{kind: kind(rapid.IntRange(1, 7).Draw(t, "kind")), id: rapid.Uint32().Draw(t, "id")}
			limit, _ := f.kind.limit()
			f.body = rapid.SliceOfN(rapid.Byte(), 0, min(int(limit), 2000)).Draw(t, "body")
			if err := writeFrame(&wire, f); err != nil {
				t.Fatal(err)
			}
			sent = append(sent, f)
		}
		r := iotest.OneByteReader(&wire)
		for _, want := range sent {
			got, err := readFrame(r)
			if err != nil || got.kind != want.kind || got.id != want.id || !bytes.Equal(got.body, want.body) {
				t.Fatalf("%+v, %v; want %+v", got, err, want)
			}
		}
		if _, err := readFrame(r); err != io.EOF {
			t.Fatal(err)
		}
	})
}

func header(length uint32, k kind, id uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	return binary.BigEndian.AppendUint32(append(b, byte(k)), id)
}

func TestBadFrames(t *testing.T) {
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":           {nil, io.EOF},
		"half a header":     {header(1, kindReply, 1)[:5], io.ErrUnexpectedEOF},
		"no body":           {header(1, kindReply, 1), io.ErrUnexpectedEOF},
		"half a body":       {append(header(9, kindReply, 1), "half"...), io.ErrUnexpectedEOF},
		"kind 0":            {header(0, 0, 1), errFrame},
		"a kind too many":   {header(0, kindPing+1, 1), errFrame},
		"too long a hello":  {header(maxHello+1, kindHello, 0), errFrame},
		"too long a reply":  {header(maxBody+1, kindReply, 1), errFrame},
		"the longest":       {header(1<<32-1, kindReply, 1), errFrame},
		"a ping with words": {header(1, kindPing, 0), errFrame},
		"words of a shell":  {[]byte("Last login: Sun Nov 22 19:59:11"), errFrame},
	} {
		if _, err := readFrame(bytes.NewReader(c.bytes)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := writeFrame(io.Discard, frame{kind: kindReply, body: make([]byte, maxBody+1)}); err == nil {
		t.Error("a frame that nobody will read was written")
	}
}

// A claim costs nothing: memory is taken for what has arrived.
func TestLongClaimTakesNoMemory(t *testing.T) {
	claim := append(header(maxBody, kindReply, 1), "short"...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const times = 100
	for range times {
		readFrame(bytes.NewReader(claim))
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / times; got > 64<<10 {
		t.Errorf("%d bytes for a claim of %d", got, maxBody)
	}
}

func TestRequestBody(t *testing.T) {
	for _, name := range []string{"a", "doctor", string(make([]byte, 255))} {
		body, err := requestBody(name, []byte("question"))
		if err != nil {
			t.Fatal(err)
		}
		got, question, err := parseRequest(body)
		if err != nil || got != name || string(question) != "question" {
			t.Errorf("%q %q %v", got, question, err)
		}
	}
	for _, bad := range [][]byte{nil, {0}, {1}, {5, 'f', 'o', 'u', 'r'}} {
		if _, _, err := parseRequest(bad); !errors.Is(err, errFrame) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	for _, bad := range []string{"", string(make([]byte, 256))} {
		if _, err := requestBody(bad, nil); err == nil {
			t.Errorf("an operation with a name of %d bytes", len(bad))
		}
	}
}

// FuzzReadFrame: whatever arrives is a frame that could have been written, or an error.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(header(5, kindRequest, 7), "\x02abcd"...))
	f.Add(append(header(2, kindHello, 0), "{}"...))
	f.Add(header(0, kindPing, 0))
	f.Add([]byte("Welcome to this host\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			before := len(data) - r.Len()
			got, err := readFrame(r)
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := writeFrame(&again, got); err != nil || !bytes.Equal(again.Bytes(), data[before:len(data)-r.Len()]) {
				t.Fatalf("%x read as %+v, written as %x, %v", data[before:len(data)-r.Len()], got, again.Bytes(), err)
			}
			if got.kind == kindRequest {
				parseRequest(got.body)
			}
			if got.kind == kindHello {
				readHello(bytes.NewReader(again.Bytes()))
			}
		}
	})
}

// FuzzAwaitLine: what a shell prints before is skipped, whatever it is.
func FuzzAwaitLine(f *testing.F) {
	f.Add([]byte("Welcome\r\n"), []byte("0 Linux x86_64 - - - "))
	f.Add([]byte("no end of line"), []byte("1000 Linux aarch64 - 10.0.0.1 10.0.0.2 /usr/bin/espalier"))
	f.Add([]byte("0123 facts"), []byte(""))
	f.Fuzz(func(t *testing.T, noise, rest []byte) {
		if bytes.ContainsAny(rest, "\r\n") || len(rest) > 1000 || len(noise) > maxNoise/2 {
			return
		}
		const nonce = "00112233445566778899aabbccddeeff"
		if bytes.Contains(noise, []byte(nonce)) || bytes.Contains(rest, []byte(nonce)) {
			return
		}
		said := string(noise) + "\n" + nonce + " facts " + string(rest) + "\nafter"
		r := newReader(said)
		_, got, _, err := awaitLine(r, nonce, "place", "facts")
		if err != nil || got != string(rest) {
			t.Fatalf("%q, %v; want %q", got, err, rest)
		}
		if left, _ := io.ReadAll(r); string(left) != "after" {
			t.Fatalf("left: %q", left)
		}
		parseFacts(got)
	})
}
