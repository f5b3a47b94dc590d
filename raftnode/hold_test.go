package raftnode

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// gated is a machine whose state is sent once the gate is open, but for its beginning.
type gated struct {
	*lines
	opened *atomic.Int64
	gate   chan struct{}
}

func (m *gated) OpenSnapshot() (index, term uint64, size int64, rc io.ReadCloser, err error) {
	index, term, size, state, err := m.lines.OpenSnapshot()
	m.opened.Add(1)
	given := 0
	rc = io.NopCloser(readerFunc(func(p []byte) (int, error) {
		if given > 100<<10 { // more than goes in one frame
			<-m.gate
		}
		n, err := state.Read(p)
		given += n
		return n, err
	}))
	return index, term, size, rc, err
}

// What is written while a replica is sent the state, it is sent afterwards, though the log is cut meanwhile.
func TestAReplicaOfABusyGroupCatchesUp(t *testing.T) {
	c := newCluster(t, 3)
	var opened atomic.Int64
	gate := make(chan struct{})
	open := func() {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
	t.Cleanup(open)
	for _, m := range c.members {
		m.around = func(l *lines) Machine { return &gated{l, &opened, gate} }
	}
	c.start()
	leader := c.leader(t)
	c.heard(t, leader, leader.mustWrite("first"))
	away := c.followers(leader)[0]
	away.stop()
	for i := range 20 {
		leader.mustWrite(fmt.Sprint("before ", i, strings.Repeat(".", 20<<10)))
	}
	const left = 4                // entries, by a cut
	for _, m := range c.members { // whoever leads then has no old entries to send
		if m.group != nil {
			if err := m.group.LinearizableRead(testContext(t)); err != nil {
				t.Fatal(err)
			}
			compact(t, m, left)
		}
	}
	away.start()
	ctx, cancel := context.WithCancel(testContext(t))
	read := make(chan struct{})
	go func() { // ends with ctx; has the leader look at its follower
		away.group.LinearizableRead(ctx)
		close(read)
	}()
	defer func() { cancel(); <-read }()
	eventually(t, "the state arrives", func() bool { return exists(filepath.Join(away.dir, "group"), incomingPattern) })
	leader = c.leader(t)
	begun := opened.Load() // it may have begun before the replica was open
	snapshot := leader.group.snapshots.current().Index

	var last uint64
	for i := range 20 {
		last = leader.mustWrite(fmt.Sprint("meanwhile ", i))
	}
	compact(t, leader, left)
	if first, _ := leader.group.store.FirstIndex(); first > snapshot {
		t.Errorf("the log begins at %d; raft goes on after the snapshot, which ends at %d", first, snapshot)
	}
	open()
	if err := away.machine.WaitApplied(testContext(t), last); err != nil {
		t.Fatal(err)
	}
	if got := opened.Load(); got != begun {
		t.Errorf("the state was sent again, %d times", got-begun)
	}
	eventually(t, "the log is cut as ever", func() bool {
		compact(t, leader, left)
		first, _ := leader.group.store.FirstIndex()
		return first == leader.group.raft.LastIndex()-left+1
	})
	if leader.group.holds.some.Load() {
		t.Error("the log is held for a peer that has it")
	}
}

// Else a state whose snapshot took so long that as many entries were written as a cut leaves could not be followed up from.
func TestALeaderKeepsItsSnapshotsLastEntry(t *testing.T) {
	m := newCluster(t, 1).start().leader(t)
	for i := range 5 {
		m.mustWrite(fmt.Sprint(i))
	}
	compact(t, m, 0)
	first, _ := m.group.store.FirstIndex()
	if marker := m.group.snapshots.current(); first != marker.Index {
		t.Errorf("the log begins at %d, the snapshot ends at %d", first, marker.Index)
	}
}

// A follower too: its leader may name an older one.
func TestAFollowerKeepsItsSnapshotsLastEntry(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "0")
	f := c.followers(leader)[0]
	compact(t, f, trailingLogs) // cuts nothing
	marker := f.group.snapshots.current()
	c.heard(t, leader, leader.mustWrite("1"))
	if err := f.group.logs.DeleteRange(1, marker.Index); err != nil { // as raft does when many entries are written while the snapshot is taken
		t.Fatal(err)
	}
	if first, _ := f.group.store.FirstIndex(); first != marker.Index {
		t.Errorf("the log begins at %d, the snapshot ends at %d", first, marker.Index)
	}
	last, _ := f.group.store.LastIndex()
	if err := f.group.logs.DeleteRange(marker.Index, last); err != nil { // as when all of it contradicts a leader
		t.Fatal(err)
	}
	if first, _ := f.group.store.FirstIndex(); first != 0 {
		t.Errorf("the log begins at %d", first)
	}
}

func TestWhatIsHeldForPeers(t *testing.T) {
	const sent = 1000 // the last entry of the state that was sent
	for _, r := range []struct {
		name    string
		state   int64  // bytes
		bytes   int64  // of each entry that was written since; 1,000 were, and the log ends at 2,000
		entries uint64 // fewer than 1,000, if not 0: the others are barriers, which are not counted as written
		arrived bool
		failed  bool
		acked   uint64
		after   time.Duration
		cut     uint64 // where the log would be cut at 1,900
		goesOn  bool   // the peer is still held
	}{
		{name: "the state is on its way", cut: sent - 1, goesOn: true},
		{name: "for hours", after: 9 * time.Hour, cut: sent - 1, goesOn: true},
		{name: "it did not arrive", failed: true, cut: 1900},
		{name: "it has arrived", arrived: true, cut: sent - 1, goesOn: true},
		{name: "the peer takes what follows", arrived: true, acked: 1500, after: holdPatience - time.Second, cut: 1499, goesOn: true},
		{name: "it has what is to go, and is far from the end", arrived: true, acked: 1920, cut: 1900, goesOn: true},
		{name: "it is near the end", arrived: true, acked: 1950, cut: 1900},
		{name: "it takes nothing any more", arrived: true, acked: 1500, after: holdPatience + time.Second, cut: 1900},
		{name: "as much as may be held is written", bytes: holdBytes/1000 - 2*holdEntry, cut: sent - 1, goesOn: true},
		{name: "more is written", bytes: holdBytes / 1000, cut: 1900},
		{name: "more is written, and the peer has most of it", bytes: holdBytes / 1000, arrived: true, acked: 1700, cut: 1699, goesOn: true},
		{name: "half as much, and as many barriers", bytes: holdBytes/500 - 4*holdEntry, entries: 500, cut: sent - 1, goesOn: true},
		{name: "more is written behind a larger state", state: 2 * holdBytes, bytes: holdBytes / 1000, cut: sent - 1, goesOn: true},
	} {
		t.Run(r.name, func(t *testing.T) {
			var w growth
			s := holds{written: w.all, log: slog.New(slog.DiscardHandler)}
			h := s.begin("n2~b", sent, r.state)
			w.allEntries = 1000
			if r.entries > 0 {
				w.allEntries = r.entries
			}
			w.allBytes = int64(w.allEntries) * r.bytes
			s.acknowledged("n2~b", 1999) // of an earlier time
			if r.arrived {
				s.arrived(h)
			}
			if r.failed {
				s.failed("n2~b", h)
			}
			s.acknowledged("n2~b", r.acked)
			s.acknowledged("n3~c", 1)
			if got := s.cut(1900, 2000, time.Now().Add(r.after)); got != r.cut {
				t.Errorf("got %d, want %d", got, r.cut)
			}
			if got := s.peers["n2~b"] == h; got != r.goesOn || s.some.Load() != r.goesOn {
				t.Errorf("the peer is held: %v, want %v", got, r.goesOn)
			}
			if got := s.short.Load(); got != (r.cut < 1900) {
				t.Errorf("the log is longer than it would be: %v", got)
			}
		})
	}
}

// A leader that led before may have a transfer of that time under way.
func TestAnOldTransferEndsNoNewHold(t *testing.T) {
	var w growth
	s := holds{written: w.all, log: slog.New(slog.DiscardHandler)}
	old := s.begin("n2~b", 10, 0)
	s.begin("n2~b", 20, 0)
	s.failed("n2~b", old)
	if got := s.cut(100, 200, time.Now()); got != 19 {
		t.Errorf("got %d, want 19", got)
	}
}

// Nobody writes any more, and so has the log cut, once the peer is gone.
func TestALogThatWasHeldIsCutLate(t *testing.T) {
	m := newCluster(t, 1).start().leader(t)
	for i := range 3 * keepEntries {
		m.mustWrite(fmt.Sprint(i))
	}
	h := m.group.holds.begin("n2~b", 5, 0)
	compact(t, m, keepEntries)
	first, _ := m.group.store.FirstIndex()
	if first != 5 {
		t.Fatalf("the log begins at %d, want 5", first)
	}
	m.group.cutLate()
	m.group.holds.failed("n2~b", h)
	m.group.growth.mu.Lock()
	m.group.growth.entries, m.group.growth.typical = 0, keepAtLeast // nothing was written since, and what was is fat
	m.group.growth.mu.Unlock()
	eventually(t, "it is cut", func() bool {
		m.group.cutLate()
		first, _ := m.group.store.FirstIndex()
		return first == m.group.raft.LastIndex()-keepEntries+1
	})
}

func TestTheLengthOfEntriesIsRemembered(t *testing.T) {
	var w growth
	w.start()
	if !w.grew([]*raft.Log{{Data: make([]byte, keepAtLeast)}}) || w.due() {
		t.Fatal("the log is cut never, or twice at once")
	}
	w.average()
	w.cut(keepAtLeast)
	if !w.due() {
		t.Fatal("a log that is too long cannot be cut")
	}
	if got := w.average(); got != keepAtLeast {
		t.Errorf("an entry has %d bytes, want %d", got, keepAtLeast)
	}
}
