package raftnode

import (
	"testing"

	"github.com/hashicorp/raft"
)

// Found by TestChaos: a snapshot ended in the entries of an election, which the machine does not count. Commands were applied before raft asked for the marker, and the marker
// said that the machine had synced as much as the snapshot's index. A power cut then made a sound replica look as if its state had been lost, and it was set aside.
func TestAMarkerCountsWhatWasSynced(t *testing.T) {
	m := openLines(t, "")
	s, err := openSnapshots(t.TempDir(), m)
	if err != nil {
		t.Fatal(err)
	}
	g := &groupMachine{Machine: m, logs: raft.NewInmemStore(), snapshots: s}
	m.Apply(&raft.Log{Index: 7, Term: 2, Type: raft.LogCommand, Data: []byte("synced")})
	snapshot, err := g.Snapshot() // up to entry 9: entries 8 and 9 are no commands
	if err != nil {
		t.Fatal(err)
	}
	m.Apply(&raft.Log{Index: 10, Term: 3, Type: raft.LogCommand, Data: []byte("in memory")})
	k, err := s.Create(raft.SnapshotVersionMax, 9, 3, threeMembers, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Persist(k); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.current(); got.Index != 9 || got.Machine != 7 {
		t.Errorf("the marker of a snapshot up to entry 9 says that the machine has synced entry %d, it has synced 7", got.Machine)
	}
}
