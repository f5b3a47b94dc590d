package stores

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/stores/fsm"
)

// hands is a clock that the test moves.
type hands struct{ at atomic.Int64 }

func (h *hands) now() time.Time       { return time.Unix(1_700_000_000, h.at.Load()) }
func (h *hands) pass(d time.Duration) { h.at.Add(int64(d)) }
func other(first *Store, id uint64) Spec {
	return Spec{Name: "other", ID: id, Incarnation: 1, Members: first.spec.Members}
}

// A store that could not be opened for a reason that passes is tried again, ever more seldom, and opens once it can.
func TestAStoreThatCouldNotBeOpenedIsTriedAgain(t *testing.T) {
	var clock hands
	m, first := openLone(t, Config{Now: clock.now})
	spec := other(first, 2)
	if err := os.WriteFile(m.dir(spec), nil, 0o600); err != nil { // in the place of its folder
		t.Fatal(err)
	}
	m.Reconcile([]Spec{first.spec, spec})
	for _, wait := range []time.Duration{reopenAfter, 2 * reopenAfter, 4 * reopenAfter, 8 * reopenAfter, reopenAtMost, reopenAtMost} {
		f, ok := m.failure(spec)
		if !ok || f.Lasts() || f.wait != wait {
			t.Fatalf("%v is tried again after %v, want %v; it lasts: %v", f.Err, f.wait, wait, f.Lasts())
		}
		clock.pass(wait - 1)
		m.reopen()
		if now, _ := m.failure(spec); now.again != f.again {
			t.Fatalf("tried before %v have passed", wait)
		}
		clock.pass(1)
		m.reopen()
	}
	if err := os.Remove(m.dir(spec)); err != nil {
		t.Fatal(err)
	}
	clock.pass(reopenAtMost)
	m.reopen()
	if s, err := m.Wait(t.Context(), "other", 0); err != nil || s.spec.ID != 2 {
		t.Fatalf("still closed: %v", err)
	}
	if f := m.Failures(); len(f) > 0 {
		t.Errorf("failures: %v", f)
	}
}

// Damage does not pass: a replica that is damaged is not opened again while the node runs, even if that could not be written down.
func TestADamagedReplicaIsNotTriedAgain(t *testing.T) {
	var clock hands
	m, first := openLone(t, Config{Now: clock.now})
	spec := other(first, 2)
	note := filepath.Join(m.dir(spec), damagedFile)
	if err := errors.Join(os.Mkdir(m.dir(spec), 0o750), os.WriteFile(note, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	m.Reconcile([]Spec{first.spec, spec})
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	clock.pass(time.Hour)
	m.reopen()
	m.Reconcile([]Spec{first.spec, spec})
	if f, ok := m.failure(spec); !ok || !f.Lasts() || !errors.Is(f.Err, fsm.ErrDamaged) {
		t.Errorf("it is open, or tried again: %v", f.Err)
	}
}

// A dropped store whose replica was set aside, or never opened, leaves neither a folder nor its group in the log.
func TestADroppedStoreThatIsNotOpenIsForgotten(t *testing.T) {
	forgotten := make(chan struct{})
	m, first := openLone(t, Config{OnClosing: func(s *Store, _ bool) {
		if s.spec.ID == 2 { // it takes long to be closed
			select {
			case <-forgotten:
				t.Error("the store is forgotten while its replica is still being closed")
			case <-time.After(200 * time.Millisecond):
			}
		}
	}})
	for id, fail := range map[uint64]func(Spec){
		2: func(spec Spec) {
			s, err := m.Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			s.setAside(fsm.ErrDamaged)
		},
		3: func(spec Spec) { // an earlier run of the node opened it
			s, err := m.Open(spec)
			if err == nil {
				err = errors.Join(m.closeStore(s), os.WriteFile(filepath.Join(m.dir(spec), damagedFile), nil, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			m.Reconcile([]Spec{first.spec, spec})
		},
	} {
		spec := other(first, id)
		fail(spec)
		if _, ok := m.failure(spec); !ok {
			t.Fatal("it is open")
		}
		m.Reconcile([]Spec{first.spec})
		if id == 2 {
			close(forgotten)
		}
		if f := m.Failures(); len(f) > 0 {
			t.Errorf("failures: %v", f)
		}
		if _, err := os.Stat(m.dir(spec)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the folder is still there: %v", err)
		}
		groups, err := m.cfg.Node.LoggedGroups()
		if err != nil || slices.Contains(groups, spec.group()) {
			t.Errorf("the log still has the group: %v, %v", groups, err)
		}
	}
}
