package raftnode

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/transport"
	"github.com/quorate/quorate/raftnode/wal"
)

// A leader writes its entries to its own disk while followers write them to theirs (Ongaro 2014, §10.2.1): a lone append waits for one fsync, not for two in a
// row. raft knows nothing of it: it is told that entries are stored when they are only begun, and so may count this disk too early. Three things in
// this file make up for it, and DESIGN.md says why they are enough:
//
//   - [overlappingLog] begins nothing but a leader's commands;
//   - [boundedTransport] tells followers of no commit beyond what is on this disk;
//   - [groupMachine] applies no entry that is not on this disk.

// overlappingLog is the log as raft sees it.
type overlappingLog struct {
	wal.Store
	raft       atomic.Pointer[raft.Raft] // nil until it runs
	dispatched func(index uint64)        // is told up to where a leader's entries are stored or begun
	holds      *holds
	snapshots  *snapshotStore
	log        *slog.Logger
	damageSaid atomic.Int64 // when a damaged entry was last told of, in Unix nanoseconds; 0: never
	knownSaid  atomic.Int64 // when a state was last called known, or would have been; also in Unix nanoseconds
}

// leads reports whether this replica leads, and is not just being opened.
func (l *overlappingLog) leads() bool {
	r := l.raft.Load()
	return r != nil && r.State() == raft.Leader
}

// StoreLogs returns before the entries are on the disk when this replica leads and all of them are commands. raft 1.8.0 stores entries as a leader
// in dispatchLogs only, on its main goroutine, which is also the one that stops leading. A term's first entry is no command, so it is on the disk
// before any that is begun.
//
// While earlier entries wait for their majority it is better to wait for the disk too: what comes meanwhile then goes in one batch, which costs less
// processor time than it gains when many clients write to one store.
func (l *overlappingLog) StoreLogs(logs []*raft.Log) error {
	r := l.raft.Load()
	if r == nil || r.State() != raft.Leader || len(logs) == 0 {
		return l.Store.StoreLogs(logs)
	}
	store := l.Store.Begin
	if r.AppliedIndex()+1 < logs[0].Index || slices.ContainsFunc(logs, func(e *raft.Log) bool { return e.Type != raft.LogCommand }) {
		store = l.Store.StoreLogs
	}
	err := store(logs)
	if err == nil {
		l.dispatched(logs[len(logs)-1].Index)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (l *overlappingLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// GetLog implements raft.LogStore. A damaged entry that the snapshot contains is one that a leader no longer has: raft 1.8.0 sends the state in the place of entries when one is not
// found, and after any other error nothing, to a follower that would stay behind for good. Who does not lead is told of the damage; discardForeign could take out more than it should.
func (l *overlappingLog) GetLog(index uint64, out *raft.Log) error {
	err := l.Store.GetLog(index, out)
	if !errors.Is(err, wal.ErrCorrupt) {
		return err
	}
	r, m := l.raft.Load(), l.snapshots.current()
	if r == nil || r.State() != raft.Leader || m == nil || index > m.Index {
		return err
	}
	now := time.Now().UnixNano()
	if said := l.damageSaid.Load(); (said == 0 || now-said >= int64(damageAgain)) && l.damageSaid.CompareAndSwap(said, now) {
		l.log.Warn("an entry of the log is damaged; followers that miss it are sent the state, which contains it", "index", index, "error", err)
	}
	return raft.ErrLogNotFound
}

// damageAgain is the least time between two warnings of a replica about damaged entries: a damaged entry is read as often as a follower asks for it, until it is cut off.
const damageAgain = 10 * time.Minute

// DeleteRange leaves what peers are held for when this replica leads: raft 1.8.0 then deletes only to cut off what its newest snapshot covers. It takes out what contradicts a leader
// (appendEntries) or a snapshot (discardForeign) only after it has ceased to lead, and on its main goroutine, or while that waits; those entries must go.
//
// The snapshot's last entry stays too. raft would cut it off if many are written while the snapshot is taken, and a peer that is sent the state goes on from there; so does a follower whose leader
// names an older one (see skipTo).
func (l *overlappingLog) DeleteRange(first, last uint64) error {
	if r := l.raft.Load(); r != nil && r.State() == raft.Leader {
		end, err := l.LastIndex()
		if err != nil {
			return err
		}
		if m := l.snapshots.current(); m != nil {
			last = min(last, m.Index-1)
		}
		if last = l.holds.cut(last, end, time.Now()); last < first {
			return nil
		}
	} else if m := l.snapshots.current(); m != nil && first <= m.Index && m.Index <= last {
		end, err := l.LastIndex()
		if err != nil {
			return err
		}
		var e raft.Log
		if last < end && l.Store.GetLog(m.Index, &e) == nil && e.Term == m.Term { // a cut: it takes the log's beginning only, and nothing that contradicts the snapshot
			if last = m.Index - 1; last < first {
				return nil
			}
		}
	}
	return l.Store.DeleteRange(first, last)
}

// boundedTransport is the transport as raft sees it.
type boundedTransport struct {
	*transport.Group
	holds *holds
	log   wal.Store
	carry func(peer string, index uint64) // is told what a request says of commits
}

// bound takes from a request what it says of commits that rest on this disk too early. Below the first pending entry is at least the one with which this term
// began, so what is left is what a leader may say (Raft §5.4.2).
func (t *boundedTransport) bound(to raft.ServerAddress, req *raft.AppendEntriesRequest) {
	if first := t.log.Pending(); first > 0 && req.LeaderCommitIndex >= first {
		req.LeaderCommitIndex = first - 1
	}
	// Nor of one beyond what the request shows that the follower has: raft 1.8.0 commits up to the follower's own end, where entries of another term may be. raft itself
	// reads the log's end before the commit index, and the first entry of a term may be committed in between.
	if shown := req.PrevLogEntry + uint64(len(req.Entries)); req.LeaderCommitIndex > shown {
		req.LeaderCommitIndex = shown
	}
	t.carry(string(to), req.LeaderCommitIndex)
}

// AppendEntries implements raft.Transport.
func (t *boundedTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	t.bound(to, req)
	return t.Group.AppendEntries(id, to, req, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *boundedTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	h := t.holds.begin(string(to), req.LastLogIndex, req.Size)
	err := t.Group.InstallSnapshot(id, to, req, resp, data)
	if err == nil && resp.Success {
		t.holds.arrived(h)
	} else {
		t.holds.failed(string(to), h)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *boundedTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.Group.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return &boundedPipeline{AppendPipeline: p, transport: t, to: to}, nil
}

type boundedPipeline struct {
	raft.AppendPipeline
	transport *boundedTransport
	to        raft.ServerAddress
}

func (p *boundedPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.transport.bound(p.to, req)
	return p.AppendPipeline.AppendEntries(req, resp)
}

// notDurable is what entries are answered with that will never be known to be on this disk. See Proposal.Wait.
type notDurable struct{ err error }

// awaitDurable has the entries on this disk before they are applied. When that fails, the log is over, and with it this process or at least this replica.
func (m *groupMachine) awaitDurable(logs []*raft.Log) (lost []any) {
	err := m.log.AwaitDurable(context.Background(), logs[len(logs)-1].Index)
	if err == nil {
		return nil
	}
	lost = make([]any, len(logs))
	for i := range lost {
		lost[i] = notDurable{err}
	}
	return lost
}
