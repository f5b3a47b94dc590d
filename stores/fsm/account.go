package fsm

// What was applied and is not on disk is memory, and work to be done again after a crash. Each machine bounds its own (maxOverlay), and the node that of all
// together: beyond Bounds.Unflushed the largest overlays are flushed without being asked.

// waitAt times Bounds.Unflushed is where applying waits, so Pressure is 1 there.
const waitAt = 4

// account notes how much the overlays hold. mu is held.
func (f *FSM) account(pending, held uint64) {
	before := f.unsynced()
	f.pending.Store(pending)
	f.held.Store(held)
	f.cfg.Shared.count(int64(pending+held) - int64(before))
}

func (s *Shared) count(more int64) {
	if s == nil || more == 0 {
		return
	}
	s.unflushed.Add(more)
	if more < 0 {
		s.tell()
	}
}

// tell has those who wait for room look again.
func (s *Shared) tell() {
	if s == nil || !s.crowded.Load() {
		return
	}
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	if s.room != nil {
		close(s.room)
		s.room = nil
		s.crowded.Store(false)
	}
}

// told returns a channel that is closed by the next tell.
func (s *Shared) told() <-chan struct{} {
	s.roomMu.Lock()
	defer s.roomMu.Unlock()
	if s.room == nil {
		s.room = make(chan struct{})
		s.crowded.Store(true)
	}
	return s.room
}

// pressure is Pressure of all machines together.
func (s *Shared) pressure() float64 {
	if s == nil {
		return 0
	}
	return float64(s.unflushed.Load()) / float64(waitAt*s.bounds.Unflushed)
}

// waitRoom waits while the overlays of all machines hold too much. Flushes do not wait for those who apply, so it ends.
func (s *Shared) waitRoom(f *FSM) {
	for s.pressure() > 1 {
		told := s.told() // before we look again: what becomes less afterwards tells us
		s.relieve()
		if s.pressure() <= 1 || f.ended() {
			return
		}
		<-told
	}
}

// ended reports whether nothing is applied any more.
func (f *FSM) ended() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.failed != nil || f.closed
}

// relieve flushes the largest overlays while all together hold too much, one machine for each slot.
func (s *Shared) relieve() {
	for s != nil && s.unflushed.Load() > s.bounds.Unflushed {
		select {
		case s.relief <- struct{}{}:
		default:
			return // it is going on
		}
		f := s.largest()
		if f == nil || !f.kick(func() { <-s.relief; s.relieve() }) {
			<-s.relief
			return
		}
	}
}

// largest returns the machine that holds most and is not being flushed in the background; nil: there is none.
func (s *Shared) largest() (most *FSM) {
	for _, f := range s.byUse() { // a machine that rests holds nothing
		if n := f.unsynced(); n > 0 && (most == nil || n > most.unsynced()) && f.kickable() {
			most = f
		}
	}
	return most
}

func (f *FSM) kickable() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return !f.kicked && !f.closed && f.failed == nil
}
