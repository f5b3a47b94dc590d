package raftnode

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// resends has leaders send again what waits too long for a majority. hashicorp/raft does not by itself: when a request fails, or is answered too late, what it carried is sent with the
// next entry, or after Timing.Commit, which is long; and who waits for an answer before it writes again makes no next entry. So a leader whose commit index stands still below its newest entry is
// nudged: a barrier is an entry, and has raft look at all followers.
//
// A group is watched from when its leader has stored an entry until a look finds everything committed. All that are watched are looked at together, and nothing runs while none
// is.
type resends struct {
	node *Node
	wake chan struct{} // somebody joined; the value says nothing

	mu     sync.Mutex // guards joined
	joined []*Group   // since the last look
}

const (
	resendLook  = 500 * time.Millisecond // between two looks; an entry that two of them find without a majority may be lost
	resendPause = 8                      // looks between two nudges at most
)

func newResends(n *Node) *resends {
	return &resends{node: n, wake: make(chan struct{}, 1)}
}

func (s *resends) join(g *Group) {
	s.mu.Lock()
	s.joined = append(s.joined, g)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run ends with ctx.
func (s *resends) run(ctx context.Context) {
	watched := make(map[*Group]*stall)
	timer := time.NewTimer(resendLook)
	defer timer.Stop()
	for {
		if len(watched) == 0 {
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			}
			timer.Reset(resendLook)
		}
		select {
		case <-timer.C:
			timer.Reset(resendLook)
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		for _, g := range s.joined {
			watched[g] = newStall()
		}
		s.joined = nil
		s.mu.Unlock()
		maps.DeleteFunc(watched, func(g *Group, st *stall) bool { return !g.lookForStall(st) })
	}
}

// dispatched is called by raft's goroutine when this replica, as leader, has stored entries up to the index: raft sends them next.
func (g *Group) dispatched(index uint64) {
	g.newest.Store(index)
	if g.unsettled.CompareAndSwap(false, true) {
		g.node.resends.join(g)
	}
}

// settled reports whether no entry of this replica waits for a majority, as far as this replica has a say in it.
func (g *Group) settled() bool {
	return g.ctx.Err() != nil || g.raft.State() != raft.Leader || g.raft.CommitIndex() >= g.newest.Load()
}

// lookForStall nudges raft if it is time to. false: the group need not be watched.
func (g *Group) lookForStall(st *stall) (watch bool) {
	if g.settled() {
		g.unsettled.Store(false)
		return !g.settled() && g.unsettled.CompareAndSwap(false, true) // an entry may have come, and not joined, in between
	}
	members := g.Members()
	reached := 0
	for _, id := range members {
		if g.node.detector.reachable(id) {
			reached++
		}
	}
	now := progress{
		committed: g.raft.CommitIndex(), newest: g.newest.Load(), reached: reached,
		hopeless: reached < majority(len(members)) || g.store.Pending() > 0,
	}
	if st.look(now) {
		g.log.Debug("entries wait for a majority; they are sent again", "committed", now.committed, "newest", now.newest)
		g.nudge(1)
	}
	return true
}

// maxNudges bounds the entries that a follower's question makes; it asks again when it is not enough.
const maxNudges = 256

// nudge has raft look at all followers now, by a new entry, so many times; once while many times are under way.
func (g *Group) nudge(times uint64) {
	if !g.enter() {
		return
	}
	many := times > 1 && g.nudging.CompareAndSwap(false, true)
	go func() { // ends when raft has taken the last one: each at the latest after applyEnqueue, and the next when a majority has it, or this replica leads no longer
		defer g.inflight.Done()
		if many {
			defer g.nudging.Store(false)
		}
		for ; many && times > 1; times-- {
			if g.raft.Barrier(applyEnqueue).Error() != nil {
				return
			}
		}
		g.raft.Barrier(applyEnqueue) // nobody waits for what becomes of it
	}()
}

// progress is what a look finds at a leader whose newest entry is not committed.
type progress struct {
	committed, newest uint64
	reached           int  // members, this one included
	hopeless          bool // too few to commit anything, or this replica's own disk is what is late
}

// stall decides when a group that is watched is nudged: at the second look at the same commit index, and then after a second, two, and every four. It starts anew when the commit index
// moves or a member is back.
//
// A nudge that has not become an entry is in raft's queue, since its main goroutine waits (for the disk, most likely), or was refused, since leadership is being handed over. Then the pauses
// double without end, so that few pile up.
type stall struct {
	progress
	left, pause int // looks until the next nudge, and between it and the one after that
	nudged      uint64
}

func newStall() *stall { return &stall{progress: progress{committed: never}} }

// look reports whether raft is to be nudged.
func (s *stall) look(now progress) bool {
	if now.committed != s.committed {
		*s = stall{progress: now, pause: 2}
		return false
	}
	if now.reached > s.reached {
		s.left, s.pause = 0, 2
	}
	s.progress = now
	if s.left > 0 {
		s.left--
		return false
	}
	if now.hopeless {
		return false
	}
	s.left = s.pause - 1
	s.pause *= 2
	if now.newest > s.nudged {
		s.pause = min(s.pause, resendPause)
	}
	s.nudged = now.newest
	return true
}
