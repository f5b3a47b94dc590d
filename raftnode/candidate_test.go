package raftnode

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// Two stand in the same term and one wins. The other follows it and remains a candidate, which raft tells nobody to take over: the leader must not try, refusing writes meanwhile.
func TestACandidateIsNotToldToTakeOver(t *testing.T) {
	c := newCluster(t, 3).start()
	a, loser, winner := c.members[0], c.members[1], c.members[2]
	c.moveTo(t, a)
	c.heard(t, a, a.mustWrite("first"))
	term := a.group.raft.CurrentTerm()
	c.silence(loser) // nobody hears that it asks for votes
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
	before := winner.group.Leadership()
	if err := winner.group.Transfer(loser.node.ServerID()); err == nil || !strings.Contains(err.Error(), "is a candidate") {
		t.Errorf("got %v", err)
	}
	if now := winner.group.Leadership(); now.Role != Serving || now.Term != before.Term {
		t.Errorf("the leader was %+v and is %+v", before, now)
	}
	winner.mustWrite("third")
}
