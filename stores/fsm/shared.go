package fsm

import (
	"sync"
	"sync/atomic"
)

// Shared is what the machines of a node have together, so that what a node does at once, and what it has open, does not grow with how many machines it has.
// A nil Shared bounds nothing.
type Shared struct {
	bounds Bounds
	slots  chan struct{} // holds one for each flush that is under way

	granting sync.Mutex    // held by the one who waits for a place; the others wait for it, in their order
	waiting  atomic.Bool   // somebody waits until a machine is not in use
	left     chan struct{} // somebody left a machine while that was so
	opens    atomic.Uint64 // counts machines that opened their file: the time by which they are used more and less recently

	unflushed atomic.Int64  // bytes in the overlays of all machines
	relief    chan struct{} // holds one for each machine that is flushed because that is too much
	crowded   atomic.Bool   // somebody waits for unflushed to become less
	roomMu    sync.Mutex    // guards room
	room      chan struct{} // closed when it became less; nil: nobody waits

	mu    sync.Mutex        // guards what follows
	taken int               // places: of open files, and of those about to be opened
	open  map[*FSM]struct{} // machines whose file is open
}

// Bounds of a node.
type Bounds struct {
	Flushes int // under way at once; at least 1
	Files   int // state files that are open; at least 1
	// Unflushed is how many bytes that are not on disk all overlays together hold before the largest are flushed at once. At twice as much appends are to
	// be refused (see Pressure), and at four times applying waits. Above 0.
	Unflushed int64
}

// NewShared returns what machines share that keep to the bounds together.
func NewShared(bounds Bounds) *Shared {
	return &Shared{
		bounds: bounds, slots: make(chan struct{}, bounds.Flushes), relief: make(chan struct{}, bounds.Flushes),
		left: make(chan struct{}, 1), open: make(map[*FSM]struct{}),
	}
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
