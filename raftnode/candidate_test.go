package raftnode

import (
	"testing"

	"github.com/hashicorp/raft"
)

// Two stand in the same term and one wins. The other takes its entries and remains a candidate, which raft lets nobody tell to take over: it can take over all the same.
func TestACandidateTakesOver(t *testing.T) {
	c := newCluster(t, 3).start()
	a, loser, winner := c.members[0], c.members[1], c.members[2]
	c.moveTo(t, a)
	c.heard(t, a, a.mustWrite("first"))
	term := a.group.raft.CurrentTerm()
	c.silence(loser, true) // nobody hears that it asks for votes
	if err := loser.group.stand(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loser is a candidate", func() bool {
		return loser.group.raft.State() == raft.Candidate && loser.group.raft.CurrentTerm() == term+1
	})
	if err := winner.group.stand(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the winner serves", func() bool { return winner.group.Leadership().Role == Serving })
	if err := loser.machine.WaitApplied(testContext(t), winner.mustWrite("second")); err != nil {
		t.Fatal(err)
	}
	if loser.group.raft.State() != raft.Candidate {
		t.Skip("the loser has heard of another term: this run proves nothing")
	}
	c.silence(loser, false)
	before := winner.group.Leadership()
	if err := winner.group.Transfer(loser.node.ServerID()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loser serves", func() bool { return loser.group.Leadership().Role == Serving })
	if now := loser.group.Leadership(); now.Term < before.Term+2 {
		t.Errorf("the leader was %+v and is %+v: where is the term that ended the candidacy?", before, now)
	}
	loser.mustWrite("third")
}
