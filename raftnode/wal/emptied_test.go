package wal

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Found by TestChaos: bbolt's Cursor.Last does not return when a transaction has deleted everything in a bucket of several pages. Logs that were cut to nothing in
// the bbolt file made the settler go round for ever, and with it, a few segments later, everything that the node writes.
func TestALogIsEmptiedInOneTransaction(t *testing.T) {
	l, err := OpenBolt(Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "disk"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Open(GroupID{1, 1})
	if err != nil {
		t.Fatal(err)
	}
	const n = 500 // several pages of bbolt's
	logs := make([]*raft.Log, n)
	for i := range logs {
		logs[i] = &raft.Log{Index: uint64(i + 1), Term: 1, Data: make([]byte, 100)}
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.DeleteRange(1, n) }() // ends with the deletion, if ever
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-timeout.C:
		t.Fatal("the log is still being emptied after 10 s")
	}
	if first, err := s.FirstIndex(); err != nil || first != 0 {
		t.Errorf("the first index of an empty log is %d, %v", first, err)
	}
	if err := s.StoreLogs(logs[:1]); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
