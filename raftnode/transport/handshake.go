package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The first bytes of every connection, from the one who dials:
//
//	magic (4) · version (1) · kind (1) · cluster (text) · from (text) · to (text) · group (text)
//
// and the answer:
//
//	status (1: 0 = welcome) · reason (text; empty when welcome)
//
// text is a length byte and so many bytes.
const (
	magic           = "QRAF"
	protocolVersion = 1

	kindGroup   = 1
	kindControl = 2

	statusWelcome = 0
	statusRefused = 1
)

// ErrRefused is what a peer's refusal is wrapped in; its text says why.
var ErrRefused = errors.New("the peer refused the connection")

type handshake struct {
	kind                     byte
	cluster, from, to, group string
}

func (h *handshake) encode() ([]byte, error) {
	b := append([]byte(magic), protocolVersion, h.kind)
	for _, s := range []string{h.cluster, h.from, h.to, h.group} {
		if len(s) > 255 {
			return nil, fmt.Errorf("handshake field %q is longer than 255 bytes", s)
		}
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return b, nil
}

func readHandshake(r *bufio.Reader) (h handshake, err error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return h, err
	}
	if string(head[:4]) != magic {
		return h, fmt.Errorf("the first bytes are %x, wanted %q", head[:4], magic)
	}
	if head[4] != protocolVersion {
		return h, fmt.Errorf("protocol version %d, wanted %d", head[4], protocolVersion)
	}
	h.kind = head[5]
	for _, s := range []*string{&h.cluster, &h.from, &h.to, &h.group} {
		if *s, err = readText(r); err != nil {
			return h, err
		}
	}
	return h, nil
}

func readText(r *bufio.Reader) (string, error) {
	n, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

func encodeAnswer(reason string) []byte {
	status := byte(statusWelcome)
	if reason != "" {
		status = statusRefused
	}
	reason = reason[:min(len(reason), 255)]
	return append([]byte{status, byte(len(reason))}, reason...)
}

func readAnswer(r *bufio.Reader) error {
	status, err := r.ReadByte()
	if err != nil {
		return err
	}
	reason, err := readText(r)
	if err != nil {
		return err
	}
	if status != statusWelcome {
		return fmt.Errorf("%w: %s", ErrRefused, reason)
	}
	return nil
}

// A frame on a control connection:
//
//	length of the rest (4) · call (8) · method or status (1) · body
const (
	frameHeader  = 4
	frameFixed   = 8 + 1
	maxFrameBody = 1 << 20

	statusOK    = 0
	statusError = 1
)

type frame struct {
	call uint64
	tag  byte // method in a question, status in an answer
	body []byte
}

func (f *frame) encode() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, frameHeader+frameFixed+len(f.body)), uint32(frameFixed+len(f.body)))
	b = binary.BigEndian.AppendUint64(b, f.call)
	b = append(b, f.tag)
	return append(b, f.body...)
}

func readFrame(r *bufio.Reader) (frame, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameFixed || n > frameFixed+maxFrameBody {
		return frame{}, fmt.Errorf("frame of %d bytes, wanted %d to %d", n, frameFixed, frameFixed+maxFrameBody)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return frame{}, err
	}
	return frame{call: binary.BigEndian.Uint64(b), tag: b[8], body: b[9:]}, nil
}
