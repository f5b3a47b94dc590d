package wal

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
)

// fullFolder has no room for another file while full is set.
type fullFolder struct {
	Folder
	full    atomic.Bool
	refused atomic.Int64
}

func (d *fullFolder) Create(name string, size int64) (File, error) {
	if d.full.Load() {
		d.refused.Add(1)
		return nil, syscall.ENOSPC
	}
	return d.Folder.Create(name, size)
}

// fatEntry is one of which eight fill the segments of these tests.
func fatEntry(index uint64) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: fmt.Appendf(nil, "entry %d, %01000d", index, 0)}
}

// settledTo waits until no more than n full segments are left, and returns how many are.
func (l *SegmentLog) settledTo(n int) int {
	l.fullMu.Lock()
	defer l.fullMu.Unlock()
	for len(l.full) > n {
		l.drained.Wait()
	}
	return len(l.full)
}

// Found by TestChaos: a node whose disk was full while it prepared a segment ended when it needed that segment, although there was room again by then, and
// then it was one of two that were down.
func TestASegmentThatCouldNotBePreparedIsTriedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	dir := &fullFolder{Folder: osFolder(filepath.Dir(path))}
	var fatal atomic.Pointer[error]
	l, err := OpenSegments(Config{
		Path: path, Segments: dir, NodeID: "disk", SegmentSize: segmentHead + 8<<10, Resting: 2, OnFatal: func(err error) { fatal.Store(&err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Open(GroupID{1, 1})
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	write := func() error {
		index++
		return s.StoreLog(fatEntry(index))
	}
	dir.full.Store(true)
	for dir.refused.Load() == 0 { // until it is half full, and a little longer: the next one is prepared beside
		if index > 5 {
			t.Fatal("no segment was prepared")
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
		if p := l.prepared; p != nil {
			<-p.done
		}
	}
	dir.full.Store(false)
	for range 20 {
		if err := write(); err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
	}
	if err := fatal.Load(); err != nil {
		t.Errorf("the log has ended: %v", *err)
	}
	for i := uint64(1); i <= index; i++ {
		var got raft.Log
		if err := s.GetLog(i, &got); err != nil || got.Index != i {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}
