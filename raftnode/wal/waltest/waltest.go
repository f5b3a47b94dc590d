// Package waltest holds the tests that every wal.Log must pass, so that the
// second implementation means what the first one does.
package waltest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/quorate/quorate/raftnode/wal"
)

// Opener opens the log that lives in a folder, making it if it is not there.
// The suite closes what it opens and opens the same folder again.
type Opener func(dir string) (wal.Log, error)

// Run runs the whole suite.
func Run(t *testing.T, open Opener) {
	t.Run("contract", func(t *testing.T) { testContract(t, open) })
	t.Run("round trip", func(t *testing.T) { testRoundTrip(t, open) })
	t.Run("delete range", func(t *testing.T) { testDeleteRange(t, open) })
	t.Run("lifecycle", func(t *testing.T) { testLifecycle(t, open) })
	t.Run("remove", func(t *testing.T) { testRemove(t, open) })
	t.Run("many groups share batches", func(t *testing.T) { testSharing(t, open) })
	t.Run("model", func(t *testing.T) { testModel(t, open) })
}

var (
	groupA = wal.GroupID{Store: 7, Incarnation: 1}
	groupB = wal.GroupID{Store: 7, Incarnation: 2}
)

func mustOpen(t *testing.T, open Opener, dir string) wal.Log {
	t.Helper()
	l, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func mustStore(t *testing.T, l wal.Log, id wal.GroupID) wal.Store {
	t.Helper()
	s, err := l.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Entries returns n entries of one term, beginning at index first.
func Entries(first uint64, n int, term uint64) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		index := first + uint64(i)
		logs[i] = &raft.Log{Index: index, Term: term, Data: fmt.Appendf(nil, "entry %d of term %d", index, term)}
	}
	return logs
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantBounds(t *testing.T, s wal.Store, first, last uint64) {
	t.Helper()
	f, err := s.FirstIndex()
	check(t, err)
	l, err := s.LastIndex()
	check(t, err)
	if f != first || l != last {
		t.Fatalf("bounds: got %d to %d, want %d to %d", f, l, first, last)
	}
}

func testContract(t *testing.T, open Opener) {
	s := mustStore(t, mustOpen(t, open, t.TempDir()), groupA)
	wantBounds(t, s, 0, 0)
	var l raft.Log
	if err := s.GetLog(1, &l); err != raft.ErrLogNotFound {
		t.Errorf("GetLog of a missing entry: got %v, want exactly raft.ErrLogNotFound", err)
	}
	if _, err := s.Get([]byte("k")); err == nil || err.Error() != "not found" {
		t.Errorf("Get of a missing key: got %v, want the text %q", err, "not found")
	}
	if n, err := s.GetUint64([]byte("k")); n != 0 || err != nil {
		t.Errorf("GetUint64 of a missing key: got %d, %v, want 0, nil", n, err)
	}
	// What hashicorp/raft itself asks before it starts or bootstraps.
	if has, err := raft.HasExistingState(s, s, raft.NewDiscardSnapshotStore()); has || err != nil {
		t.Errorf("HasExistingState of an empty store: got %v, %v", has, err)
	}
	check(t, s.SetUint64([]byte("CurrentTerm"), 3))
	if has, err := raft.HasExistingState(s, s, raft.NewDiscardSnapshotStore()); !has || err != nil {
		t.Errorf("HasExistingState after a term: got %v, %v", has, err)
	}
	if err := s.StoreLog(&raft.Log{Index: 0}); err == nil {
		t.Error("an entry with index 0 was accepted")
	}
	if err := s.Set(nil, []byte("v")); err == nil {
		t.Error("an empty key was accepted")
	}
	check(t, s.Set([]byte("k"), []byte("not eight")))
	if n, err := s.GetUint64([]byte("k")); err == nil {
		t.Errorf("GetUint64 of another value: got %d", n)
	}
	check(t, s.StoreLogs(nil))
	check(t, s.DeleteRange(1, 10))
	wantBounds(t, s, 0, 0)
}

func testRoundTrip(t *testing.T, open Opener) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	rows := []struct {
		name string
		log  raft.Log
	}{
		{"all zero", raft.Log{}},
		{"command", raft.Log{Term: 5, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: at}},
		{"only extensions", raft.Log{Term: 1<<64 - 1, Extensions: []byte{0}}},
		{"configuration", raft.Log{Term: 1, Type: raft.LogConfiguration, Data: bytes.Repeat([]byte{0xff}, 70_000)}},
		{"unknown type", raft.Log{Type: 255, AppendedAt: time.Unix(-1, 1).UTC()}},
	}
	dir := t.TempDir()
	l := mustOpen(t, open, dir)
	s := mustStore(t, l, groupA)
	for i, row := range rows {
		row.log.Index = uint64(i + 1)
		check(t, s.StoreLog(&row.log))
	}
	check(t, s.Set([]byte("empty"), nil))
	for _, when := range []string{"written", "reopened"} {
		for i, row := range rows {
			got, want := raft.Log{Data: []byte("old")}, row.log
			want.Index = uint64(i + 1)
			check(t, s.GetLog(want.Index, &got))
			if diff := differ(&got, &want); diff != "" {
				t.Errorf("%s, %s: %s", row.name, when, diff)
			}
		}
		if v, err := s.Get([]byte("empty")); err != nil || len(v) != 0 {
			t.Errorf("empty value, %s: got %q, %v", when, v, err)
		}
		check(t, l.Close())
		l = mustOpen(t, open, dir)
		s = mustStore(t, l, groupA)
	}
	// What was read belongs to the reader.
	var a, b raft.Log
	check(t, s.GetLog(2, &a))
	copy(a.Data, "XXXX")
	check(t, s.GetLog(2, &b))
	if string(b.Data) != "data" {
		t.Errorf("a reader's change got into the log: %q", b.Data)
	}
}

// differ says how two entries differ, or nothing.
func differ(got, want *raft.Log) string {
	if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !got.AppendedAt.Equal(want.AppendedAt) ||
		!bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) {
		return fmt.Sprintf("got %+v, want %+v", got, want)
	}
	return ""
}

func testDeleteRange(t *testing.T, open Opener) {
	rows := []struct {
		name        string
		lo, hi      uint64
		first, last uint64
	}{
		{"nothing below", 1, 9, 10, 20},
		{"nothing above", 21, 30, 10, 20},
		{"upside down", 15, 14, 10, 20},
		{"head", 1, 12, 13, 20},
		{"head, one", 10, 10, 11, 20},
		{"tail", 15, 20, 10, 14},
		{"tail and beyond", 20, 1<<64 - 1, 10, 19},
		{"all", 10, 20, 0, 0},
		{"all and beyond", 0, 1<<64 - 1, 0, 0},
		{"middle", 12, 18, 10, 20},
	}
	dir := t.TempDir()
	l := mustOpen(t, open, dir)
	for i, row := range rows {
		id := wal.GroupID{Store: uint64(i + 1), Incarnation: 1}
		s := mustStore(t, l, id)
		check(t, s.StoreLogs(Entries(10, 11, 1)))
		check(t, s.DeleteRange(row.lo, row.hi))
	}
	for _, when := range []string{"deleted", "reopened"} {
		check(t, l.Close())
		l = mustOpen(t, open, dir)
		for i, row := range rows {
			t.Run(row.name+", "+when, func(t *testing.T) {
				s := mustStore(t, l, wal.GroupID{Store: uint64(i + 1), Incarnation: 1})
				wantBounds(t, s, row.first, row.last)
				for index := uint64(9); index <= 21; index++ {
					var got raft.Log
					err := s.GetLog(index, &got)
					if want := index >= 10 && index <= 20 && (index < row.lo || index > row.hi); want != (err == nil) {
						t.Errorf("entry %d: stored %v, got %v", index, want, err)
					}
				}
			})
		}
	}
	// A log that was emptied goes on wherever it is told to.
	s := mustStore(t, l, wal.GroupID{Store: 99, Incarnation: 1})
	check(t, s.StoreLogs(Entries(1, 5, 1)))
	check(t, s.DeleteRange(1, 5))
	check(t, s.StoreLogs(Entries(1000, 2, 2)))
	wantBounds(t, s, 1000, 1001)
}

func testLifecycle(t *testing.T, open Opener) {
	l := mustOpen(t, open, t.TempDir())
	s := mustStore(t, l, groupA)
	if _, err := l.Open(groupA); !errors.Is(err, wal.ErrOpen) {
		t.Errorf("second Open: got %v, want ErrOpen", err)
	}
	if err := l.Remove(groupA); !errors.Is(err, wal.ErrOpen) {
		t.Errorf("Remove of an open group: got %v, want ErrOpen", err)
	}
	check(t, s.StoreLogs(Entries(1, 3, 1)))
	check(t, s.Close())
	check(t, s.Close())
	if err := s.StoreLogs(Entries(4, 1, 1)); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("write to a closed store: got %v, want ErrClosed", err)
	}
	if _, err := s.LastIndex(); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("LastIndex of a closed store: got %v, want ErrClosed", err)
	}
	s = mustStore(t, l, groupA)
	wantBounds(t, s, 1, 3)
	check(t, l.Close())
	check(t, l.Close())
	if err := s.SetUint64([]byte("k"), 1); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("write to a closed log: got %v, want ErrClosed", err)
	}
	if err := s.GetLog(1, new(raft.Log)); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("read of a closed log: got %v, want ErrClosed", err)
	}
	if _, err := l.Open(groupB); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("Open of a closed log: got %v, want ErrClosed", err)
	}
	if _, err := l.Groups(); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("Groups of a closed log: got %v, want ErrClosed", err)
	}
	check(t, s.Close())
}

func testRemove(t *testing.T, open Opener) {
	dir := t.TempDir()
	l := mustOpen(t, open, dir)
	wantGroups := func(want ...wal.GroupID) {
		t.Helper()
		got, err := l.Groups()
		check(t, err)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("groups: got %v, want %v", got, want)
		}
	}
	a, b := mustStore(t, l, groupA), mustStore(t, l, groupB)
	wantGroups()
	check(t, b.StoreLogs(Entries(1, 3, 1)))
	check(t, a.StoreLogs(Entries(1, 3, 1)))
	check(t, a.SetUint64([]byte("CurrentTerm"), 9))
	wantGroups(groupA, groupB)
	check(t, a.Close())
	check(t, l.Remove(groupA))
	check(t, l.Remove(groupA))
	wantGroups(groupB)
	check(t, l.Close())
	l = mustOpen(t, open, dir)
	wantGroups(groupB)
	a, b = mustStore(t, l, groupA), mustStore(t, l, groupB)
	wantBounds(t, a, 0, 0)
	wantBounds(t, b, 1, 3)
	if n, err := a.GetUint64([]byte("CurrentTerm")); n != 0 || err != nil {
		t.Fatalf("term of a removed group: got %d, %v", n, err)
	}
}

// testSharing has many groups write at once, each from two goroutines as raft
// does: one appends and votes, one cuts off the head.
func testSharing(t *testing.T, open Opener) {
	const groups, writes = 32, 30
	dir := t.TempDir()
	l := mustOpen(t, open, dir)
	var wg sync.WaitGroup
	for g := range groups {
		s := mustStore(t, l, wal.GroupID{Store: uint64(g + 1), Incarnation: 1})
		cut := make(chan uint64, writes)
		wg.Go(func() {
			defer close(cut)
			for i := range writes {
				index := uint64(1 + 3*i)
				if err := s.StoreLogs(Entries(index, 3, 1)); err != nil {
					t.Error(err)
					return
				}
				if err := s.SetUint64([]byte("CurrentTerm"), index); err != nil {
					t.Error(err)
					return
				}
				var got raft.Log
				if err := s.GetLog(index+2, &got); err != nil {
					t.Errorf("group %d: read own entry %d: %v", g, index+2, err)
					return
				}
				if i%10 == 9 {
					cut <- index
				}
			}
		})
		wg.Go(func() {
			for index := range cut {
				if err := s.DeleteRange(1, index); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	st := l.Stats()
	if st.Entries != groups*writes*3 {
		t.Errorf("entries: got %d, want %d", st.Entries, groups*writes*3)
	}
	if wrote := uint64(groups * writes * 2); st.Syncs >= wrote || st.MaxBatch < 2 {
		t.Errorf("%d writes took %d syncs, largest batch %d: nothing was shared", wrote, st.Syncs, st.MaxBatch)
	}
	t.Logf("%+v", st)
	check(t, l.Close())
	l = mustOpen(t, open, dir)
	for g := range groups {
		s := mustStore(t, l, wal.GroupID{Store: uint64(g + 1), Incarnation: 1})
		wantBounds(t, s, 3*(writes-1)+2, 3*writes)
	}
}
