package fsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// A machine that rests has its file closed, says what it said before, and opens the file for whoever needs it.
func TestRest(t *testing.T) {
	f := openNew(t)
	f.cfg.OnDirty = func() {}
	apply := func(index uint64, id string) {
		t.Helper()
		if got := f.ApplyBatch([]*raft.Log{entry(index, cmd("s", -2, id))}); got[0] == nil {
			t.Fatalf("entry %d has no result", index)
		}
	}
	rest := func(want bool) {
		t.Helper()
		got, err := f.Rest()
		if err != nil || got != want {
			t.Fatalf("Rest: got %v, %v; want %v", got, err, want)
		}
	}
	apply(1, "a")
	rest(false) // the file is behind
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	rest(true)
	uses := f.Uses()
	if index, _ := f.Applied(); index != 1 {
		t.Errorf("applied at rest: got %d, want 1", index)
	}
	if err := f.Flush(); err != nil || !f.Resting() || f.Uses() != uses {
		t.Errorf("a flush of nothing woke the machine (%v)", err)
	}
	page, err := f.ReadAll(AllQuery{Limit: 10})
	if err != nil || len(page.Events) != 1 || f.Resting() {
		t.Fatalf("read at rest: %d events, %v; resting %v", len(page.Events), err, f.Resting())
	}
	rest(true)
	apply(2, "b")
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	rest(true)
	_, _, size, rc, err := f.OpenSnapshot()
	if err != nil || size == 0 {
		t.Fatalf("snapshot at rest: %d bytes, %v", size, err)
	}
	rest(false) // the stream reads the file
	rc.Close()
	rest(true)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAll(AllQuery{Limit: 10}); err == nil {
		t.Error("a closed machine woke up")
	}
}

// Resting is safe at any moment: here while others append, read and flush.
func TestRestWhileInUse(t *testing.T) {
	f := openNew(t)
	f.cfg.OnDirty = func() {}
	done := make(chan struct{})
	var wg sync.WaitGroup
	background := func(fn func() error) {
		wg.Add(1)
		go func() { // ends with the test
			defer wg.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := fn(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	var rested atomic.Int64
	background(func() error {
		ok, err := f.Rest()
		if ok {
			rested.Add(1)
		}
		return err
	})
	background(f.Flush)
	reads := make(chan struct{}, 1) // one for each entry: whoever reads all the time leaves no moment to rest
	background(func() error {
		select {
		case <-reads:
		case <-done:
			return nil
		}
		page, err := f.ReadAll(AllQuery{Limit: 10})
		if err == nil && len(page.Events) > 0 && page.Events[0].ID != "1" {
			err = fmt.Errorf("the first event is %s", page.Events[0].ID)
		}
		return err
	})
	deadline := time.Now().Add(20 * time.Second)
	for i := uint64(1); (i <= 300 || rested.Load() < 20) && time.Now().Before(deadline); i++ {
		if got := f.ApplyBatch([]*raft.Log{entry(i, cmd("s", int64(i)-2, fmt.Sprint(i)))}); got[0].(Result).Append[0].Err != nil {
			t.Fatalf("entry %d: %v", i, got[0])
		}
		select {
		case reads <- struct{}{}:
		default:
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		if ok, err := f.Rest(); ok {
			rested.Add(1)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	wg.Wait()
	if rested.Load() < 20 {
		t.Errorf("the machine rested %d times", rested.Load())
	}
}

// A flush that found something to write, and comes to write it when the machine is closed, finds that Close has written it: nothing has failed.
func TestAFlushThatComesAfterClose(t *testing.T) {
	f := openNew(t)
	f.cfg.OnDirty = func() {}
	f.ApplyBatch([]*raft.Log{entry(1, cmd("s", -2, "a"))})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.dirty = true // as it was when the flush looked
	if err := f.Flush(); err != nil {
		t.Errorf("got %v", err)
	}
	f.dirty = false
}

// A machine that rests receives a state while somebody wakes it, and there is one place for both.
func TestRestoreWhileSomebodyWakesTheMachine(t *testing.T) {
	source := openAt(t, filepath.Join(t.TempDir(), "source.db"))
	defer source.Close()
	mustApply(t, source, cmd("a", -1, "1"))
	_, _, _, rc, err := source.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(filepath.Join(t.TempDir(), "state.db"))
	cfg.Shared = NewShared(Bounds{Flushes: 1, Files: 1, Unflushed: 1 << 30})
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ok, err := f.Rest(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	read := make(chan error, 1)
	f.hookStep = func(step string) error {
		if step == "received" { // the place is taken
			go func() { // ends once it has read
				_, err := f.ReadAll(AllQuery{Limit: 1, MaxBytes: 1})
				read <- err
			}()
			if f.waking.TryLock() { // whoever wakes it would have it now, and wait for the place
				t.Error("somebody may wake the machine while a restore has the place that it needs")
				f.waking.Unlock()
			}
		}
		return nil
	}
	if err := f.Restore(rc); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	if !f.sweep.renewed.Load() {
		t.Error("GiveBack does not know that the file is another one")
	}
}

// Info says the same of a machine that rests, does not open its file, and is no use of it: who looks at all machines now and then keeps none from resting.
func TestInfoIsNoUse(t *testing.T) {
	for _, restore := range []int{0, RestoreBegin, RestoreEnd} {
		f := openNew(t)
		if restore >= RestoreBegin {
			if _, err := take(t, f, &RestoreChange{Op: RestoreBegin, Restore: "r"}); err != nil {
				t.Fatal(err)
			}
		}
		if restore == RestoreEnd {
			if _, err := take(t, f, &RestoreChange{Op: RestoreEnd, Restore: "r"}); err != nil {
				t.Fatal(err)
			}
		}
		if restore != RestoreBegin {
			mustApply(t, f, cmd("s", api.ExpectAny, "a", "b"))
		}
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		uses := f.Uses()
		open, err := f.Info()
		if err != nil || open.Restoring != (restore == RestoreBegin) || open.Bytes == 0 || open.DiskBytes == 0 {
			t.Errorf("%+v, %v", open, err)
		}
		if rests, err := f.Rest(); !rests || err != nil {
			t.Fatal(rests, err)
		}
		if rests, err := f.Info(); rests != open || err != nil {
			t.Errorf("of one that rests: %+v, %v; before %+v", rests, err, open)
		}
		if !f.Resting() || f.Uses() != uses {
			t.Errorf("it rests: %v, uses %d, before %d", f.Resting(), f.Uses(), uses)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Info(); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %+v, %v", info, err)
		}
	}
}
