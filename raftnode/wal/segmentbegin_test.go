package wal

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

func openHeld(t *testing.T, dir *memFolder) *SegmentLog {
	t.Helper()
	l, err := OpenSegments(Config{
		Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "disk", SegmentSize: segmentHead + 3000, Resting: 2, Segments: dir, OnFatal: func(error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func entry(index uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: []byte(data)}
}

// What is begun can be read at once, is pending until the disk has it, and reaches the disk before anything that is written later.
func TestBegunEntries(t *testing.T) {
	dir := &memFolder{left: -1, files: map[string]*memFile{}}
	l := openHeld(t, dir)
	s, err := l.Open(GroupID{1, 1})
	must(t, err)
	must(t, s.StoreLog(entry(1, "a")))
	release := dir.hold()
	must(t, s.Begin([]*raft.Log{entry(2, "b"), entry(3, "c")}))
	if got := s.Pending(); got != 2 {
		t.Errorf("pending from entry %d, want 2", got)
	}
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	if first != 1 || last != 3 {
		t.Errorf("entries %d to %d, want 1 to 3", first, last)
	}
	for i, want := range []string{1: "a", 2: "b", 3: "c"} {
		var e raft.Log
		if i == 0 {
			continue
		}
		if err := s.GetLog(uint64(i), &e); err != nil || string(e.Data) != want || e.Index != uint64(i) {
			t.Errorf("entry %d: %q, %v, want %q", i, e.Data, err, want)
		}
	}
	must(t, s.AwaitDurable(context.Background(), 1)) // is already
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.AwaitDurable(ended, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("entry 2 is not on the disk, and waiting for it says: %v", err)
	}
	// A vote goes through the same log: when it is answered, what was begun before is on the disk.
	voted := make(chan error)
	pending := make(chan uint64, 1)
	go func() {
		err := s.SetUint64([]byte("CurrentTerm"), 2)
		pending <- s.Pending()
		voted <- err
	}()
	release()
	must(t, <-voted)
	if got := <-pending; got != 0 {
		t.Errorf("a vote is durable, and entries from %d, begun before it, are not", got)
	}
	must(t, s.AwaitDurable(context.Background(), 3))
	if err := s.Begin([]*raft.Log{entry(3, "again")}); err == nil {
		t.Error("an entry that exists was begun")
	}
	if err := s.Begin([]*raft.Log{entry(4, "d"), entry(6, "f")}); err == nil {
		t.Error("entries with a gap were begun")
	}
}

// A second Begin waits for the first; Close waits for what is pending.
func TestBegunEntriesAreWaitedFor(t *testing.T) {
	for _, next := range []struct {
		name string
		call func(Store) error
	}{
		{"begin", func(s Store) error { return s.Begin([]*raft.Log{entry(2, "b")}) }},
		{"delete", func(s Store) error { return s.DeleteRange(1, 1) }},
		{"close", func(s Store) error { return s.Close() }},
	} {
		t.Run(next.name, func(t *testing.T) {
			dir := &memFolder{left: -1, files: map[string]*memFile{}}
			s, err := openHeld(t, dir).Open(GroupID{1, 1})
			must(t, err)
			release := dir.hold()
			must(t, s.Begin([]*raft.Log{entry(1, "a")}))
			done := make(chan error)
			pending := make(chan uint64, 1)
			go func() {
				err := next.call(s)
				pending <- s.Pending()
				done <- err
			}()
			release()
			must(t, <-done)
			if got := <-pending; got == 1 {
				t.Error("it did not wait for the entry that was begun")
			}
		})
	}
}

// The power goes while entries are pending: whoever waits for them hears that they are not durable, and after the restart they are gone.
func TestPowerCutWithBegunEntries(t *testing.T) {
	dir := &memFolder{left: -1, files: map[string]*memFile{}}
	l := openHeld(t, dir)
	s, err := l.Open(GroupID{1, 1})
	must(t, err)
	must(t, s.StoreLog(entry(1, "a")))
	release := dir.hold()
	must(t, s.Begin([]*raft.Log{entry(2, "b")}))
	waited := make(chan error)
	go func() { waited <- s.AwaitDurable(context.Background(), 2) }()
	dir.mu.Lock()
	dir.cut = true
	dir.mu.Unlock()
	release()
	if err := <-waited; !errors.Is(err, errCut) {
		t.Fatalf("waiting for an entry that is lost says: %v", err)
	}
	if err := s.Begin([]*raft.Log{entry(3, "c")}); !errors.Is(err, errCut) {
		t.Errorf("after a failure an entry is begun: %v", err)
	}
	must(t, s.Close())
	l.Close()
	dir.restart(nil)
	l, err = OpenSegments(l.cfg)
	must(t, err)
	defer l.Close()
	if got := holds(t, l, GroupID{1, 1}); len(got.entries) != 1 || got.entries[1] != "a" {
		t.Errorf("after the power cut: %v, want entry 1 only", got)
	}
}
