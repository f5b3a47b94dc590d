package fsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/quorate/quorate/api"
)

const (
	testStore       = 7
	testIncarnation = 3
	testTime        = 1_700_000_000_000_000
	noLimit         = 1 << 30
)

func testConfig(path string) Config {
	return Config{Path: path, Store: testStore, Incarnation: testIncarnation}
}

// openAt opens the FSM at path. The test fails when it reports a fatal error.
func openAt(t testing.TB, path string) *FSM {
	t.Helper()
	cfg := testConfig(path)
	cfg.OnFatal = func(err error) { t.Errorf("OnFatal: %v", err) }
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// openNew opens a fresh FSM. At the end of the test its state must verify.
func openNew(t testing.TB) *FSM {
	t.Helper()
	f := openAt(t, filepath.Join(t.TempDir(), "state.db"))
	t.Cleanup(func() {
		if err := f.Verify(); err != nil && !errors.Is(err, berrors.ErrDatabaseNotOpen) {
			t.Errorf("Verify at the end of the test: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return f
}

// ev is an event whose type and data are made of its id.
func ev(id string) EventRecord {
	return EventRecord{ID: id, Type: "t", JSON: true, Data: []byte(fmt.Sprintf("%q", "data of "+id))}
}

func evs(ids ...string) []EventRecord {
	out := make([]EventRecord, len(ids))
	for i, id := range ids {
		out[i] = ev(id)
	}
	return out
}

func cmd(stream string, expected int64, ids ...string) Append {
	return Append{Time: testTime, Stream: stream, Expected: expected, Events: evs(ids...)}
}

func entry(index uint64, cmds ...Append) *raft.Log {
	return &raft.Log{Index: index, Term: 1 + index/5, Type: raft.LogCommand, Data: Encode(cmds...)}
}

// apply applies the commands as the next entry.
func apply(t testing.TB, f *FSM, cmds ...Append) []AppendResult {
	t.Helper()
	applied, _ := f.Applied()
	res, ok := f.Apply(entry(applied+1, cmds...)).(Result)
	if !ok {
		t.Fatalf("entry %d has no result", applied+1)
	}
	return res.Append
}

// mustApply applies commands of which none may be refused.
func mustApply(t testing.TB, f *FSM, cmds ...Append) []AppendResult {
	t.Helper()
	res := apply(t, f, cmds...)
	for i, r := range res {
		if r.Err != nil {
			t.Fatalf("command %d of %d: %v", i+1, len(res), r.Err)
		}
	}
	return res
}

func readAll(t testing.TB, f *FSM) []api.Event {
	t.Helper()
	page, err := f.ReadAll(AllQuery{Limit: noLimit, MaxBytes: noLimit})
	if err != nil {
		t.Fatal(err)
	}
	if !page.End {
		t.Fatal("a page without limits is not the last one")
	}
	return page.Events
}

func hashOf(t testing.TB, f *FSM) string {
	t.Helper()
	h, err := f.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h)
}

// bucketDump returns everything there is but applied and term, to show that nothing was written.
func bucketDump(t testing.TB, f *FSM) string {
	t.Helper()
	var s string
	err := f.view(func(v *view) error {
		err := v.each(1, func(position uint64, value []byte) (bool, error) {
			s += fmt.Sprintf("event %d %x\n", position, value)
			return true, nil
		})
		for number := uint64(1); number <= v.st.streams && err == nil; number++ {
			var name string
			name, err = v.name(number)
			s += fmt.Sprintf("stream %d %s\n", number, name)
		}
		s += fmt.Sprintf("position %d streams %d\n", v.st.position, v.st.streams)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	page, _, _, err := f.Streams("", "", 1000)
	if err != nil && !errors.Is(err, api.ErrRestoring) { // then nobody is shown the streams
		t.Fatal(err)
	}
	return s + fmt.Sprintf("%+v\n", page)
}

// encode makes a record whose pointers all lead to the event before it.
func (rec *record) encode(position uint64) []byte {
	h := head{number: rec.stream, count: rec.version, path: make([]uint64, maxPointers)}
	for i := range h.path {
		h.path[i] = position - 1
	}
	return appendRecord(nil, position, &h, rec.time, rec.event.encode(nil))
}

// crash ends the machine as a power cut does: what was not synced is gone.
func crash(t testing.TB, f *FSM) {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.background.Wait()
	defer f.lockFile()()
	f.applying.Lock()
	defer f.applying.Unlock()
	f.dropReader()
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
}
