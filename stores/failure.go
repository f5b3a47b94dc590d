package stores

import (
	"errors"
	"time"

	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/raftnode/wal"
	"github.com/quorate/quorate/stores/fsm"
)

// Failure says why a store is not open here.
type Failure struct {
	Spec Spec
	Err  error

	closed <-chan struct{} // closed when the replica is; nil: it never was open

	again time.Time     // when it is opened again, unless the failure lasts
	wait  time.Duration // after the last try
}

// What cannot be opened is tried again after some time, which doubles: a full disk or an I/O error passes, and nobody restarts a node for one of its stores.
const (
	reopenAfter  = 5 * time.Second
	reopenAtMost = time.Minute
)

// lasting are the errors that trying again does not change.
var lasting = []error{fsm.ErrDamaged, raftnode.ErrDamaged, wal.ErrCorrupt, raftnode.ErrNotMember}

// Lasts reports whether the store stays closed: its replica is damaged, or of no member. One that could not be opened for another reason is tried again.
func (f *Failure) Lasts() bool {
	for _, err := range lasting {
		if errors.Is(f.Err, err) {
			return true
		}
	}
	return false
}

// failedLocked notes that the store could not be opened. The more often that was so, the longer it is until the next try.
func (m *Manager) failedLocked(spec Spec, err error) {
	wait := reopenAfter
	if before, ok := m.failed[spec.Name]; ok && before.Spec.group() == spec.group() {
		wait = min(max(2*before.wait, reopenAfter), reopenAtMost)
	}
	m.failed[spec.Name] = Failure{Spec: spec, Err: err, wait: wait, again: m.cfg.Now().Add(wait)}
}

// reopen opens the stores that could not be opened, those whose time it is. While Reconcile is at work it leaves that to it.
func (m *Manager) reopen() {
	if !m.opening.TryLock() {
		return
	}
	defer m.opening.Unlock()
	var due []Spec
	for _, f := range m.Failures() {
		if !f.Lasts() && !f.again.After(m.cfg.Now()) {
			due = append(due, f.Spec)
		}
	}
	m.openAll(due)
}
