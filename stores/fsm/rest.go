package fsm

import (
	"fmt"

	berrors "go.etcd.io/bbolt/errors"
)

// A machine that is not used rests: its file is closed, and with it go a file descriptor, the mapped pages and bbolt's own memory. What it has applied,
// and how many events and streams there are, stays in memory. The first who needs the file opens it again.

// ErrClosed is what a machine answers after Close.
var ErrClosed = berrors.ErrDatabaseNotOpen

// glance is what Info says of a machine that rests, beside what is in memory anyway: while the file is closed it does not change.
type glance struct {
	bytes     int64
	restoring bool
	err       error // it could not be told
}

// enter takes the file for a reader or an applier, and opens it when the machine rests. Unless it fails, leave ends the use. After Close it is
// ErrClosed.
func (f *FSM) enter() (leave func(), err error) {
	f.use()
	for {
		f.file.RLock()
		if f.db != nil {
			return f.leave, nil
		}
		f.file.RUnlock()
		if err := f.wake(); err != nil {
			return nil, err
		}
	}
}

// enterOpen is enter for a flush. It returns nil when the file is closed: then everything that was applied before is in it, for neither Rest nor Close
// closes it otherwise.
func (f *FSM) enterOpen() (leave func()) {
	f.use()
	f.file.RLock()
	if f.db == nil {
		f.file.RUnlock()
		return nil
	}
	return f.leave
}

// use notes that the file is needed.
func (f *FSM) use() {
	f.uses.Add(1)
	if s := f.cfg.Shared; s != nil {
		f.lastUse.Store(s.opens.Load())
	}
}

// leave ends a use.
func (f *FSM) leave() {
	f.file.RUnlock()
	f.cfg.Shared.leave()
}

// wake opens the file of a machine that rests. Where too many files are open, others rest first.
func (f *FSM) wake() error {
	f.waking.Lock() // so whoever comes here finds it closed, or leaves at once: with the file open, a snapshot stream may hold it for long
	defer f.waking.Unlock()
	if !f.Resting() {
		return nil
	}
	shared := f.cfg.Shared
	shared.place(f.cfg.Prior)
	err := sparing(shared.spare, f.openAgain)
	if err != nil {
		shared.giveUp()
	}
	return err
}

// openAgain opens the file that Rest closed.
func (f *FSM) openAgain() error {
	f.file.Lock()
	defer f.file.Unlock()
	if f.closing() {
		return fmt.Errorf("state machine %s: %w", f.cfg.Path, ErrClosed)
	}
	file, err := openFile(f.cfg.Path, f.cfg)
	if err != nil {
		return err
	}
	f.mu.RLock()
	st := f.state
	f.mu.RUnlock()
	if file.st != st { // it was closed with all that is applied in it
		file.db.Close()
		return fmt.Errorf("%w: %s was at entry %d with %d events when it was closed, and is at entry %d with %d", ErrDamaged, f.cfg.Path,
			st.applied, st.position, file.st.applied, file.st.position)
	}
	f.db, f.reserved = file.db, file.reserved
	f.cfg.Shared.opened(f)
	return nil
}

// Uses counts how often the file was needed. Whoever rests machines compares it with what it was some time ago.
func (f *FSM) Uses() uint64 { return f.uses.Load() }

// Resting reports whether the file is closed.
func (f *FSM) Resting() bool {
	f.file.RLock()
	defer f.leave() // for whoever wants it to rest it was in use
	return f.db == nil
}

// Rest closes the file when nothing in memory is ahead of it and nobody reads it, and reports whether it is closed. It does not wait for those who use it.
func (f *FSM) Rest() (bool, error) {
	rests, _, err := f.rest()
	return rests, err
}

// rest is Rest that also reports whether the file was closed just now.
func (f *FSM) rest() (rests, closed bool, err error) {
	if !f.file.TryLock() {
		return false, false, nil
	}
	defer f.file.Unlock()
	f.mu.RLock()
	busy := f.dirty || f.frozen != nil || f.failed != nil || f.closed
	f.mu.RUnlock()
	if busy || f.db == nil {
		return f.db == nil, false, nil
	}
	f.applying.Lock()
	defer f.applying.Unlock()
	f.dropReader()
	f.rested.bytes, f.rested.restoring, f.rested.err = f.measure()
	db := f.db
	f.db = nil
	defer f.cfg.Shared.closed(f)
	if err := guard(db.Close); err != nil {
		return true, true, fmt.Errorf("close the state file %s: %w", f.cfg.Path, err)
	}
	return true, true, nil
}
