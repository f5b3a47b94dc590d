package fsm

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// applyBytes applies an event with so many bytes of data as the machine's next entry, and reports whether it was applied.
func applyBytes(f *FSM, n int) bool {
	applied, _ := f.Applied()
	index := applied + 1
	got := f.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: Encode(Append{
		Stream: "s", Expected: api.ExpectAny, Events: []EventRecord{{ID: fmt.Sprint(index), Type: "T", Data: make([]byte, n)}},
	})})
	r, ok := got.(Result)
	return ok && r.Append[0].Err == nil
}

// The account is the sum of what the machines hold, whatever becomes of it, and nothing when they are closed.
func TestAccountOfUnflushed(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 2, Files: 10, Unflushed: 1 << 30})
	machines, _ := openMany(t, shared, 3)
	same := func(what string) {
		t.Helper()
		sum := int64(0)
		for _, f := range machines {
			sum += int64(f.unsynced())
		}
		if got := shared.unflushed.Load(); got != sum {
			t.Fatalf("%s: the account has %d bytes, the machines %d", what, got, sum)
		}
	}
	for i, f := range machines {
		applyBytes(f, 1000*(i+1))
		applyBytes(f, 10)
		same("applied")
	}
	if shared.unflushed.Load() < 6000 {
		t.Errorf("the account has %d bytes, want 6000 at least", shared.unflushed.Load())
	}
	machines[0].hookStep = func(step string) error {
		if step == "frozen" || step == "committed" {
			applyBytes(machines[0], 500)
			same(step)
		}
		return nil
	}
	if err := machines[0].Flush(); err != nil {
		t.Fatal(err)
	}
	machines[0].hookStep = nil
	same("flushed, and applied meanwhile")
	_, _, _, rc, err := machines[0].OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := machines[1].Restore(rc); err != nil {
		t.Fatal(err)
	}
	applyBytes(machines[1], 10)
	same("restored")
	failing := machines[2]
	failing.cfg.OnFatal = func(error) {}
	failing.fail(errCrash)
	if shared.unflushed.Load() < 3000 {
		t.Errorf("the account has %d bytes, the machine that failed holds 3000", shared.unflushed.Load())
	}
	for _, f := range machines {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := shared.unflushed.Load(); n != 0 {
		t.Errorf("all are closed, and the account has %d bytes", n)
	}
}

// When the machines together hold too much, the one that holds most is flushed, without being asked and before others.
func TestTheLargestOverlayIsFlushed(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 10, Unflushed: 64 << 10})
	machines, _ := openMany(t, shared, 3)
	for i, kib := range []int{10, 30, 20} {
		applyBytes(machines[i], kib<<10)
	}
	if n := shared.unflushed.Load(); n > shared.bounds.Unflushed {
		t.Fatalf("%d bytes are too much already", n)
	}
	relieved := func() bool { return shared.unflushed.Load() <= shared.bounds.Unflushed && len(shared.relief) == 0 }
	applyBytes(machines[0], 9<<10)
	waitFor(t, "the machines hold little enough", relieved)
	var kept []bool
	for _, f := range machines {
		kept = append(kept, f.unsynced() > 0)
	}
	if got := fmt.Sprint(kept); got != "[true false true]" {
		t.Errorf("not flushed: %v, want all but the second", got)
	}
	for i := range 200 { // also when all go on
		applyBytes(machines[i%3], 5<<10)
	}
	waitFor(t, "the machines hold little enough", relieved)
}

// Where flushing is held up, what all machines hold is a pressure for each, and at last applying waits, until a flush goes on. The machine that all others
// wait for has its own pressure only.
func TestPressureOfTheNode(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 10, Unflushed: 64 << 10})
	machines, _ := openMany(t, shared, 3)
	prior := openShared(t, shared, func(cfg *Config) { cfg.Prior, cfg.OnDirty = true, nil })
	done := shared.Slot()
	for range 4 {
		applyBytes(machines[0], 34<<10)
	}
	if p := machines[1].Pressure(); p <= 0.5 || p >= 1 {
		t.Errorf("the pressure on a machine that holds nothing: got %v, want between 0.5 and 1", p)
	}
	if p := prior.Pressure(); p != 0 {
		t.Errorf("the pressure on the machine that all wait for: got %v, want 0", p)
	}
	for range 4 {
		applyBytes(machines[1], 34<<10)
	}
	applied := make(chan bool, 1)
	go func() { applied <- applyBytes(machines[2], 10) }() // ends when there is room
	waitFor(t, "applying waits", shared.crowded.Load)
	if !applyBytes(prior, 10) || prior.unsynced() != 0 {
		t.Error("the machine that all wait for waits")
	}
	if len(applied) > 0 {
		t.Error("applied beyond the bound")
	}
	done()
	if !<-applied {
		t.Error("not applied when there was room")
	}
}

// Whoever waits for room and fails meanwhile does not wait on.
func TestFailureEndsTheWaitForTheNodesRoom(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 10, Unflushed: 16 << 10})
	f := openShared(t, shared, func(cfg *Config) { cfg.OnFatal = func(error) {} })
	done := shared.Slot()
	defer done()
	for shared.pressure() <= 1 {
		applyBytes(f, 10<<10)
	}
	applied := make(chan bool, 1)
	go func() { applied <- applyBytes(f, 10) }() // ends with the failure
	waitFor(t, "applying waits", shared.crowded.Load)
	f.fail(errCrash)
	if <-applied {
		t.Error("a machine that failed applies")
	}
}
