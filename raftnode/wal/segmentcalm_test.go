package wal

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// While segments fill, more of them rest than when it is calm; then they are settled, without anybody writing.
func TestSegmentsAreSettledWhenItIsCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := OpenSegments(Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "n", SegmentSize: segmentHead + 8<<10, Resting: 6, OnFatal: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s, err := l.Open(GroupID{1, 1})
		if err != nil {
			t.Fatal(err)
		}
		for index := uint64(1); l.current.number <= 9; index++ {
			if err := s.StoreLog(fatEntry(index)); err != nil {
				t.Fatal(err)
			}
		}
		if left := l.settledTo(6); left != 6 {
			t.Errorf("while segments fill, %d are left; 6 may rest", left)
		}
		time.Sleep(calmAfter - time.Millisecond)
		if left := l.settledTo(6); left != 6 {
			t.Errorf("shortly before it is calm, %d are left", left)
		}
		if left := l.settledTo(restingCalm); left != restingCalm {
			t.Errorf("when it is calm, %d are left", left)
		}
		first, err := s.FirstIndex()
		if err != nil || first != 1 {
			t.Errorf("the log begins at %d, %v", first, err)
		}
	})
}
