package fsm

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// A flush that fails ends the machine before another one can begin: that one would drop what is not written, and commit what came later.
func TestNoFlushFollowsAFailedOne(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "state.db"))
	var fatal []error
	cfg.OnDirty, cfg.OnFatal = func() {}, func(err error) { fatal = append(fatal, err) }
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	keep := func(index uint64, stream string) { // a key only: positions do not tell that it is missing
		c := &StreamChange{Op: StreamMetadata, Stream: stream, Expected: api.ExpectAny, Time: testTime, MaxCount: 5}
		f.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{ChangeBody(c)})})
	}
	full := errors.New("no space left on device")
	f.hookStep = func(step string) error {
		if step == "written" {
			keep(2, "second")
			return full
		}
		return nil
	}
	keep(1, "first")
	f.turn.Lock() // nobody else begins one; the next would as soon as it is given back
	f.file.RLock()
	err = f.flush()
	ended := f.failure()
	f.file.RUnlock()
	f.turn.Unlock()
	if !errors.Is(err, full) || !errors.Is(ended, full) {
		t.Errorf("the flush failed with %v, and when the next one may begin the machine has ended with %v", err, ended)
	}
	f.hookStep = nil
	if err := f.Flush(); !errors.Is(err, full) {
		t.Errorf("the next flush: %v", err)
	}
	if len(fatal) != 1 || !errors.Is(fatal[0], full) {
		t.Errorf("OnFatal was told %v", fatal)
	}
	crash(t, f)
	again := openAt(t, cfg.Path)
	defer again.Close()
	if applied, _ := again.Applied(); applied != 0 {
		t.Errorf("the file is at entry %d", applied)
	}
}

// A step of scavenging that fails does so too, and nothing is given back after a commit of which nobody knows what became.
func TestNothingIsWrittenAfterAFailedStep(t *testing.T) {
	cfg := testConfig(filepath.Join(t.TempDir(), "state.db"))
	cfg.OnDirty, cfg.OnFatal = func() {}, func(error) {}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer crash(t, f)
	mustApply(t, f, bigEvents("s", 0, 20, 1000))
	truncate(t, f, "s", 15)
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	broken, ended := errors.New("disk broke"), error(nil)
	f.hookStep = func(step string) error {
		if step == "swept" {
			return broken
		}
		return nil
	}
	leave, err := f.enter()
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.sweepStep()
	ended = f.failure()
	leave()
	if !errors.Is(err, broken) || !errors.Is(ended, broken) {
		t.Errorf("the step failed with %v, and then the machine has ended with %v", err, ended)
	}
	f.hookStep = func(step string) error {
		t.Errorf("step %q after the failure", step)
		return nil
	}
	leave, err = f.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	f.sweep.renewed.Store(true)
	if n, more, err := f.punchStep(); n != 0 || more || err != nil {
		t.Errorf("GiveBack: %d, %v, %v", n, more, err)
	}
	if !f.sweep.renewed.Load() {
		t.Error("a step of GiveBack began")
	}
}
