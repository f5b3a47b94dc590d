package raftnode

import "testing"

// What is committed comes with the answer about what to wait for, so a reader at a follower need not wait for a notice, which may be lost.
func TestAReadIndexTellsOfCommits(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	told, heal := leader.loseNotices()
	defer heal()
	for range 4 { // raft may tell by itself, with a message that was due anyway: not every time
		index := leader.mustWrite("x")
		told(index)
		for _, f := range c.followers(leader) {
			if got, err := f.group.ReadIndex(testContext(t)); err != nil || got < index {
				t.Fatalf("read index %d, %v; entry %d is acknowledged", got, err, index)
			}
		}
		c.heard(t, leader, index)
	}
}

// The next entry says that the one before is committed; no notice does so again, but the echo, in case that entry was lost.
func TestWhatAnEntryToldIsNotNoticed(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	group, peer := leader.group, c.followers(leader)[0].node.ServerID()
	first := leader.mustWrite("x")
	last := leader.mustWrite("y")
	eventually(t, "the second entry told of the first", func() bool { return group.carriedTo(peer) >= first })

	var sent []commit
	hook := func(_ string, list []commit) bool {
		sent = append(sent, list...)
		return true
	}
	own := newNotices(leader.node) // not running: only what this test sends
	own.hookSend.Store(&hook)
	group.carry(peer, last-1)
	own.send(peer, map[*Group]bool{group: true}, false)
	if len(sent) != 1 || sent[0].index != last {
		t.Fatalf("the second entry is not noticed: %v", sent)
	}
	group.carry(peer, last)
	own.send(peer, map[*Group]bool{group: true}, false)
	if len(sent) != 1 {
		t.Errorf("what an entry told is noticed again: %v", sent[1:])
	}
	own.send(peer, map[*Group]bool{group: true}, true)
	if len(sent) != 2 || sent[1].index != last {
		t.Errorf("the echo: %v", sent)
	}
	own.remind(group, peer)
	own.send(peer, own.dirty[peer], false)
	if len(sent) != 3 || sent[2].index != last {
		t.Errorf("who may have lost something is not reminded: %v", sent)
	}
}
