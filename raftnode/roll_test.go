package raftnode

import (
	"encoding/binary"
	"testing"
)

// A leader's replica was closed, and the peers were not told: its process lives, so nobody misses it.
func TestALeaderThatNoLongerNamesItsGroupIsReplaced(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	leader.mustWrite("x")
	leader.group.watched = nil // nobody is told
	if err := leader.group.Close(); err != nil {
		t.Fatal(err)
	}
	follower := c.followers(leader)[0]
	if !follower.group.follows(leader.node.ServerID()) {
		t.Fatal("the follower has heard of it")
	}
	empty := append([]byte{1, 0}, encodeCommits(nil)...)
	for range 2 {
		for _, m := range c.followers(leader) {
			m.node.handleMessage(leader.node.ServerID(), methodRoll, empty)
		}
	}
	eventually(t, "another one leads", func() bool {
		for _, m := range c.followers(leader) {
			if m.group.Leadership().Role == Serving {
				return true
			}
		}
		return false
	})
}

func TestALeaderThatForgetsToNameItsGroupStays(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	leader.mustWrite("x")
	term := leader.group.Leadership().Term
	m := c.followers(leader)[0]
	for range 2 {
		m.node.handleMessage(leader.node.ServerID(), methodRoll, append([]byte{1, 0}, encodeCommits(nil)...))
	}
	eventually(t, "the follower has asked, and follows as before", func() bool {
		return m.group.followed.Load() == m.node.detector.processOf(leader.node.ServerID()) && m.group.Leadership().Leader == leader.node.ServerID()
	})
	leader.mustWrite("y")
	if got := leader.group.Leadership(); got.Role != Serving || got.Term != term {
		t.Errorf("the leader of term %d is %v of term %d", term, got.Role, got.Term)
	}
}

// All notices are lost, and so are their echoes: the roll tells.
func TestTheRollTellsOfCommits(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	eventually(t, "the leader reaches everybody", func() bool { // a message to one that it has not reached yet is lost, and a roll is not repeated for minutes
		for _, m := range c.followers(leader) {
			if !leader.node.detector.reachable(m.node.ServerID()) {
				return false
			}
		}
		return true
	})
	told, heal := leader.loseNotices()
	defer heal()
	index := leader.mustWrite("x")
	told(index)
	leader.node.notices.callRoll()
	c.heard(t, leader, index)
}

func TestARollInParts(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	leader.mustWrite("x")
	m := c.followers(leader)[0]
	const parts = 5
	for range 2 {
		for part := range parts {
			if part == partOf(m.group.key, parts) {
				continue // the message that would name the group, or not, is lost
			}
			m.node.handleMessage(leader.node.ServerID(), methodRoll, append([]byte{parts, byte(part)}, encodeCommits(nil)...))
		}
	}
	if got := m.group.unnamed.Load(); got != 0 {
		t.Errorf("the group was missed in a part that is not about it: term %d", got)
	}
}

func TestARollThatIsCutOffIsRefused(t *testing.T) {
	c := newCluster(t, 1).start()
	m := c.leader(t)
	body := binary.AppendUvarint(binary.AppendUvarint(nil, 2), 1)
	body = append(body, encodeCommits([]commit{{key: "a", term: 1, index: 2, entryTerm: 1}})...)
	if err := m.node.onRoll("peer", body); err != nil {
		t.Fatal(err)
	}
	for n := range body {
		if err := m.node.onRoll("peer", body[:n]); err == nil {
			t.Errorf("%d bytes of %d are taken", n, len(body))
		}
	}
	if err := m.node.onRoll("peer", append([]byte{2, 2}, encodeCommits(nil)...)); err == nil {
		t.Error("part 2 of 2 is taken, counted from 0")
	}
}
