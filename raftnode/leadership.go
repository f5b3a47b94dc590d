package raftnode

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Role is what this replica is in its group.
type Role int

// A replica follows, was elected but has not applied its own term's entry yet, or serves.
const (
	Follower Role = iota
	Elected
	Serving
)

func (r Role) String() string { return [...]string{"follower", "elected", "serving"}[r] }

// Leadership is this node's view of who leads a group.
type Leadership struct {
	Role     Role
	Term     uint64
	Leader   string    // server id; empty while unknown
	Since    time.Time // when this node saw the present Leader (or its absence) first
	Previous string    // the last known leader before this one
	Changes  uint64    // how many leaders this node has seen
	Reason   string    // why the last change happened, as far as this node knows
}

// over reports whether another one leads in the later view, or this replica has become something else.
func (v Leadership) over(later Leadership) bool {
	return later.Leader != v.Leader || later.Role != v.Role
}

// leadership turns raft's notifications into an ordered series of views.
type leadership struct {
	group  *Group
	notify chan bool             // raft blocks on it: every gain and loss of leadership, in order
	poke   chan raft.Observation // the leader this replica follows may have changed; the value doesn't matter
	gaveUp atomic.Bool           // this replica does not lead for its owner, whatever raft says, until raft loses leadership or gains it anew
	unled  atomic.Bool           // the leader that raft knows cannot be reached, or leads no longer
	ready  chan served           // a term whose own entry has been applied here

	mu      sync.Mutex // guards what follows
	view    Leadership
	changed chan struct{} // closed and replaced at each change
	reason  string        // what the next loss is due to, when it is known before
}

func newLeadership(g *Group, notify chan bool) *leadership {
	l := &leadership{
		group:   g,
		notify:  notify,
		poke:    make(chan raft.Observation, 1),
		ready:   make(chan served, 4),
		changed: make(chan struct{}),
		view:    Leadership{Since: time.Now()},
	}
	return l
}

// run ends when the group closes; raft has then shut down or does so without waiting for us, since notify is drained until it has.
func (l *leadership) run() {
	defer l.group.wg.Done()
	g := l.group
	observer := raft.NewObserver(l.poke, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	g.raft.RegisterObserver(observer)
	defer g.raft.DeregisterObserver(observer)
	l.follow()
	for {
		select {
		case gained := <-l.notify:
			if gained {
				l.elected()
			} else {
				l.lost()
			}
		case s := <-l.ready:
			l.serve(s)
		case <-l.poke:
			l.follow()
		case <-g.ctx.Done():
			l.lost()
			return
		}
	}
}

func (l *leadership) elected() {
	g := l.group
	term := g.raft.CurrentTerm()
	l.gaveUp.Store(false)
	l.update(func(v *Leadership) {
		v.Role, v.Term, v.Reason = Elected, term, "election"
		l.lead(v, g.node.ServerID())
	})
	if !g.enter() {
		return
	}
	go func() { // ends when the barrier is applied or leadership is lost
		defer g.inflight.Done()
		for {
			barrier := g.raft.Barrier(0)
			err := barrier.Error()
			if g.raft.State() != raft.Leader || g.raft.CurrentTerm() != term {
				return
			}
			if err == nil { // leader in this very term after the entry was committed: then it is of this term
				select {
				case l.ready <- served{term, barrier.(raft.IndexFuture).Index()}:
				case <-g.ctx.Done():
				}
				return
			}
			// A hand-over of an earlier term whose target does not answer keeps raft from taking anything until it is over.
			again := time.NewTimer(barrierAgain)
			select {
			case <-again.C:
			case <-g.ctx.Done():
				again.Stop()
				return
			}
		}
	}()
}

// barrierAgain is the pause before a leader that raft gave no barrier asks again.
const barrierAgain = 20 * time.Millisecond

// served is a barrier that was committed and applied.
type served struct{ term, barrier uint64 }

func (l *leadership) serve(s served) {
	serves := false
	l.update(func(v *Leadership) {
		if v.Role == Elected && v.Term == s.term {
			v.Role, serves = Serving, true
		}
	})
	if serves {
		l.group.serves(s.term, s.barrier)
	}
}

func (l *leadership) lost() {
	l.gaveUp.Store(false)
	l.update(func(v *Leadership) {
		if v.Role == Follower {
			return
		}
		v.Role = Follower
		v.Reason = l.reason
		if v.Reason == "" {
			v.Reason = "step_down"
		}
		l.reason = ""
		l.lead(v, l.otherLeader())
		v.Term = max(v.Term, l.group.raft.CurrentTerm())
	})
}

// follow reads who raft thinks leads. While this replica leads, notify tells instead: in order, and without misses.
func (l *leadership) follow() {
	l.update(func(v *Leadership) {
		if v.Role != Follower && l.gaveUp.Load() {
			v.Role, v.Reason = Follower, diskHangs
			l.lead(v, "")
			return
		}
		if v.Role != Follower {
			return
		}
		leader := l.otherLeader()
		if leader == v.Leader && l.group.raft.CurrentTerm() == v.Term {
			return
		}
		v.Term = l.group.raft.CurrentTerm()
		if leader != v.Leader {
			v.Reason = "election"
			if leader == "" {
				v.Reason = "silence"
			}
			l.lead(v, leader)
		}
	})
}

// diskHangs is the reason of who gives up.
const diskHangs = "disk_hangs"

// giveUp makes this replica, which leads, a follower for its owner at once. raft's main loop may wait for a disk that neither writes nor fails; what is under way is answered when it does. Once the disk goes on
// raft loses its leadership too: others have been elected, or it is told to step down.
func (l *leadership) giveUp() {
	if l.gaveUp.CompareAndSwap(false, true) {
		l.group.log.Warn("this node gives up leading", "reason", diskHangs)
		select {
		case l.poke <- raft.Observation{}:
		default: // there is one on its way
		}
	}
}

// loseLeader says whether the leader that raft knows is lost. raft itself believes in it for Timing.Heartbeat.
func (l *leadership) loseLeader(lost bool) {
	if l.unled.Swap(lost) != lost {
		select {
		case l.poke <- raft.Observation{}:
		default: // there is one on its way
		}
	}
}

// otherLeader returns the leader raft knows, unless it is lost, or this replica: that is for notify to say.
func (l *leadership) otherLeader() string {
	_, id := l.group.raft.LeaderWithID()
	if string(id) == l.group.node.ServerID() || l.unled.Load() {
		return ""
	}
	return string(id)
}

func (l *leadership) lead(v *Leadership, leader string) {
	if v.Leader == leader {
		return
	}
	if v.Leader != "" {
		v.Previous = v.Leader
	}
	v.Leader, v.Since = leader, time.Now()
	if leader != "" {
		v.Changes++
		if leader != l.group.node.ServerID() {
			l.group.followed.Store(l.group.node.detector.processOf(leader))
		}
	}
}

// update changes the view and tells everyone, unless nothing changed. Only run's goroutine calls it, so listeners see changes in order.
func (l *leadership) update(change func(*Leadership)) {
	l.mu.Lock()
	before := l.view
	change(&l.view)
	after := l.view
	if after == before {
		l.mu.Unlock()
		return
	}
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.group.refreshMembers()
	if after.Leader == "" {
		l.group.node.elections.look()
	}
	if l.group.cfg.OnLeadership != nil {
		l.group.cfg.OnLeadership(after)
	}
}

// expect names the reason for a loss of leadership that is about to happen.
func (l *leadership) expect(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reason = reason
}

func (l *leadership) current() Leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view
}

func (l *leadership) wait(ctx context.Context, ok func(Leadership) bool) (Leadership, error) {
	for {
		l.mu.Lock()
		view, changed := l.view, l.changed
		l.mu.Unlock()
		if ok(view) {
			return view, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return view, ctx.Err()
		case <-l.group.ctx.Done():
			return view, ErrClosed
		}
	}
}

// during returns a context that is done when ctx is, or the view is over. cancel must be called.
func (l *leadership) during(ctx context.Context, view Leadership) (during context.Context, cancel func()) {
	during, cancel = context.WithCancel(ctx)
	go func() { // ends with during
		defer cancel()
		l.wait(during, view.over)
	}()
	return during, cancel
}
