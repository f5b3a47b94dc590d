package fsm

import "github.com/quorate/quorate/api"

// pager collects events until the page is full.
type pager struct {
	limit, maxBytes int
	events          []api.Event
	bytes           int
	more            bool   // there was an event for which there was no room
	memory          []byte // records are copied into it, and events lie there
}

// Sizes of the pieces in which a pager takes memory: small first, for a page of one event.
const (
	firstPiece = 1 << 10
	lastPiece  = 64 << 10
)

// own copies a record, which may be bbolt's memory, into the page's. It is never written again.
func (p *pager) own(value []byte) []byte {
	if cap(p.memory)-len(p.memory) < len(value) {
		p.memory = make([]byte, 0, max(len(value), min(lastPiece, max(firstPiece, 2*cap(p.memory)))))
	}
	start := len(p.memory)
	p.memory = append(p.memory, value...)
	return p.memory[start:len(p.memory):len(p.memory)]
}

// full reports whether the page has as many events as it may.
func (p *pager) full() bool {
	p.more = len(p.events) >= p.limit
	return p.more
}

// spent reports whether the page has passed over as many events that are gone as it may.
func (p *pager) spent(s *sight) bool {
	p.more = p.more || s.left <= 0
	return s.left <= 0
}

// add reports full when there is no room for the event; it is then the next page's first.
func (p *pager) add(position uint64, value []byte, streamOf func(*record) (string, error)) (full bool, err error) {
	if len(p.events) >= p.limit || len(p.events) > 0 && p.bytes+len(value) > p.maxBytes {
		p.more = true
		return true, nil
	}
	rec, _, err := decodeChecked(position, p.own(value), true)
	if err != nil {
		return false, err
	}
	stream, err := streamOf(&rec)
	if err != nil {
		return false, err
	}
	p.bytes += len(value)
	p.events = append(p.events, rec.toAPI(position, stream))
	return false, nil
}
