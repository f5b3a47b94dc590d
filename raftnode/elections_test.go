package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/raftnode/transport"
	"github.com/quorate/quorate/raftnode/wal"
)

// A peer that refuses a probe because too much is asked of it lives. Once it counted like one whose process refuses connections, and was gone after refusedFor.
func TestWhatComesOfAProbe(t *testing.T) {
	sent := time.Now().Add(-refusedFor)
	for _, row := range []struct {
		name                   string
		err                    error
		failing, heard, silent bool
	}{
		{"an answer", nil, false, true, false},
		{"the peer has too much to do", &transport.RemoteError{Text: "the queue is full"}, false, true, false},
		{"this node has", fmt.Errorf("call to b: %w", transport.ErrOverloaded), false, false, false},
		{"no answer", context.DeadlineExceeded, false, false, true},
		{"no connection", errors.New("connection refused"), true, false, true},
	} {
		d := newDetector(&Node{cfg: Config{Identity: &Identity{Name: "a"}, Timing: testTiming}}, func() {})
		p := &peerState{probing: 1, asked: sent}
		d.peers["b"] = p
		d.probed("b", p, sent, d.encodeLocked(), row.err)
		if got := !p.failing.IsZero(); got != row.failing {
			t.Errorf("%s: its connections fail: %v", row.name, got)
		}
		if got := !p.heard.IsZero(); got != row.heard {
			t.Errorf("%s: it was heard: %v", row.name, got)
		}
		if got := !p.asked.IsZero(); got != row.silent {
			t.Errorf("%s: it owes an answer: %v", row.name, got)
		}
	}
}

// What one group's raft is asked for holds up neither the caller nor others, and nothing is asked of it twice at once.
func TestRaftIsAskedAsideOnceAtATime(t *testing.T) {
	held, other, again := new(Group), new(Group), make(chan struct{})
	answer, asked := make(chan struct{}), make(chan struct{})
	held.aside(func() { <-answer })
	held.aside(func() { t.Error("a group that has not answered is asked once more") })
	other.aside(func() { close(asked) })
	<-asked
	close(answer)
	held.inflight.Wait()
	held.aside(func() { close(again) })
	<-again
	held.inflight.Wait()
	held.closing = true
	held.aside(func() { t.Error("a group that closes is asked") })
	held.inflight.Wait()
}

// Messages between nodes have 1 MiB at most; those about groups are cut so that they fit.
func TestMessagesAboutManyGroupsFit(t *testing.T) {
	const limit = 1 << 20
	key := wal.GroupID{Store: math.MaxUint64, Incarnation: math.MaxUint64}.String()
	commits := slices.Repeat([]commit{{key, math.MaxUint64, math.MaxUint64, math.MaxUint64}}, rollPart)
	if n := len(encodeCommits(commits)); n > limit {
		t.Errorf("a notice of %d commits has %d bytes", rollPart, n)
	}
	if n := maxTermChecks * (len(appendText(nil, key)) + binary.MaxVarintLen64); n > limit {
		t.Errorf("a question about %d terms has %d bytes", maxTermChecks, n)
	}
	standing := appendStanding(nil, key, standing{term: math.MaxUint64, lastTerm: math.MaxUint64, lastIndex: math.MaxUint64})
	if n := maxStandings * len(standing); n > limit {
		t.Errorf("a question about %d groups has %d bytes", maxStandings, n)
	}
}

// One that gets no answers thinks everybody gone; a leader is replaced only when a majority thinks so, by fresh views.
func TestAgreement(t *testing.T) {
	members := []string{"a", "b", "c", "d", "e"}
	now := time.Now()
	for _, row := range []struct {
		name     string
		gone     []string            // for a, which judges
		views    map[string][]string // what others said a moment ago
		stale    []string            // whose view is old
		agreed   bool
		isolated bool
	}{
		{name: "all is well"},
		{name: "one opinion", gone: []string{"e"}},
		{name: "two of five", gone: []string{"e"}, views: map[string][]string{"b": {"e"}}},
		{name: "three of five", gone: []string{"e"}, views: map[string][]string{"b": {"e"}, "c": {"d", "e"}}, agreed: true},
		{name: "three, one of them long ago", gone: []string{"e"}, views: map[string][]string{"b": {"e"}, "c": {"e"}}, stale: []string{"c"}},
		{name: "without one's own", views: map[string][]string{"b": {"e"}, "c": {"e"}, "d": {"e"}}, agreed: true},
		{name: "the judged one has no say", gone: []string{"e"}, views: map[string][]string{"b": {"e"}, "e": {"e"}}},
		{name: "cut off", gone: []string{"c", "d", "e"}, isolated: true},
	} {
		d := &detector{node: &Node{cfg: Config{Identity: &Identity{Name: "a"}, Timing: testTiming}}, peers: map[string]*peerState{}}
		self := d.node.ServerID()
		list := append([]string{self}, members[1:]...)
		for _, id := range members[1:] {
			p := &peerState{gone: slices.Contains(row.gone, id), heard: now.Add(-time.Minute), view: row.views[id], viewed: now}
			if slices.Contains(row.stale, id) {
				p.viewed = now.Add(-time.Minute)
			}
			d.peers[id] = p
		}
		if got := d.agreed("e", list); got != row.agreed {
			t.Errorf("%s: agreed is %v", row.name, got)
		}
		if got := d.isolated(list); got != row.isolated {
			t.Errorf("%s: isolated is %v", row.name, got)
		}
	}
}

// A follower that misses what was committed while it was cut off gets it without a new write, and a linearizable read there sees it.
func TestAFollowerThatMissedEntriesIsSentThem(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	leader.mustWrite("before")
	away := c.followers(leader)[0]
	c.isolate(away, true)
	index := leader.mustWrite("missed")
	eventually(t, "the leader misses the follower", func() bool { return !leader.node.detector.reachable(away.node.ServerID()) })
	c.isolate(away, false)
	if err := away.machine.WaitApplied(testContext(t), index); err != nil {
		t.Fatal(err)
	}
	if view := leader.group.Leadership(); view.Role != Serving {
		t.Errorf("its return cost the leader its leadership: %+v", view)
	}
}

// A leader whose process was started anew so fast that nobody missed it leads nothing, and the others see that.
func TestALeaderThatRestartsAtOnceIsReplaced(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.timing.Silence = time.Hour // nobody misses it
	}
	c.start()
	leader := c.leader(t)
	leader.mustWrite("a")
	leader.stop()
	leader.start()
	c.mustTake(t, "b")
}

// A leader whose replica alone is closed, as one that met damage is, is replaced, though its node goes on.
func TestALeaderThatClosesIsReplaced(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	leader.mustWrite("a")
	if err := leader.group.Close(); err != nil {
		t.Fatal(err)
	}
	leader.group = nil
	c.leader(t).mustWrite("b")
}

// Followers apply what is acknowledged soon after, though raft's own word of it would take an hour.
func TestCommitNotices(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	for range 20 {
		index := leader.mustWrite("x")
		c.heard(t, leader, index)
	}
}

// loseNotices makes every message about commits that the member sends get lost. told waits until each of the others would have heard of the entry; heal ends it, and reports
// whether somebody would have heard of the last one more than once: then its echo is lost too.
func (m *member) loseNotices() (told func(index uint64), heal func() (more bool)) {
	var mu sync.Mutex // guards lost and times
	lost, times := map[string]uint64{}, map[string]int{}
	hook := func(peer string, list []commit) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range list {
			if times[peer]++; c.index > lost[peer] {
				lost[peer], times[peer] = c.index, 1
			}
		}
		return true
	}
	notices := m.node.notices
	notices.hookSend.Store(&hook)
	told = func(index uint64) {
		m.t.Helper()
		eventually(m.t, "the notices are lost", func() bool {
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for _, at := range lost {
				if at >= index {
					n++
				}
			}
			return n == len(m.group.Members())-1
		})
	}
	return told, func() (more bool) {
		notices.hookSend.Store(nil)
		mu.Lock()
		defer mu.Unlock()
		for _, n := range times {
			more = more || n > 1
		}
		return more
	}
}

// A notice that is lost is said again, also when no entry follows it.
func TestALostCommitNoticeIsRepeated(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	for rounds := 0; rounds < 4; { // raft may tell by itself, with a message that was due anyway: not every time
		told, heal := leader.loseNotices()
		index := leader.mustWrite("x")
		told(index)
		if more := heal(); more {
			continue // the echo was due at that very moment
		}
		c.heard(t, leader, index)
		rounds++
	}
}

// A follower was told of a commit before it had the entry, gave up telling its raft, and got the entry then: it is behind until it knows the commit too.
func TestAnEntryThatComesLateIsCommittedToo(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	late := c.followers(leader)[0].group
	_, heal := leader.loseNotices()
	var index uint64
	eventually(t, "the follower has an entry and does not know that it is committed", func() bool {
		index = leader.mustWrite("x")
		eventually(t, "the follower has the entry", func() bool { return late.raft.LastIndex() >= index })
		late.commits.Lock()
		late.missing, late.missingSince = index, time.Now().Add(-2*behindFor)
		late.commits.Unlock()
		late.node.elections.lookAgain()
		_, behind := late.isBehind(time.Now())
		if late.raft.CommitIndex() >= index { // raft told by itself, with a message that was due anyway: once more
			return false
		}
		if !behind {
			t.Error("it is not behind")
		}
		return true
	})
	heal()
	eventually(t, "the follower knows the commit", func() bool { return late.raft.CommitIndex() >= index })
}

// A leader whose followers closed their replicas closes too, though a write is under way that no majority will ever take.
func TestALeaderWithoutFollowersCloses(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.timing.Silence = time.Hour // the nodes go on, so nobody is missed
	}
	c.start()
	leader := c.leader(t)
	leader.mustWrite("a")
	for _, f := range c.followers(leader) {
		if err := f.group.Close(); err != nil {
			t.Fatal(err)
		}
		f.group = nil
	}
	p, err := leader.group.Propose([]byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { // ends with the write
		_, err := p.Wait()
		written <- err
	}()
	closed := make(chan error, 1)
	go func() { // ends with Close
		closed <- leader.group.Close()
	}()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-testContext(t).Done():
		t.Fatal("the leader's replica does not close")
	}
	leader.group = nil
	if err := <-written; !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("the write: got %v, want the outcome unknown", err)
	}
}

func FuzzControlMessages(f *testing.F) {
	f.Add([]byte{0})
	f.Add(appendStanding([]byte{1}, "7-1", standing{open: true, leads: true, term: 5, lastTerm: 4, lastIndex: 300}))
	f.Add(encodeCommits([]commit{{key: "7-1", term: 5, index: 300, entryTerm: 5}, {key: "8-2"}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if list, err := decodeCommits(raw); err == nil {
			again, err := decodeCommits(encodeCommits(list))
			if err != nil || !slices.Equal(again, list) {
				t.Errorf("%v: %+v, %+v", err, list, again)
			}
		}
		decodeStandings(raw)
		decodeProbe(raw)
	})
}

// A transfer to a member that does not stand costs three seconds, not Timing.Election: an hour here.
func TestATransferThatIsNotTakenEnds(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	leader.mustWrite("a")
	to := c.followers(leader)[0]
	c.silence(to, true) // it is told to stand, and nobody hears that it does
	if err := leader.group.Transfer(to.node.ServerID()); err != nil {
		t.Fatal(err)
	}
	c.mustTake(t, "b")
}

// A replica has stood several times, and another one leads and says so: that one is believed, whatever time this replica's own election still has.
func TestALeaderIsBelievedSoon(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "a")
	g := c.followers(leader)[0].group
	e := newElections(g.node)
	answers := []standing{{member: g.node.ServerID(), open: true, term: 1}, {member: leader.node.ServerID(), open: true, leads: true, stands: true, term: g.raft.CurrentTerm()}}
	for _, tries := range []int{1, 3, 6} {
		now := time.Now()
		e.orphans[g] = &orphan{since: now.Add(-time.Minute), stood: now.Add(-standAgain), tries: tries}
		g.followed.Store(resigned)
		e.decide(now, []*Group{g}, map[*Group][]standing{g: answers})
		if g.followed.Load() == resigned {
			t.Errorf("tries %d: the leader is still taken for lost", tries)
		}
	}
}
