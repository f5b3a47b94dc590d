package raftnode

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
)

// raft itself looks at every group's log once in an interval, and a thousand idle groups are then looked at twenty times a second, for nothing: a log grows only
// when entries are stored. So raft's interval is long (lookAtLog), and a group whose log has grown plans its snapshot when it applies the entry that makes it due.
const lookAtLog = 24 * time.Hour

// never is an index that no entry has.
const never = math.MaxUint64

// awaitGrowth has the next snapshot planned when the log has grown by snapshotThreshold entries since the newest one; at once when it has already.
func (g *Group) awaitGrowth() {
	due := uint64(snapshotThreshold)
	if m := g.snapshots.current(); m != nil {
		due += m.Index
	}
	g.snapshotDue.Store(due)
	if g.raft.LastIndex() >= due {
		g.grown()
	}
}

// grown plans a snapshot unless one is planned. It is taken after snapshotInterval, up to twice, so that a busy group takes no more than one in that time, and that many that
// grow together do not take theirs together.
func (g *Group) grown() {
	if g.snapshotDue.Swap(never) == never {
		return
	}
	g.planSnapshot()
}

func (g *Group) planSnapshot() {
	g.gate.Lock()
	defer g.gate.Unlock()
	if !g.closing {
		g.snapshotPlan = time.AfterFunc(snapshotInterval+rand.N(snapshotInterval), g.snapshot) // ends with the snapshot; Close stops it or waits
	}
}

// snapshot takes a snapshot, unless a leader's has come meanwhile, and waits for the log to grow again. One that fails is tried again.
func (g *Group) snapshot() {
	if !g.enter() {
		return
	}
	defer g.inflight.Done()
	if m := g.snapshots.current(); m == nil || g.raft.LastIndex() >= m.Index+snapshotThreshold {
		if err := g.takeSnapshot(); err != nil {
			if g.ctx.Err() == nil {
				g.log.Warn("no snapshot was taken; it is tried again", "error", err)
				g.planSnapshot()
			}
			return
		}
	}
	g.awaitGrowth()
}

// takeSnapshot has raft take a snapshot and cut its log. That there is nothing new is no error.
func (g *Group) takeSnapshot() error {
	err := g.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}
