package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/wal"
)

// damage changes a byte of the text in one of the member's log segments.
func (m *member) damage(text string) {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.dir, "raft-*.wal"))
	if err != nil {
		m.t.Fatal(err)
	}
	hit := 0
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			m.t.Fatal(err)
		}
		at := bytes.Index(raw, []byte(text))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			m.t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{text[0] ^ 1}, int64(at))
		if err := errors.Join(err, f.Close()); err != nil {
			m.t.Fatal(err)
		}
		hit++
	}
	if hit != 1 {
		m.t.Fatalf("%d places hold %s", hit, text)
	}
}

// An old entry of the leader's log is damaged. A follower that misses it is sent the state, which contains it; raft would send it nothing, for good.
func TestAFollowerGetsTheStateForADamagedEntry(t *testing.T) {
	c := newCluster(t, 3)
	leader, away := c.members[0], c.members[2]
	leader.said = new(sayings)
	c.start()
	c.moveTo(t, leader)
	c.heard(t, leader, leader.mustWrite("first"))
	away.stop()
	first := leader.mustWrite("line-000-of-the-leader")
	for i := range 100 { // more than are kept in memory
		leader.mustWrite(fmt.Sprintf("line-%03d-of-the-leader", i+1))
	}
	leader.damage("line-010-of-the-leader")
	index := first + 10
	if err := leader.group.logs.GetLog(index, new(raft.Log)); !errors.Is(err, wal.ErrCorrupt) {
		t.Fatalf("a damaged entry that no snapshot contains: %v", err)
	}
	compact(t, leader, 1000) // there is a marker behind all of it; the log is not cut
	away.start()
	if err := away.machine.WaitApplied(testContext(t), leader.mustWrite("last")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := leader.group.logs.GetLog(index, new(raft.Log)); err != raft.ErrLogNotFound { // raft compares it with ==
			t.Errorf("a damaged entry that the snapshot contains: %v", err)
		}
	}
	const said = "an entry of the log is damaged; followers that miss it are sent the state, which contains it"
	if n := leader.said.times(said); n != 1 {
		t.Errorf("the damage was told of %d times", n)
	}
}
