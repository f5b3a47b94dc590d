package wal

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
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
			if err := s.StoreLog(&raft.Log{Index: index, Term: 1, Data: fmt.Appendf(nil, "entry %d, %01000d", index, 0)}); err != nil {
				t.Fatal(err)
			}
		}
		until := func(n int) (left int) {
			l.fullMu.Lock()
			defer l.fullMu.Unlock()
			for len(l.full) > n {
				l.drained.Wait()
			}
			return len(l.full)
		}
		if left := until(6); left != 6 {
			t.Errorf("while segments fill, %d are left; 6 may rest", left)
		}
		time.Sleep(calmAfter - time.Millisecond)
		if left := until(6); left != 6 {
			t.Errorf("shortly before it is calm, %d are left", left)
		}
		if left := until(restingCalm); left != restingCalm {
			t.Errorf("when it is calm, %d are left", left)
		}
		first, err := s.FirstIndex()
		if err != nil || first != 1 {
			t.Errorf("the log begins at %d, %v", first, err)
		}
	})
}
