package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Protocol is the version of what the frames mean. Both ends must have the same.
const Protocol = 1

// kind of a frame.
type kind uint8

const (
	kindHello    kind = iota + 1 // who speaks: Hello as JSON; the first of each side
	kindRequest                  // the length of an operation's name (one byte), the name, the question
	kindProgress                 // a line of text about a request under way
	kindReply                    // the answer; ends the request
	kindFailure                  // why there is none, as text; ends the request
	kindCancel                   // the answer is no longer wanted; the request ends by reply or failure all the same
	kindPing                     // nothing: the sender lives
)

const (
	headerLen = 9        // length of the body, kind, number of the request; big-endian
	maxBody   = 16 << 20 // bytes; a report on a host with a thousand devices has less
	maxHello  = 4 << 10
	maxText   = 64 << 10 // of progress and failures
)

// frame is what crosses the connection. All but hello and ping belong to a request, by its number.
type frame struct {
	kind kind
	id   uint32
	body []byte
}

// limit is how long the body of a frame may be.
func (k kind) limit() (bytes uint32, known bool) {
	switch k {
	case kindHello:
		return maxHello, true
	case kindRequest, kindReply:
		return maxBody, true
	case kindProgress, kindFailure:
		return maxText, true
	case kindCancel, kindPing:
		return 0, true
	}
	return 0, false
}

// errFrame is what all errors about bytes that are no frame wrap.
var errFrame = errors.New("this is not the protocol")

// readFrame reads one frame. io.EOF is the end between two frames, io.ErrUnexpectedEOF one
// within a frame. It takes no more memory than has arrived.
func readFrame(r io.Reader) (frame, error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(header[:])
	f := frame{kind: kind(header[4]), id: binary.BigEndian.Uint32(header[5:])}
	limit, known := f.kind.limit()
	if !known {
		return frame{}, fmt.Errorf("%w: frame of kind %d", errFrame, f.kind)
	}
	if length > limit {
		return frame{}, fmt.Errorf("%w: frame of kind %d with %d bytes, at most %d are allowed", errFrame, f.kind, length, limit)
	}
	if length == 0 {
		return f, nil
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(length)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	f.body = body.Bytes()
	return f, nil
}

// writeFrame writes one frame by one Write.
func writeFrame(w io.Writer, f frame) error {
	if limit, _ := f.kind.limit(); uint64(len(f.body)) > uint64(limit) {
		return fmt.Errorf("a frame of kind %d has %d bytes, at most %d are allowed", f.kind, len(f.body), limit)
	}
	b := make([]byte, headerLen, headerLen+len(f.body))
	binary.BigEndian.PutUint32(b, uint32(len(f.body)))
	b[4] = byte(f.kind)
	binary.BigEndian.PutUint32(b[5:], f.id)
	_, err := w.Write(append(b, f.body...))
	return err
}

// requestBody puts an operation's name before the question.
func requestBody(operation string, question []byte) ([]byte, error) {
	if len(operation) == 0 || len(operation) > 255 {
		return nil, fmt.Errorf("an operation's name has 1 to 255 bytes, not %d", len(operation))
	}
	if len(question) > maxBody-1-len(operation) {
		return nil, fmt.Errorf("%s: a request of %d bytes is too long", operation, len(question))
	}
	b := append(make([]byte, 0, 1+len(operation)+len(question)), byte(len(operation)))
	return append(append(b, operation...), question...), nil
}

// parseRequest takes it apart again.
func parseRequest(body []byte) (operation string, question []byte, err error) {
	if len(body) == 0 || body[0] == 0 || len(body) < 1+int(body[0]) {
		return "", nil, fmt.Errorf("%w: a request without an operation", errFrame)
	}
	end := 1 + int(body[0])
	return string(body[1:end]), body[end:], nil
}

// truncate keeps what a frame of text may have.
func truncate(text string) []byte { return []byte(text[:min(len(text), maxText)]) }
