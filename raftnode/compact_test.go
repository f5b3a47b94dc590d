package raftnode

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func TestHowMuchLogIsKept(t *testing.T) {
	for _, c := range []struct {
		name        string
		state, want int64
	}{
		{"of a small state", 1 << 20, 8 << 20},
		{"of a state of some size", 400 << 20, 25 << 20},
		{"of a large state", 10 << 30, 64 << 20},
	} {
		if got := keep(c.state); got != c.want {
			t.Errorf("%s: got %d bytes, want %d", c.name, got, c.want)
		}
	}
}

func TestGrowthAsksOnceUntilTheLogIsCut(t *testing.T) {
	entry := func(bytes int) []*raft.Log { return []*raft.Log{{Data: make([]byte, bytes)}} }
	var w growth
	if w.grew(entry(keepAtLeast)) {
		t.Fatal("the log is cut before raft is there")
	}
	w.average() // counts anew
	w.start()
	if w.grew(entry(keepAtLeast / 4)) {
		t.Fatal("a log that has grown little is cut")
	}
	if !w.grew(entry(keepAtLeast / 4)) {
		t.Fatal("a log that has grown by half of what is kept is not cut")
	}
	if w.grew(entry(keepAtLeast)) {
		t.Fatal("the log is cut twice at once")
	}
	if got := w.average(); got != keepAtLeast/2 {
		t.Errorf("an average entry has %d bytes, want %d", got, keepAtLeast/2)
	}
	w.cut(4 * keepAtLeast)
	if w.grew(entry(2*keepAtLeast - 1)) {
		t.Error("a log of which much is kept is cut as often as one of which little is")
	}
	if !w.grew(entry(1)) {
		t.Error("a log of which much is kept is never cut")
	}
}

// Entries are far fewer than raft would keep, and fat.
func TestALogOfFatEntriesIsCut(t *testing.T) {
	const size = keepAtLeast / keepEntries
	m := newCluster(t, 1).start().leader(t)
	for range 2 * keepEntries {
		m.mustWrite(strings.Repeat("x", size))
	}
	eventually(t, "the log is cut", func() bool {
		first, err := m.group.store.FirstIndex()
		return err == nil && first > 1
	})
	first, _ := m.group.store.FirstIndex()
	last, _ := m.group.store.LastIndex()
	if n := last - first + 1; n < keepEntries {
		t.Errorf("%d entries are left, at least %d are to be kept", n, keepEntries)
	}
	m.stop()
	m.start()
	if got := len(m.machine.all()); got != 2*keepEntries {
		t.Errorf("after a restart the machine has %d lines, want %d", got, 2*keepEntries)
	}
}
