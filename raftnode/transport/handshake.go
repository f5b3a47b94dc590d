package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// The first bytes of every connection, from the one who dials:
//
//	magic (4) · version (1) · kind (1) · cluster (text) · from (text) · to (text)
//
// and the answer:
//
//	status (1: 0 = welcome) · reason (text; empty when welcome)
//
// text is a length byte and so many bytes. The answer and the dialler's first six bytes are the same in every version, so that two versions can tell each
// other why they do not talk.
const (
	magic           = "QRAF"
	protocolVersion = 2 // 1 had a connection for each group

	kindLog      = 1 // entries and their answers
	kindControl  = 2 // what is small and in a hurry: heartbeats, votes, calls
	kindSnapshot = 3 // one snapshot

	statusWelcome = 0
	statusRefused = 1
)

// ErrRefused is what a peer's refusal is wrapped in; its text says why.
var ErrRefused = errors.New("the peer refused the connection")

// errVersion tells a member of another version from a stranger.
var errVersion = errors.New("another version")

type handshake struct {
	kind              byte
	cluster, from, to string
}

func (h *handshake) encode() ([]byte, error) {
	b := append([]byte(magic), protocolVersion, h.kind)
	for _, s := range []string{h.cluster, h.from, h.to} {
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
		return h, fmt.Errorf("%w: this node speaks version %d of the protocol, not %d", errVersion, protocolVersion, head[4])
	}
	h.kind = head[5]
	for _, s := range []*string{&h.cluster, &h.from, &h.to} {
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
	if err == io.EOF {
		return fmt.Errorf("it hung up without an answer; it may speak another version than %d, or wants TLS: %w", protocolVersion, err)
	}
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
