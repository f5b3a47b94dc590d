package wal

import (
	"errors"
	"path/filepath"
	"testing"
)

// Groups that were removed are not kept in memory for ever: a node on which stores come and go stays as small as it was.
func TestRemovedGroupsAreForgotten(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "n", SegmentSize: segmentHead + 8<<10, Resting: 2, OnFatal: func(err error) { t.Error(err) }}
	l, err := OpenSegments(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	open := func(id GroupID) Store {
		t.Helper()
		s, err := l.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	busy := open(GroupID{1, 1})
	index := uint64(0)
	write := func(s Store, index uint64) {
		t.Helper()
		err := s.StoreLog(fatEntry(index))
		if err != nil {
			t.Fatal(err)
		}
	}
	// settled returns once every segment that had a record when it was called is settled.
	settled := func() {
		t.Helper()
		for begun := l.current.number; l.current.number <= begun+uint64(cfg.Resting); {
			index++
			write(busy, index)
		}
		l.settledTo(cfg.Resting)
	}
	const groups = 20
	for round := range uint64(2) { // the second time the same groups come back, and are known from before only to segments
		for i := range uint64(groups) {
			s := open(GroupID{2 + i, 1})
			if _, err := s.Get([]byte("vote")); !errors.Is(err, ErrKeyNotFound) {
				t.Fatalf("round %d: group %d has a vote of an earlier life: %v", round, i, err)
			}
			if last, err := s.LastIndex(); err != nil || last != 0 {
				t.Fatalf("round %d: group %d ends at %d, %v", round, i, last, err)
			}
			write(s, 1)
			if err := s.Set([]byte("vote"), []byte("n")); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 { // some of them when they are in the bbolt file
				settled()
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := l.Remove(GroupID{2 + i, 1}); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			settled()
			l.mu.Lock()
			known := len(l.groups)
			l.mu.Unlock()
			l.settled.mu.Lock()
			below := len(l.settled.open)
			l.settled.mu.Unlock()
			if known != 1 || below != 1 {
				t.Fatalf("%d groups are known, %d to the bbolt file; one is left", known, below)
			}
		}
	}
	back := open(GroupID{2, 1}) // its last life is removed by a segment that is not settled
	write(back, 7)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenSegments(cfg); err != nil {
		t.Fatal(err)
	}
	ids, err := l.Groups()
	if err != nil || len(ids) != 2 || ids[0] != (GroupID{1, 1}) || ids[1] != (GroupID{2, 1}) {
		t.Fatalf("after a start: %v, %v", ids, err)
	}
	back = open(GroupID{2, 1})
	first, err := back.FirstIndex()
	if last, lerr := back.LastIndex(); err != nil || lerr != nil || first != 7 || last != 7 {
		t.Fatalf("after a start: entries %d to %d, %v, %v; want the last life's", first, last, err, lerr)
	}
}
