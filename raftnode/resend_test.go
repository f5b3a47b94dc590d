package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"
)

// sayings counts what a member logs.
type sayings struct {
	mu    sync.Mutex // guards count
	count map[string]int
}

func (s *sayings) Enabled(context.Context, slog.Level) bool { return true }

// Handle counts the message alone, and with each of its attributes.
func (s *sayings) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = make(map[string]int)
	}
	s.count[r.Message]++
	r.Attrs(func(a slog.Attr) bool {
		s.count[r.Message+" "+a.String()]++
		return true
	})
	return nil
}

func (s *sayings) WithAttrs([]slog.Attr) slog.Handler { return s }
func (s *sayings) WithGroup(string) slog.Handler      { return s }

func (s *sayings) times(said string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[said]
}

// begin proposes a line through the member, which must lead.
func (m *member) begin(line string) (answer chan error) {
	m.t.Helper()
	p, err := m.group.Propose([]byte(line))
	if err != nil {
		m.t.Fatal(err)
	}
	answer = make(chan error, 1)
	go func() { // ends with the answer; the members are stopped at last
		_, err := p.Wait()
		answer <- err
	}()
	return answer
}

func mustAnswer(t *testing.T, answer chan error) {
	t.Helper()
	select {
	case err := <-answer:
		if err != nil {
			t.Fatal(err)
		}
	case <-testContext(t).Done():
		t.Fatal("a write is not answered")
	}
}

// pipelines is how many raft sends entries through.
func (m *member) pipelines() int {
	return m.said.times("raft: pipelining replication") - m.said.times("raft: aborting pipeline replication")
}

// awaitPipelines has raft send the next entries through pipelines to everybody, as it does when all is well.
func (c *testCluster) awaitPipelines(t *testing.T, leader *member) {
	t.Helper()
	c.heard(t, leader, leader.mustWrite("x"))
	eventually(t, "entries go through pipelines", func() bool { return leader.pipelines() == len(c.followers(leader)) })
}

// idle waits until the member watches no group: nothing runs then.
func (m *member) idle(t *testing.T) {
	t.Helper()
	eventually(t, m.name+" watches nothing", func() bool { return !m.group.unsettled.Load() })
}

// One member of three is down, and the connection over which the leader sends its entries to the other one breaks with an entry on it. It is there again at once, and the entry is sent again, though no
// other one follows.
func TestAnEntryThatABrokenConnectionLostIsSentAgain(t *testing.T) {
	c := newCluster(t, 3).start()
	leader, other, down := c.members[0], c.members[1], c.members[2]
	c.moveTo(t, leader)
	c.heard(t, leader, leader.mustWrite("first"))
	down.stop()
	leader.mustWrite("second")

	way := c.link(leader, other)
	way.setCut(true)
	answer := leader.begin("third")
	eventually(t, "the entry is lost", func() bool { return way.swallowed("third") })
	way.setCut(false)
	mustAnswer(t, answer)
	leader.idle(t)
}

// All members are up, and the followers' disks stand still until the leader has given their answers up, as on a storage that hiccups. Both have the entry then, and the leader
// does not know it.
func TestAnEntryThatWasAnsweredLateIsSentAgain(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.disk, m.ioTimeout = newDisk(), 200*time.Millisecond
		t.Cleanup(m.disk.release)
	}
	leader := c.members[0]
	leader.said = new(sayings)
	c.start()
	c.moveTo(t, leader)
	c.awaitPipelines(t, leader)
	followers := c.followers(leader)

	for _, f := range followers {
		f.disk.hold()
	}
	answer := leader.begin("late")
	eventually(t, "nobody waits for answers any more", func() bool { return leader.pipelines() == 0 })
	for _, f := range followers {
		f.disk.release()
	}
	mustAnswer(t, answer)
	leader.idle(t)
}

// One member of three is down, and the new leader does not get the answers to its first entries; who has them knows its leader, and so asks nobody. When answers get through, the entries are sent again, and the leader
// serves.
func TestALeaderWhoseFirstEntriesWereAnsweredLateServes(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.said, m.ioTimeout = new(sayings), 200*time.Millisecond
	}
	c.start()
	gone := c.members[0]
	c.moveTo(t, gone)
	c.heard(t, gone, gone.mustWrite("first"))
	rest := c.followers(gone)
	mute := func(mute bool) {
		for i, m := range rest {
			eventually(t, m.name+" has been connected", func() bool { return c.link(m, rest[1-i]) != nil })
			c.link(m, rest[1-i]).muteAnswers(mute)
		}
	}
	mute(true)
	gone.stop()
	var leader, voter *member
	eventually(t, "a member is elected", func() bool {
		for i, m := range rest {
			if m.group.Leadership().Role == Elected {
				leader, voter = m, rest[1-i]
			}
		}
		return leader != nil
	})
	failed := fmt.Sprintf("raft: failed to appendEntries to peer={Voter %s %[1]s}", voter.node.ServerID())
	eventually(t, "the entries are sent again", func() bool { return leader.said.times(failed) > 3 }) // raft tries when it starts, with the no-op and with the barrier
	mute(false)
	eventually(t, leader.name+" serves", func() bool { return leader.group.Leadership().Role == Serving })
	leader.idle(t)
}

// Raft sends 64 entries of what it has stored together, and looks again when the next one comes. The last one of 65 waits then, though nothing has failed.
func TestTheLastEntryOfABurstIsSent(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.disk = newDisk()
		t.Cleanup(m.disk.release)
	}
	leader := c.members[0]
	leader.said = new(sayings)
	c.start()
	c.moveTo(t, leader)
	c.awaitPipelines(t, leader)

	for _, m := range c.members {
		m.disk.hold()
	}
	last := leader.group.raft.LastIndex()
	answers := []chan error{leader.begin("on its way")}
	eventually(t, "an entry is on its way", func() bool { return leader.group.raft.LastIndex() > last })
	full := func() bool { // the next entries wait for the disk, then for raft, which has room for 64
		f := leader.group.raft.Apply([]byte("next"), 20*time.Millisecond)
		if fmt.Sprintf("%T", f) == "raft.errorFuture" {
			return true
		}
		answer := make(chan error, 1)
		go func() { answer <- f.Error() }()
		answers = append(answers, answer)
		return false
	}
	for !full() {
	}
	more := make(chan chan error)
	go func() { more <- leader.begin("one more") }() // ends when the disk goes on
	full()                                           // by now it waits too
	for _, m := range c.members {
		m.disk.release()
	}
	for _, a := range append(answers, <-more) {
		mustAnswer(t, a)
	}
}

// While the leader's own disk is what is late, an entry more helps nobody: it would have raft wait for that disk and do nothing else.
func TestALeaderWhoseDiskIsLateIsNotNudged(t *testing.T) {
	c := newCluster(t, 3)
	leader := c.members[0]
	leader.disk, leader.ioTimeout = newDisk(), 200*time.Millisecond
	t.Cleanup(leader.disk.release)
	c.start()
	c.moveTo(t, leader)
	c.heard(t, leader, leader.mustWrite("x"))
	leader.idle(t)
	mute := func(mute bool) {
		for _, f := range c.followers(leader) {
			c.link(leader, f).muteAnswers(mute)
		}
	}
	mute(true)
	leader.disk.hold()
	g := leader.group
	answer := leader.begin("y")
	eventually(t, "the entry is begun", func() bool { return !g.settled() })
	last := g.raft.LastIndex()
	st := newStall()
	for range 9 {
		if watch := g.lookForStall(st); !watch {
			t.Fatal("a group whose entry waits is not watched")
		}
	}
	if g.store.Pending() != last || st.nudged != 0 {
		t.Fatalf("the log ends at %d, entries from %d are not on the disk, and raft was nudged at %d", last, g.store.Pending(), st.nudged)
	}
	leader.disk.release()
	eventually(t, "the entry is on the disk", func() bool { return g.store.Pending() == 0 })
	g.lookForStall(st)
	eventually(t, "raft is nudged", func() bool { return g.raft.LastIndex() > last })
	mute(false)
	mustAnswer(t, answer)
}

func TestWhenAStallIsEnded(t *testing.T) {
	const (
		hopeless = 1 << iota // at that look
		taken                // the nudge before has become an entry
		moved                // so has the commit index
		back                 // one member more is reached than before
	)
	repeat := func(what, n int) (looks []int) { return slices.Repeat([]int{what}, n) }
	for _, row := range []struct {
		name  string
		looks []int
		want  []int // the looks after which raft is nudged
	}{
		{"pauses double up to four seconds", repeat(taken, 34), []int{1, 3, 7, 15, 23, 31}},
		{"entries are committed", repeat(moved, 10), nil},
		{"entries are committed late", []int{0, moved, 0, taken | moved, 0, taken, taken}, []int{2, 4, 6}},
		{"nobody can help, then somebody", append(repeat(hopeless, 5), taken, taken, taken), []int{5, 7}},
		{"a member is back", []int{0, taken, taken, taken, taken, taken | back, taken, taken}, []int{1, 3, 5, 7}},
		{"a member is back, and there is no majority yet", []int{hopeless, hopeless | back, hopeless, back}, []int{3}},
		{"raft takes no entries", repeat(0, 70), []int{1, 3, 7, 15, 31, 63}},
	} {
		st, now := newStall(), progress{newest: 100, reached: 1}
		var got []int
		for i, look := range row.looks {
			now.hopeless = look&hopeless != 0
			if look&taken != 0 {
				now.newest++
			}
			if look&moved != 0 {
				now.committed++
			}
			if look&back != 0 {
				now.reached++
			}
			if st.look(now) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: nudged after looks %v, want %v", row.name, got, row.want)
		}
	}
}

// A follower that asks is sent all that it misses, though raft sends only a request's worth for each new entry and nobody writes to the group any more: a replica whose node came back under load, which
// then ended, took minutes to catch up, half a second for 64 entries.
func TestAFollowerThatAsksIsSentAllThatItMisses(t *testing.T) {
	c := newCluster(t, 3).start()
	leader, asks := c.members[0], c.members[1]
	c.moveTo(t, leader)
	c.heard(t, leader, leader.mustWrite("first"))
	leader.idle(t)
	last := leader.group.raft.LastIndex()
	const requests = 20
	leader.group.nudged.Store(0)
	leader.group.remind(asks.node.ServerID(), requests*maxAppendEntries)
	eventually(t, "raft looks at its followers for each request", func() bool { return leader.group.raft.LastIndex() == last+requests+1 })
	leader.group.remind(asks.node.ServerID(), requests*maxAppendEntries) // a moment ago it was nudged
	leader.group.nudged.Store(0)
	leader.group.remind(asks.node.ServerID(), 0)
	leader.group.remind(asks.node.ServerID(), 1)
	leader.idle(t)
	if got := leader.group.raft.LastIndex(); got != last+requests+2 {
		t.Errorf("the log ends at %d, want %d and one entry", got, last+requests+1)
	}
	last = leader.group.raft.LastIndex()
	compact(t, leader, 4)
	first, err := leader.group.store.FirstIndex()
	if err != nil || first < 2 {
		t.Fatalf("the log begins at %d, %v", first, err)
	}
	for has, want := range map[uint64]uint64{0: 1, first - 2: 1, first - 1: last - first + 1, last: 0, last + 3: 0} { // entries do not help whoever needs the state
		if got := leader.group.misses(has, last); got != want {
			t.Errorf("who has entries up to %d of %d to %d misses %d, want %d", has, first, last, got, want)
		}
	}
}
