package fsm

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"syscall"
)

// A machine whose file is open has a place, and there are Bounds.Files of them. Whoever opens a file when none is left first makes a machine rest that was
// used the least recently, and only when all are in use waits for one. A place is asked for before anything of the machine's is locked, and with no slot
// held: making room may need a flush.

// restAtOnce is the part of all places that is freed when one is needed and there are machines with nothing to flush, so that looking for them costs little.
const restAtOnce = 32

// place waits for a place. Prior takes one that there should not be.
func (s *Shared) place(prior bool) {
	if s == nil || prior && s.take(prior) {
		return
	}
	s.granting.Lock()
	defer s.granting.Unlock()
	defer s.waiting.Store(false)
	for !s.take(false) {
		s.waiting.Store(true) // before we look: who leaves after we have looked tells us
		if s.rest(max(1, s.bounds.Files/restAtOnce)) > 0 || s.flushAndRest() {
			continue
		}
		<-s.left
	}
}

// take takes a place when there is one.
func (s *Shared) take(prior bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !prior && s.taken >= s.bounds.Files {
		return false
	}
	s.taken++
	return true
}

// giveUp gives back a place whose file is not open.
func (s *Shared) giveUp() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.taken--
	s.mu.Unlock()
	s.leave()
}

// opened notes that the machine uses the place that was taken for it.
func (s *Shared) opened(f *FSM) {
	if s == nil {
		return
	}
	f.lastUse.Store(s.opens.Add(1))
	s.mu.Lock()
	s.open[f] = struct{}{}
	s.mu.Unlock()
	s.leave() // whoever waits can have it rest now
}

// closed gives the machine's place back.
func (s *Shared) closed(f *FSM) {
	if s == nil {
		return
	}
	s.mu.Lock()
	delete(s.open, f)
	s.mu.Unlock()
	s.giveUp()
}

// leave tells whoever waits for a machine that one is left by somebody. It costs a look at what is hardly ever written.
func (s *Shared) leave() {
	if s != nil && s.waiting.Load() {
		select {
		case s.left <- struct{}{}:
		default: // the one who waits has been told
		}
	}
}

// byUse returns the machines whose files are open, those that were used the least recently first.
func (s *Shared) byUse() []*FSM {
	type use struct {
		f    *FSM
		used uint64
	}
	s.mu.Lock()
	all := make([]use, 0, len(s.open))
	for f := range maps.Keys(s.open) {
		all = append(all, use{f, f.lastUse.Load()})
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b use) int { return cmp.Compare(a.used, b.used) })
	list := make([]*FSM, len(all))
	for i := range all {
		list[i] = all[i].f
	}
	return list
}

// rest makes so many machines rest that have nothing to flush and are not in use, those that were used the least recently first, and returns how many it found.
func (s *Shared) rest(n int) (rested int) {
	if s == nil {
		return 0
	}
	for _, f := range s.byUse() {
		if rested == n {
			break
		}
		if f.restNow() {
			rested++
		}
	}
	return rested
}

// flushAndRest makes one machine rest that is not in use, whether or not it has something to flush, and reports whether it found one.
func (s *Shared) flushAndRest() bool {
	if s == nil {
		return false
	}
	for _, f := range s.byUse() {
		if f.Flush() == nil && f.restNow() {
			return true
		}
	}
	return false
}

// restNow reports whether it closed the machine's file. It waits for nobody.
func (f *FSM) restNow() bool {
	_, closed, err := f.rest()
	if err != nil {
		f.cfg.Logger.Error("a state file was not closed cleanly", "error", err)
	}
	return closed
}

// sparing opens, and does so again while there is no descriptor left and spare finds one.
func sparing(spare func() bool, open func() error) error {
	err := open()
	for noDescriptor(err) && spare() {
		err = open()
	}
	return err
}

// noDescriptor reports whether a file was not opened because the process, or the system, has too many open. Then it helps that another machine rests.
func noDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// spare makes a machine rest, so that a file can be opened, and reports whether one did. The caller has no slot, and no file is locked.
func (s *Shared) spare() bool { return s.rest(1) > 0 || s.flushAndRest() }
