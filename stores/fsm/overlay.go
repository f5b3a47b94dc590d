package fsm

import "strings"

// overlay is what was applied above some state and is not on disk yet. The one that is active belongs to the goroutine that applies; readers see of it what
// was published: shown and heads, under the FSM's mu, and terms, see there. Once it is frozen nothing in it changes any more.
type overlay struct {
	layer          // with what is being applied
	shown    layer // with what was published
	ids      map[uint64]uint64
	twins    []idEntry // ids whose hash another id in ids has
	heads    map[string]*head
	terms    terms
	keys     *keyMap // what was put and what is gone; nil: nothing
	touched  bool    // keys has what was not published
	arena    []byte  // records are cut from it
	unsynced uint64  // bytes held, nearly

	shownKeys *keyMap // keys as published; never changes
}

// layer is the events and new streams above base, in order. Both slices only grow, so a copy of the struct is a view of one moment.
type layer struct {
	base   state
	events [][]byte // records; of position base.position+1 and so on
	names  []string // of stream number base.streams+1 and so on
}

func (l *layer) record(position uint64) []byte {
	if position <= l.base.position || position-l.base.position > uint64(len(l.events)) {
		return nil
	}
	return l.events[position-l.base.position-1]
}

func (l *layer) name(number uint64) (string, bool) {
	if number <= l.base.streams || number-l.base.streams > uint64(len(l.names)) {
		return "", false
	}
	return l.names[number-l.base.streams-1], true
}

func newOverlay(base state) *overlay {
	return &overlay{
		layer: layer{base: base}, shown: layer{base: base}, ids: make(map[uint64]uint64), heads: make(map[string]*head),
		terms: newTerms(),
	}
}

// Sizes of the pieces in which an overlay takes memory for records: small first, for a store that gets an event now and then.
const (
	firstArena = 4 << 10
	lastArena  = 1 << 20
)

// room returns an empty slice that can take size bytes.
func (o *overlay) room(size int) []byte {
	if cap(o.arena)-len(o.arena) < size {
		next := firstArena
		if c := cap(o.arena); c > 0 {
			next = min(2*c, lastArena)
		}
		o.arena = make([]byte, 0, max(next, size))
	}
	return o.arena[len(o.arena):len(o.arena):cap(o.arena)]
}

// eventCost and streamCost are what an event and a stream take beside their bytes: slice headers, map entries.
const (
	eventCost  = 80
	streamCost = 200
)

// addEvent takes a record that was built in room.
func (o *overlay) addEvent(rec []byte, hash, position uint64) {
	o.arena = o.arena[:len(o.arena)+len(rec)]
	o.events = append(o.events, rec[:len(rec):len(rec)])
	if _, taken := o.ids[hash]; taken {
		o.twins = append(o.twins, idEntry{hash, position})
	} else {
		o.ids[hash] = position
	}
	o.unsynced += uint64(len(rec)) + eventCost
}

func (o *overlay) addName(name string) string {
	name = strings.Clone(name) // it lies in the entry's memory
	o.names = append(o.names, name)
	o.unsynced += 2*uint64(len(name)) + streamCost
	return name
}

// candidates calls fn with the positions of events whose ids have the hash, until it returns false. It reports whether fn wants more.
func (o *overlay) candidates(hash uint64, fn func(position uint64) (more bool, err error)) (bool, error) {
	p, ok := o.ids[hash]
	if !ok {
		return true, nil
	}
	more, err := fn(p)
	for i := 0; more && err == nil && i < len(o.twins); i++ {
		if o.twins[i].hash == hash {
			more, err = fn(o.twins[i].position)
		}
	}
	return more, err
}

// undo takes back everything above what was published.
func (o *overlay) undo() {
	last := o.shown.base.position + uint64(len(o.shown.events))
	for hash, p := range o.ids {
		if p > last {
			delete(o.ids, hash)
		}
	}
	for n := len(o.twins); n > 0 && o.twins[n-1].position > last; n-- {
		o.twins = o.twins[:n-1]
	}
	o.terms.undo(last)
	o.undoKeys()
	o.layer = o.shown
}

// setHead publishes a stream's head. The FSM's mu is held.
func (o *overlay) setHead(name string, h *head) {
	at := o.heads[name]
	if at == nil {
		at = new(head)
		o.heads[strings.Clone(name)] = at
		o.unsynced += streamCost
	}
	at.number, at.count, at.path = h.number, h.count, append(at.path[:0], h.path...)
}
