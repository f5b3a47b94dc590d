package fsm

import (
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// openShared opens a fresh machine that shares what its node has.
func openShared(t *testing.T, shared *Shared, change ...func(*Config)) *FSM {
	t.Helper()
	cfg := testConfig(filepath.Join(t.TempDir(), "state.db"))
	cfg.OnFatal = func(err error) { t.Errorf("OnFatal: %v", err) }
	cfg.OnDirty, cfg.Shared = func() {}, shared
	for _, c := range change {
		c(&cfg)
	}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return f
}

// waitFor returns once ok holds; what ok looks at changes without telling anybody.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// inTurn reports whether a flush of the machine runs or waits for a slot.
func inTurn(f *FSM) bool {
	if f.turn.TryLock() {
		f.turn.Unlock()
		return false
	}
	return true
}

// Whoever flushes, there are never more flushes under way than slots, and all of them come to an end.
func TestFlushesAreBounded(t *testing.T) {
	const slots = 2
	shared := NewShared(Bounds{Flushes: slots, Files: 100, Unflushed: 1 << 30})
	var mu sync.Mutex
	under, most, all := 0, 0, 0
	arrived, proceed := make(chan struct{}, 100), make(chan struct{})
	hook := func(step string) error {
		switch step {
		case "frozen":
			mu.Lock()
			under++
			all++
			most = max(most, under)
			mu.Unlock()
			arrived <- struct{}{}
			<-proceed
		case "dropped":
			mu.Lock()
			under--
			mu.Unlock()
		}
		return nil
	}
	paths := map[string]func(f *FSM) error{
		"asked for": (*FSM).Flush,
		"a snapshot's": func(f *FSM) error {
			s, err := f.Snapshot()
			if err != nil {
				return err
			}
			return s.Persist(discarded{})
		},
		"of a full overlay": func(f *FSM) error {
			f.kick(func() {})
			f.background.Wait()
			return nil
		},
		"of a batch that waits for room": func(f *FSM) error {
			f.held.Store(maxOverlay)
			f.waitRoom()
			return nil
		},
		"of a stream to another replica": func(f *FSM) error {
			_, _, _, rc, err := f.OpenSnapshot()
			if err != nil {
				return err
			}
			return rc.Close()
		},
		"at the end": (*FSM).Close,
	}
	var wg sync.WaitGroup
	var machines []*FSM
	for name, flush := range paths {
		f := openShared(t, shared)
		apply(t, f, cmd("s", -2, "a"))
		f.hookStep = hook
		machines = append(machines, f)
		wg.Go(func() {
			if err := flush(f); err != nil {
				t.Errorf("the flush %s: %v", name, err)
			}
		})
	}
	for _, f := range machines {
		waitFor(t, "every flush has begun or waits for its slot", func() bool { return inTurn(f) })
	}
	for range slots {
		<-arrived
	}
	select {
	case <-arrived:
		t.Error("one more flush is under way than there are slots")
	case <-time.After(50 * time.Millisecond): // only a flush too many could come
	}
	close(proceed)
	wg.Wait()
	if most != slots || all != len(paths) {
		t.Errorf("%d flushes, %d at once at most; want %d, %d", all, most, len(paths), slots)
	}
}

// A machine that waits for a slot is read and applied to, and nobody who needs its file for themselves waits.
func TestWaitingForASlotHoldsNothing(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 100, Unflushed: 1 << 30})
	f := openShared(t, shared)
	apply(t, f, cmd("s", -2, "a"))
	done := shared.Slot()
	flushed := make(chan error, 1)
	go func() { flushed <- f.Flush() }() // ends with the slot that is given back below
	waitFor(t, "the flush waits", func() bool { return inTurn(f) })
	if !f.file.TryLock() {
		t.Fatal("the file is held")
	}
	f.file.Unlock()
	apply(t, f, cmd("s", -2, "b"))
	if page, err := f.ReadAll(AllQuery{Limit: 10, MaxBytes: 1 << 20}); err != nil || len(page.Events) != 2 {
		t.Errorf("read %d events, %v; want 2", len(page.Events), err)
	}
	if rests, err := f.Rest(); rests || err != nil {
		t.Errorf("a machine that is ahead of its file rests: %v, %v", rests, err)
	}
	done()
	if err := <-flushed; err != nil {
		t.Error(err)
	}
	if f.unsynced() != 0 {
		t.Error("what was applied while the flush waited is not in it")
	}
}

// A flush that fails gives its slot back, and so does one that finds, when it has its slot, that the machine has failed.
func TestAFailedFlushGivesItsSlotBack(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 100, Unflushed: 1 << 30})
	failing := openShared(t, shared, func(cfg *Config) { cfg.OnFatal = func(error) {} })
	apply(t, failing, cmd("s", -2, "a"))
	failing.hookStep = func(step string) error {
		if step == "written" {
			return errCrash
		}
		return nil
	}
	if err := failing.Flush(); !errors.Is(err, errCrash) {
		t.Fatalf("got %v", err)
	}
	late := openShared(t, shared, func(cfg *Config) { cfg.OnFatal = func(error) {} })
	apply(t, late, cmd("s", -2, "a"))
	done := shared.Slot()
	flushed := make(chan error, 1)
	go func() { flushed <- late.Flush() }() // ends with the slot that is given back below
	waitFor(t, "the flush waits", func() bool { return inTurn(late) })
	late.fail(errCrash)
	done()
	if err := <-flushed; !errors.Is(err, errCrash) {
		t.Errorf("got %v", err)
	}
	other := openShared(t, shared)
	apply(t, other, cmd("s", -2, "a"))
	if err := other.Flush(); err != nil {
		t.Error(err)
	}
}

// The machine that all others wait for takes no slot.
func TestPriorWaitsForNoSlot(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 100, Unflushed: 1 << 30})
	defer shared.Slot()()
	f := openShared(t, shared, func(cfg *Config) { cfg.Prior, cfg.OnDirty = true, nil })
	apply(t, f, cmd("s", -2, "a"))
	if f.unsynced() != 0 {
		t.Error("the batch is not synced")
	}
}

// A flush that finds, when its turn comes, that another has written everything neither waits for a slot nor wakes the machine.
func TestAFlushOfNothingTakesNoSlot(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 100, Unflushed: 1 << 30})
	f := openShared(t, shared)
	f.ApplyBatch([]*raft.Log{entry(1, cmd("s", -2, "a"))})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if ok, err := f.Rest(); !ok || err != nil {
		t.Fatalf("it does not rest: %v", err)
	}
	defer shared.Slot()()
	if err := f.Flush(); err != nil || !f.Resting() {
		t.Errorf("flush: %v; resting %v", err, f.Resting())
	}
}
