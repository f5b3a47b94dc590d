package raftnode

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// F has an entry that was never committed, then receives a snapshot that covers it. raft would keep F's old log below the snapshot, and F, once it leads, would send it to a member that is
// far behind, with a commit index beyond it: that member would apply the entry, and nothing would ever mend it.
func TestWhatASnapshotCoversIsNotSentToOthers(t *testing.T) {
	c := newCluster(t, 5).start()
	f := c.allTake(t, "a")
	g := c.followers(f)[3]
	c.isolate(g, true)
	last := f.group.raft.LastIndex()
	for i := 0; f.group.raft.LastIndex() < last+63; i++ {
		f.mustWrite(fmt.Sprint("committed ", i))
	}
	c.isolate(f, true)
	p, err := f.group.Propose([]byte("phantom"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = p.Wait(); !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	phantom := last + 64
	var e raft.Log
	if err := f.group.store.GetLog(phantom, &e); err != nil || string(e.Data) != "phantom" {
		t.Fatalf("entry %d: %v %q", phantom, err, e.Data)
	}
	l := c.leader(t, f, g)
	for i := range 20 {
		l.mustWrite(fmt.Sprint("after ", i))
	}
	compact(t, l, 3)
	at, _ := l.machine.Applied()
	c.isolate(f, false)
	if err := f.machine.WaitApplied(testContext(t), at); err != nil {
		t.Fatal(err)
	}
	if f.machine.restored() == 0 {
		t.Fatal("no snapshot was sent")
	}
	c.moveTo(t, f) // what it has noted of its log is with raft by then
	if err := f.group.logs.GetLog(phantom, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry %d, which was never committed, is still in the log: %v, %q", phantom, err, e.Data)
	}
	c.isolate(g, false)
	at = f.mustWrite("last")
	if err := g.machine.WaitApplied(testContext(t), at); err != nil {
		t.Fatal(err)
	}
	if got, want := g.machine.all(), f.machine.all(); !slices.Equal(got, want) || slices.Contains(got, "phantom") {
		t.Errorf("the member that was behind has %q, the leader %q", got, want)
	}
}

func TestDiscardForeign(t *testing.T) {
	const gap = 5 // in the row that has a snapshot there whose entry the log lacks
	for _, row := range []struct {
		name        string
		from, to    uint64 // of the log
		term        uint64 // of its entries
		marker      *marker
		first, last uint64 // of what is left
	}{
		{"no snapshot", 1, 9, 1, nil, 1, 9},
		{"no log", 0, 0, 1, &marker{Index: 5, Term: 2}, 0, 0},
		{"the log goes on behind the snapshot", 6, 9, 2, &marker{Index: 5, Term: 2}, 6, 9},
		{"it has the snapshot's last entry", 3, 9, 2, &marker{Index: 5, Term: 2}, 3, 9},
		{"it ends with it", 3, 5, 2, &marker{Index: 5, Term: 2}, 3, 5},
		{"it ends before it", 1, 4, 2, &marker{Index: 5, Term: 2}, 0, 0},
		{"it has a gap there, and goes on", 1, 9, 2, &marker{Index: gap, Term: 2}, gap + 1, 9},
		{"it has another one there", 1, 5, 1, &marker{Index: 5, Term: 2}, 0, 0},
		{"another one, and more behind it", 1, 9, 1, &marker{Index: 5, Term: 2}, 0, 0},
	} {
		log := raft.NewInmemStore()
		for i := row.from; i <= row.to && i > 0; i++ {
			if i == gap && strings.Contains(row.name, "gap") {
				continue
			}
			if err := log.StoreLog(&raft.Log{Index: i, Term: row.term}); err != nil {
				t.Fatal(err)
			}
		}
		if err := discardForeign(log, row.marker); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		first, _ := log.FirstIndex()
		last, _ := log.LastIndex()
		if first != row.first || last != row.last {
			t.Errorf("%s: entries %d to %d are left, want %d to %d", row.name, first, last, row.first, row.last)
		}
	}
}

// The process dies between the two writes of raft.BootstrapCluster: the term is on the disk, and maybe a vote in a later one, and entry 1 is not.
func TestBootstrapThatWasCutOff(t *testing.T) {
	for _, term := range []uint64{1, 4} {
		c := newCluster(t, 3)
		for _, m := range c.members[1:] { // a majority
			m.listen()
			s, err := m.node.log.Open(testGroup)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SetUint64([]byte("CurrentTerm"), term); err != nil {
				t.Fatal(err)
			}
			s.Close()
			m.stop()
		}
		c.start()
		leader := c.mustTake(t, "a")
		index, _ := leader.machine.Applied()
		c.heard(t, leader, index)
	}
}

// What a replica is told to do as leader, when it leads no longer, costs nobody a term.
func TestOnlyALeaderStepsDown(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "a")
	f := c.followers(leader)[0]
	term := f.group.raft.CurrentTerm()
	f.group.stepDown("shutdown") // as one that closes slowly does
	if got := f.group.raft.CurrentTerm(); got != term {
		t.Errorf("a follower's term was %d and is %d", term, got)
	}
	leader.mustWrite("b")
}

// A leader hands over to a member that hangs, steps down meanwhile, and is elected again while raft still waits for that member and refuses everything else. It asks for its barrier
// until it gets it.
func TestALeaderThatIsElectedAgainDuringATransferServes(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "a")
	to := c.followers(leader)[0]
	c.isolate(to, true) // swallows what is sent; nobody is told
	id := raft.ServerID(to.node.ServerID())
	leader.group.raft.LeadershipTransferToServer(id, raft.ServerAddress(id)) // what Group.Transfer does once successor has answered
	eventually(t, "raft hands over", func() bool {
		return errors.Is(leader.group.raft.Barrier(0).Error(), raft.ErrLeadershipTransferInProgress)
	})
	was := leader.group.raft.CurrentTerm()
	leader.group.stepDown("transfer") // what Group.Transfer does after transferWait
	eventually(t, "it leads again", func() bool {
		if leader.group.raft.State() == raft.Follower {
			leader.group.stand() // what elections does when it is this replica's turn
		}
		return leader.group.raft.State() == raft.Leader && leader.group.raft.CurrentTerm() > was
	})
	c.isolate(to, false)
	if _, err := leader.group.WaitLeadership(testContext(t), func(l Leadership) bool { return l.Role == Serving && l.Term > was }); err != nil {
		t.Errorf("%v; its view is %+v", err, leader.group.Leadership())
	}
}
