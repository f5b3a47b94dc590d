package fsm

import (
	"sync"
	"sync/atomic"
)

// Shared is what the machines of a node have together, so that what a node does at once, and what it has open, does not grow with how many machines it has.
// A nil Shared bounds nothing.
type Shared struct {
	slots chan struct{} // holds one for each flush that is under way
	files int           // how many state files may be open

	granting sync.Mutex    // held by the one who waits for a place; the others wait for it, in their order
	waiting  atomic.Bool   // somebody waits until a machine is not in use
	left     chan struct{} // somebody left a machine while that was so
	opens    atomic.Uint64 // counts machines that opened their file: the time by which they are used more and less recently

	mu    sync.Mutex        // guards what follows
	taken int               // places: of open files, and of those about to be opened
	open  map[*FSM]struct{} // machines whose file is open
}

// NewShared returns what machines share of which so many may flush at once, and so many may have their files open. Both are at least 1.
func NewShared(flushes, files int) *Shared {
	return &Shared{slots: make(chan struct{}, flushes), files: files, left: make(chan struct{}, 1), open: make(map[*FSM]struct{})}
}

// Slot waits for a slot as a flush does, in the order of the calls, and returns what gives it back. Whoever has one must not wait for a flush.
func (s *Shared) Slot() (done func()) {
	s.slots <- struct{}{}
	return func() { <-s.slots }
}

// slot takes a slot, unless the machine waits for no other.
func (f *FSM) slot() (done func()) {
	if f.cfg.Shared == nil || f.cfg.Prior {
		return func() {}
	}
	return f.cfg.Shared.Slot()
}
