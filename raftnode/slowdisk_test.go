package raftnode

import (
	"testing"
	"time"
)

// pulse lets syncs that wait go on, and holds those that come after.
func (d *disk) pulse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
	}
	d.held = make(chan struct{})
}

// A majority lives, writes and reaches each other, and every sync of a disk takes 200 ms. Once each replica ended its own election after a second, and nobody was ever elected.
func TestSomebodyIsElectedOnSlowDisks(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.disk = newDisk()
		t.Cleanup(m.disk.release)
	}
	c.start()
	leader := c.members[0]
	c.moveTo(t, leader)
	c.heard(t, leader, leader.mustWrite("first"))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, m := range c.members {
				m.disk.pulse()
			}
			select {
			case <-tick.C:
			case <-stop:
				for _, m := range c.members {
					m.disk.release()
				}
				return
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	leader.stop()
	c.leader(t).mustWrite("second")
}

// The same without disks and without waiting: two replicas that are as good as each other stand by what turn says, each election takes so long, and one that begins ends the one before.
func TestALongElectionEnds(t *testing.T) {
	members := []string{"a", "b"}
	for _, row := range []struct{ election, within time.Duration }{
		{100 * time.Millisecond, standAgain},
		{900 * time.Millisecond, standAgain},
		{2 * time.Second, 15 * time.Second},
		{4 * time.Second, 30 * time.Second},
	} {
		began := time.Now()
		replicas := []*orphan{{since: began}, {since: began}}
		stands, term, last, stood := [2]bool{}, uint64(0), -1, time.Time{}
		now := began
		for ; last < 0 || now.Sub(stood) < row.election; now = now.Add(orphanRound) {
			if now.Sub(began) > row.within {
				t.Errorf("elections of %v: none has ended after %v, in term %d", row.election, row.within, term)
				break
			}
			for i, self := range members {
				answers := []standing{{member: "a", open: true, term: term, stands: stands[0], candidate: stands[0]}, {member: "b", open: true, term: term, stands: stands[1], candidate: stands[1]}}
				o := replicas[i]
				if !o.turn(choose(members, 0, self, answers), self, now) {
					continue
				}
				o.begin(now)
				term++
				stands, last, stood = [2]bool{}, i, now
				stands[i] = true
			}
		}
	}
}
