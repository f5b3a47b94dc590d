package raftnode

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// What peers ask of a group is looked at here before raft is given it; see transport.Inspect. raft 1.8.0 stores what a leader sends before it looks at it, and it refuses what it has cut off
// and could know that it has.

// errForeign means that a peer sent something that no leader sends.
var errForeign = errors.New("no leader sends this")

// arrives checks a peer's request. It may change the request, or answer it in raft's place.
func (l *overlappingLog) arrives(req any) (answer any, err error) {
	switch req := req.(type) {
	case *raft.AppendEntriesRequest:
		if len(req.Entries) == 0 {
			return nil, nil
		}
		if err := checkEntries(req); err != nil {
			return nil, err
		}
		return nil, l.skipKnown(req)
	case *raft.InstallSnapshotRequest:
		if err := checkSnapshot(req); err != nil {
			return nil, err
		}
		return l.knownSnapshot(req)
	}
	return nil, nil
}

// checkEntries refuses entries over which raft panics when it applies them, or reads them at its next start: it has stored them by then, so the process would end at each start.
func checkEntries(req *raft.AppendEntriesRequest) error {
	if req.PrevLogEntry+uint64(len(req.Entries)) < req.PrevLogEntry {
		return fmt.Errorf("%w: entries that follow entry %d", errForeign, req.PrevLogEntry)
	}
	term := uint64(0)
	for i, e := range req.Entries {
		if e.Term < term || e.Term > req.Term {
			return fmt.Errorf("%w: entry %d of term %d in term %d, behind one of term %d", errForeign, e.Index, e.Term, req.Term, term)
		}
		term = e.Term
		if want := req.PrevLogEntry + uint64(i) + 1; e.Index != want {
			return fmt.Errorf("%w: entry %d where entry %d is to be", errForeign, e.Index, want)
		}
		switch e.Type {
		case raft.LogCommand, raft.LogNoop, raft.LogBarrier:
		case raft.LogConfiguration:
			if err := checkConfiguration(e.Data); err != nil {
				return fmt.Errorf("entry %d: %w", e.Index, err)
			}
		default: // deprecated ones too: they are of clusters that this program cannot be in
			return fmt.Errorf("%w: entry %d of type %d", errForeign, e.Index, e.Type)
		}
	}
	return nil
}

// checkConfiguration refuses what raft cannot read, over which it panics, and a group without members.
func checkConfiguration(encoded []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: a configuration that cannot be read: %v", errForeign, p)
		}
	}()
	if c := raft.DecodeConfiguration(encoded); len(c.Servers) == 0 {
		return fmt.Errorf("%w: a configuration without members", errForeign)
	}
	return nil
}

// checkSnapshot refuses a state of no bytes too: a snapshot to which nothing is written is a marker of what this replica has itself (see sink).
func checkSnapshot(req *raft.InstallSnapshotRequest) error {
	if req.Size <= 0 {
		return fmt.Errorf("%w: a state of %d bytes", errForeign, req.Size)
	}
	if req.SnapshotVersion < 1 {
		return fmt.Errorf("%w: a snapshot of version %d, whose members are not in its configuration", errForeign, req.SnapshotVersion)
	}
	return checkConfiguration(req.Configuration)
}

// skipKnown takes out of a request what this replica's state contains and its log does not any more. A leader to which answers were lost names a predecessor that this replica has, and has cut off
// since; raft 1.8.0 refuses that, and then the leader's snapshot too, since this replica's own is newer. If its vote is needed for a majority, the store took no writes.
//
// What is up to the snapshot's end is committed, so whoever leads has the same entries there (Raft §5.4.3, leader completeness), and the rest of the request is one that a leader sends to who has them.
// That the log changes meanwhile does no harm: what is left is judged by raft, as ever.
func (l *overlappingLog) skipKnown(req *raft.AppendEntriesRequest) error {
	r, m := l.raft.Load(), l.snapshots.current()
	if r == nil || m == nil || m.Incoming != "" || req.PrevLogEntry > m.Index { // nearly always
		return nil
	}
	first, err := l.FirstIndex()
	if err != nil || first != 0 && req.PrevLogEntry >= first {
		return err
	}
	last, err := l.LastIndex()
	if err != nil || r.LastIndex() != max(last, m.Index) { // raft believes in a log that discardForeign took out: it needs a newer state
		return err
	}
	skipTo(req, m, first, last, func(index uint64) (uint64, error) {
		var e raft.Log
		err := l.Store.GetLog(index, &e)
		return e.Term, err
	})
	return nil
}

// skipTo makes a request that begins before the log, which has the entries from first to last (0: none), begin with an entry that raft knows.
func skipTo(req *raft.AppendEntriesRequest, m *marker, first, last uint64, termOf func(index uint64) (uint64, error)) {
	known, term := m.Index, m.Term // raft's last entry, when the log has none behind it
	if last > m.Index || last == m.Index && first > 0 {
		known = first
	}
	end := req.PrevLogEntry + uint64(len(req.Entries))
	switch {
	case known > m.Index+1 || req.PrevLogEntry >= known, end < known && known > m.Index: // a log that begins behind the snapshot may contradict its leader there
		return
	case end < known: // nothing is new: a request that says who leads, and what its sender takes the answer to mean is true
		req.PrevLogEntry, req.PrevLogTerm, req.Entries, req.LeaderCommitIndex = 0, 0, nil, 0
		return
	}
	if known == first && first > 0 {
		var err error
		if term, err = termOf(known); err != nil {
			return
		}
	}
	at := known - req.PrevLogEntry - 1
	if req.Entries[at].Term != term { // it is behind the snapshot, and not committed
		return
	}
	req.PrevLogEntry, req.PrevLogTerm, req.Entries = known, term, req.Entries[at+1:]
}

// knownAgain is how soon a leader is not believed to need the same answer: raft must have refused what follows the state, and without a pause the two would go on like that.
const knownAgain = time.Second

// knownSnapshot says yes to a state that ends before this replica's own snapshot, without taking it: it is contained there, as in skipKnown, and the store would refuse it when all of it has come.
func (l *overlappingLog) knownSnapshot(req *raft.InstallSnapshotRequest) (answer any, err error) {
	r, m := l.raft.Load(), l.snapshots.current()
	if r == nil || m == nil || m.Incoming != "" || req.LastLogIndex >= m.Index || req.Term < r.CurrentTerm() {
		return nil, nil
	}
	last, err := l.LastIndex()
	if err != nil {
		return nil, err
	}
	if r.LastIndex() != max(last, m.Index) { // as in skipKnown
		return nil, nil
	}
	now := time.Now().UnixNano()
	if said := l.knownSaid.Load(); now-said < int64(knownAgain) || !l.knownSaid.CompareAndSwap(said, now) {
		return nil, nil
	}
	return &raft.InstallSnapshotResponse{Term: req.Term, Success: true}, nil
}
