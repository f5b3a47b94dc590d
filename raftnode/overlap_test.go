package raftnode

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/wal"
)

// overlapCluster is three members, of which one leads and writes to a disk that forgets.
func overlapCluster(t *testing.T) (c *testCluster, leader, near, far *member) {
	t.Helper()
	c = newCluster(t, 3)
	for _, m := range c.members {
		m.disk = newDisk()
		t.Cleanup(m.disk.release)              // so that a test that fails ends
		m.timing.Commit = 2 * time.Millisecond // raft tells followers all the time what it takes for committed
	}
	c.start()
	leader = c.mustTake(t, "a")
	f := c.followers(leader)
	near, far = f[0], f[1]
	index, _ := leader.machine.Applied()
	c.heard(t, leader, index)
	return c, leader, near, far
}

type written struct {
	index uint64
	err   error
}

// writeHeldUp writes a line while the leader's disk is held up, and returns when raft there takes it for committed: one follower has it, and the other is cut
// off.
func (c *testCluster) writeHeldUp(t *testing.T, leader, near, far *member, line string) (index uint64, answer chan written) {
	t.Helper()
	c.isolate(far, true)
	index = leader.group.raft.LastIndex() + 1
	leader.disk.hold()
	answer = make(chan written, 1)
	go func() {
		index, err := leader.write(line)
		answer <- written{index, err}
	}()
	eventually(t, "raft counts a majority", func() bool { return leader.group.raft.CommitIndex() >= index })
	if got := leader.group.store.Pending(); got != index {
		t.Fatalf("entry %d should be pending at the leader, %d is", index, got)
	}
	if last := near.group.raft.LastIndex(); last != index {
		t.Fatalf("the follower has entries up to %d, want %d", last, index)
	}
	// Several rounds in which raft says to the follower that the entry is committed.
	frames := near.node.transport.Stats().FramesIn
	eventually(t, "the follower has heard of commits", func() bool { return near.node.transport.Stats().FramesIn > frames+100 })
	for _, m := range []*member{leader, near} {
		if applied, _ := m.machine.Applied(); applied >= index {
			t.Fatalf("%s has applied entry %d, which is not on a majority's disks", m.name, applied)
		}
	}
	if got := near.group.raft.CommitIndex(); got >= index {
		t.Fatalf("the follower takes entry %d for committed, which is not on a majority's disks", got)
	}
	select {
	case w := <-answer:
		t.Fatalf("a write is answered (%v) that is not on a majority's disks", w)
	default:
	}
	return index, answer
}

// The leader loses its power when a follower has the entry and its own disk has not. Nobody has applied the entry, nobody was told of it, and the others
// may decide without it.
func TestALeaderLosesWhatItsDiskHasNot(t *testing.T) {
	c, leader, near, far := overlapCluster(t)
	index, answer := c.writeHeldUp(t, leader, near, far, "lost")
	leader.disk.cutPower()
	if w := <-answer; !errors.Is(w.err, ErrOutcomeUnknown) {
		t.Fatalf("the write is answered with %v, %v", w.index, w.err)
	}
	c.isolate(near, true)
	leader.stop()
	leader.disk.restart()
	c.isolate(far, false)
	leader.start()
	var e raft.Log
	if err := leader.group.store.GetLog(index, &e); err == nil && string(e.Data) == "lost" {
		t.Fatal("the leader has kept the entry: the test shows nothing")
	}
	c.mustTake(t, "b")
	c.isolate(near, false)
	at, _ := c.leader(t).machine.Applied()
	for _, m := range c.members {
		if err := m.machine.WaitApplied(testContext(t), at); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		if got := m.machine.all(); slices.Contains(got, "lost") || !slices.Equal(got, c.members[0].machine.all()) {
			t.Errorf("%s has %v", m.name, got)
		}
	}
}

// The disk catches up: the write is answered, everybody hears of it, and it survives what comes then.
func TestAnAcknowledgedWriteSurvivesThePowerCut(t *testing.T) {
	c, leader, near, far := overlapCluster(t)
	index, answer := c.writeHeldUp(t, leader, near, far, "kept")
	leader.disk.release()
	if w := <-answer; w.err != nil || w.index != index {
		t.Fatalf("the write is answered with %+v", w)
	}
	leader.disk.cutPower()
	c.isolate(near, true) // the one other copy is out of reach
	leader.stop()
	leader.disk.restart()
	c.isolate(far, false)
	leader.start()
	c.mustTake(t, "b")
	for _, m := range []*member{leader, far} {
		eventually(t, m.name+" has everything", func() bool { return slices.Equal(m.machine.all(), []string{"a", "kept", "b"}) })
	}
}

// One member alone: what it acknowledges is on its disk.
func TestASingleMemberWaitsForItsDisk(t *testing.T) {
	c := newCluster(t, 1)
	m := c.members[0]
	m.disk = newDisk()
	t.Cleanup(m.disk.release)
	c.start()
	c.mustTake(t, "a")
	m.disk.hold()
	answer := make(chan written, 1)
	index := m.group.raft.LastIndex() + 1
	go func() {
		index, err := m.write("b")
		answer <- written{index, err}
	}()
	eventually(t, "raft counts a majority", func() bool { return m.group.raft.CommitIndex() >= index })
	if applied, _ := m.machine.Applied(); applied >= index {
		t.Errorf("entry %d is applied, and not on the disk", applied)
	}
	m.disk.release()
	if w := <-answer; w.err != nil || w.index != index {
		t.Errorf("the write is answered with %+v", w)
	}
}

// A leader whose disk is behind that hears of a newer term has its entries on the disk before it acts in that term.
func TestANewTermFindsTheOldOnesEntriesOnTheDisk(t *testing.T) {
	c, leader, near, far := overlapCluster(t)
	index, answer := c.writeHeldUp(t, leader, near, far, "a later term")
	stepped := make(chan struct{})
	go func() {
		leader.group.stepDown("test")
		close(stepped)
	}()
	eventually(t, "the leader stands down", func() bool { return leader.group.raft.State() != raft.Leader })
	if term := leader.group.raft.CurrentTerm(); leader.group.store.Pending() != index {
		t.Fatalf("in term %d, entry %d is not pending: the test shows nothing", term, index)
	}
	leader.disk.release()
	<-stepped
	if got := leader.group.store.Pending(); got != 0 {
		t.Errorf("it answers in term %d, and entry %d is not on its disk", leader.group.raft.CurrentTerm(), got)
	}
	<-answer // either way
	c.isolate(far, false)
	c.mustTake(t, "b")
	for _, m := range c.members {
		eventually(t, m.name+" has everything", func() bool { return slices.Equal(m.machine.all(), []string{"a", "a later term", "b"}) })
	}
}

// pendingLog is a log of which only the first entry is asked for that is not on the disk.
type pendingLog struct {
	wal.Store
	first uint64
}

func (l pendingLog) Pending() uint64 { return l.first }

// What a leader says is committed is on its own disk, and nothing that the request does not show the follower to have.
func TestWhatARequestSaysOfCommits(t *testing.T) {
	entries := func(n int) []*raft.Log { return make([]*raft.Log, n) }
	for _, row := range []struct {
		name    string
		pending uint64
		req     raft.AppendEntriesRequest
		want    uint64
	}{
		{"as it is", 0, raft.AppendEntriesRequest{PrevLogEntry: 7, Entries: entries(2), LeaderCommitIndex: 8}, 8},
		{"up to the last entry", 0, raft.AppendEntriesRequest{PrevLogEntry: 7, Entries: entries(2), LeaderCommitIndex: 9}, 9},
		{"not on the disk", 8, raft.AppendEntriesRequest{PrevLogEntry: 7, Entries: entries(2), LeaderCommitIndex: 9}, 7},
		{"beyond the entries that are sent", 0, raft.AppendEntriesRequest{PrevLogEntry: 7, Entries: entries(2), LeaderCommitIndex: 12}, 9},
		{"beyond the one that the follower must have", 0, raft.AppendEntriesRequest{PrevLogEntry: 100, LeaderCommitIndex: 101}, 100},
		{"a heartbeat", 5, raft.AppendEntriesRequest{}, 0},
	} {
		carried := uint64(0)
		b := &boundedTransport{log: pendingLog{first: row.pending}, carry: func(_ string, index uint64) { carried = index }}
		b.bound("b", &row.req)
		if row.req.LeaderCommitIndex != row.want || carried != row.want {
			t.Errorf("%s: it says %d, and %d is noted; want %d", row.name, row.req.LeaderCommitIndex, carried, row.want)
		}
	}
}
