package raftnode

import (
	"fmt"
	"testing"
	"time"
)

// planned returns the group's planned snapshot.
func planned(g *Group) *time.Timer {
	g.gate.Lock()
	defer g.gate.Unlock()
	return g.snapshotPlan
}

func TestASnapshotIsTakenWhenTheLogHasGrown(t *testing.T) {
	c := newCluster(t, 1).start()
	m := c.leader(t)
	write := func(entries int) { // as many at once as raft takes
		var waiting []*Proposal
		for i := range entries {
			p, err := m.group.Propose([]byte(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			if waiting = append(waiting, p); len(waiting) == 64 || i == entries-1 {
				for _, p := range waiting {
					if _, err := p.Wait(); err != nil {
						t.Fatal(err)
					}
				}
				waiting = waiting[:0]
			}
		}
	}
	write(snapshotThreshold - 100)
	if planned(m.group) != nil {
		t.Fatal("a snapshot is planned before it is due")
	}
	write(200)
	plan := planned(m.group)
	if plan == nil {
		t.Fatal("no snapshot is planned")
	}
	plan.Reset(0)
	eventually(t, "the snapshot is taken, and the next is due when the log has grown again", func() bool {
		marker := m.group.snapshots.current()
		return marker != nil && marker.Index >= snapshotThreshold && m.group.snapshotDue.Load() == marker.Index+snapshotThreshold
	})

	write(snapshotThreshold - 1)
	if planned(m.group) != plan {
		t.Fatal("the next snapshot is planned before it is due")
	}
	write(200)
	if planned(m.group) == plan {
		t.Fatal("the next snapshot is not planned")
	}
	m.stop()
	m.start() // with a log that is long enough
	if planned(m.group) == nil {
		t.Error("after a start no snapshot is planned")
	}
}
