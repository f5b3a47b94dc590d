package fsm

// Shared is what the machines of a node have together, so that what a node does at once does not grow with how many machines it has.
type Shared struct {
	slots chan struct{} // holds one for each flush that is under way
}

// NewShared returns what machines share of which so many may flush at once.
func NewShared(flushes int) *Shared {
	return &Shared{slots: make(chan struct{}, flushes)}
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
