package raftnode

import (
	"testing"
	"time"
)

// hanging is a cluster whose members call a disk hung after so long, and whose first one leads.
func hanging(t *testing.T, hang time.Duration) (c *testCluster, leader *member) {
	c = newCluster(t, 3)
	for _, m := range c.members {
		m.disk, m.timing.Hang = newDisk(), hang
		t.Cleanup(m.disk.release)
	}
	c.start()
	leader = c.members[0]
	c.moveTo(t, leader)
	c.heard(t, leader, leader.mustWrite("first"))
	leader.idle(t)
	return c, leader
}

// The leader's disk takes nothing any more and returns no error either, as network storage does that has lost its other end. The others, which are a majority and well, elect another one, and this one's owner
// hears that it leads no longer, though raft's main loop waits for the disk. When the disk goes on it follows.
func TestALeaderWhoseDiskHangsIsReplaced(t *testing.T) {
	c, leader := hanging(t, 300*time.Millisecond)
	leader.disk.hold()
	answers := []chan error{leader.begin("second"), leader.begin("third")}
	eventually(t, "it gives up", func() bool { return leader.group.Leadership().Role == Follower })
	if view := leader.group.Leadership(); view.Reason != diskHangs {
		t.Errorf("it follows: %+v", view)
	}
	next := c.leader(t, leader)
	next.mustWrite("by another one")
	leader.disk.release()
	for _, answer := range answers {
		select {
		case <-answer: // whatever became of it
		case <-testContext(t).Done():
			t.Fatal("a write is not answered")
		}
	}
	index := c.mustTake(t, "last").group.raft.LastIndex()
	for _, m := range c.members {
		eventually(t, m.name+" has all", func() bool {
			at, _ := m.machine.Applied()
			return at >= index-2 && m.machine.all()[len(m.machine.all())-1] == "last"
		})
	}
}

// A leader whose disk hangs goes on leading while the others are no majority without it: nobody would take its place.
func TestALeaderWhoseDiskHangsStaysWhenNobodyCanFollowIt(t *testing.T) {
	c, leader := hanging(t, 100*time.Millisecond)
	c.members[2].stop()
	eventually(t, "the third is missed", func() bool { return !leader.node.detector.reachable(c.ids[2]) })
	leader.disk.hold()
	answer := leader.begin("second")
	other := c.members[1].node.detector
	eventually(t, "the other one counts it as gone", func() bool { return !other.reachable(c.ids[0]) })
	leader.disk.release()
	mustAnswer(t, answer)
	if view := leader.group.Leadership(); view.Role != Serving || view.Reason == diskHangs {
		t.Errorf("%+v", view)
	}
	eventually(t, "the other one reaches it again", func() bool { return other.reachable(c.ids[0]) })
	leader.mustWrite("third")
}

// The disk goes on before anybody else is elected: raft, which still leads, steps down, so that somebody leads for the owner too.
func TestALeaderThatGaveUpForNothing(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.mustTake(t, "first")
	term := leader.group.Leadership().Term
	leader.group.leadership.giveUp()
	eventually(t, "it has given up", func() bool { return leader.group.Leadership().Role == Follower })
	leader.node.elections.look()
	if now := c.mustTake(t, "second").group.Leadership(); now.Term <= term {
		t.Errorf("%+v leads; the term was %d", now, term)
	}
}
