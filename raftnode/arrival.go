package raftnode

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// What peers ask of a group is looked at here before raft is given it; see transport.Inspect. raft 1.8.0 stores what a leader sends before it looks at it.

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
		return nil, nil
	case *raft.InstallSnapshotRequest:
		if err := checkSnapshot(req); err != nil {
			return nil, err
		}
		return nil, nil
	}
	return nil, nil
}

// checkEntries refuses entries over which raft panics when it applies them, or reads them at its next start: it has stored them by then, so the process would end at each start.
func checkEntries(req *raft.AppendEntriesRequest) error {
	if req.PrevLogEntry+uint64(len(req.Entries)) < req.PrevLogEntry {
		return fmt.Errorf("%w: entries that follow entry %d", errForeign, req.PrevLogEntry)
	}
	for i, e := range req.Entries {
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
