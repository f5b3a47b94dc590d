package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Methods of control calls and messages between nodes. Texts are a length (uvarint) and so many bytes, numbers are uvarints.
const (
	methodReadIndex byte = 1 // call: a group's key; answers an index, 8 bytes
	methodIsOpen    byte = 2 // call: a group's key; answered once the group is open and could take over: see transfer.go
	methodProbe     byte = 3 // call: see encodeProbe; answers the same
	methodStanding  byte = 4 // call: see standing.go
	methodTerms     byte = 5 // call: see termcheck.go
	methodCommits   byte = 6 // message: see notice.go
	methodResigned  byte = 7 // message: a group's key; its sender led it and has closed it
	methodRoll      byte = 8 // message: see roll.go
)

func (n *Node) handleCall(ctx context.Context, from string, method byte, body []byte) ([]byte, error) {
	switch method {
	case methodProbe:
		return n.detector.answer(from, body)
	case methodStanding:
		return n.answerStandings(from, body)
	case methodTerms:
		return n.answerTerms(body)
	}
	g := n.group(string(body))
	if g == nil {
		return nil, fmt.Errorf("group %q is not open here", body)
	}
	switch method {
	case methodReadIndex:
		return g.answerReadIndex(ctx)
	case methodIsOpen:
		return g.answerIsOpen(), nil
	}
	return nil, fmt.Errorf("unknown control method %d: the caller is of another version", method)
}

// handleMessage takes what a peer sends without waiting for an answer.
func (n *Node) handleMessage(from string, method byte, body []byte) {
	switch method {
	case methodCommits, methodRoll:
		take := n.onCommits
		if method == methodRoll {
			take = n.onRoll
		}
		if err := take(from, body); err != nil {
			n.cfg.Logger.Warn("a message of a peer is not understood", "peer", from, "error", err)
		}
	case methodResigned:
		if g := n.group(string(body)); g != nil {
			if _, id := g.raft.LeaderWithID(); string(id) == from {
				g.followed.Store(resigned)
				n.elections.look()
			}
		}
	default:
		n.cfg.Logger.Warn("unknown message from a peer: it is of another version", "peer", from, "method", method)
	}
}

var errShortMessage = errors.New("control message is cut off or has bytes left over")

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// scanner reads a control message; the first mistake makes everything after it zero.
type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) number() uint64 {
	v, n := binary.Uvarint(s.rest)
	if n <= 0 {
		s.rest, s.bad = nil, true
		return 0
	}
	s.rest = s.rest[n:]
	return v
}

func (s *scanner) text() string {
	n := s.count()
	v := string(s.rest[:n])
	s.rest = s.rest[n:]
	return v
}

// count reads how many bytes, or items of at least one byte, follow, so that a forged count cannot make us allocate.
func (s *scanner) count() int {
	n := s.number()
	if n > uint64(len(s.rest)) {
		s.rest, s.bad = nil, true
		return 0
	}
	return int(n)
}

func (s *scanner) end() error {
	if s.bad || len(s.rest) > 0 {
		return errShortMessage
	}
	return nil
}
