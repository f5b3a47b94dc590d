package raftnode

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/wal"
)

// Keys under which raft keeps its last vote.
const (
	lastVoteTerm = "LastVoteTerm"
	lastVoteCand = "LastVoteCand"
)

// votes is a group's StableStore. raft 1.8.0 writes a vote in two steps, first in which term it was given, then to whom, and takes a request of the candidate that is there in the term that is there for
// a duplicate, which it grants before it compares the logs. Whoever died between the two had the new term beside the candidate of an earlier vote, and would have voted for that one whatever its log: an
// acknowledged entry could be lost. So the term is held back until the candidate is written. Who dies in between has the new candidate beside the term of the earlier vote, which is below the current
// term: raft writes that before any vote, and answers no request of an earlier one.
//
// Only raft's main loop writes votes.
type votes struct {
	raft.StableStore
	term uint64 // held back; 0: none is
}

// SetUint64 implements raft.StableStore.
func (v *votes) SetUint64(key []byte, val uint64) error {
	if string(key) == lastVoteTerm {
		v.term = val
		return nil
	}
	return v.StableStore.SetUint64(key, val)
}

// Set implements raft.StableStore.
func (v *votes) Set(key, val []byte) error {
	if err := v.StableStore.Set(key, val); err != nil {
		return err
	}
	if string(key) != lastVoteCand || v.term == 0 {
		return nil
	}
	term := v.term
	v.term = 0
	return v.StableStore.SetUint64([]byte(lastVoteTerm), term)
}

// newRaft is raft.NewRaft, which panics over an entry that cannot be read, is missing, or holds a configuration that is none, and does not say what is wrong with the last one: of a replica that is
// damaged, and the node's others are not.
func newRaft(conf *raft.Config, machine raft.FSM, logs raft.LogStore, stable raft.StableStore, snapshots raft.SnapshotStore, trans raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		cause, ok := p.(error)
		if !ok {
			cause = fmt.Errorf("%v", p)
		}
		r, err = nil, fmt.Errorf("%w: raft does not start with it: %w", ErrDamaged, cause)
	}()
	r, err = raft.NewRaft(conf, machine, logs, stable, snapshots, trans) // starts nothing before it has read the log
	if err == nil {
		return r, nil
	}
	if last, lerr := logs.LastIndex(); lerr == nil {
		if lerr = logs.GetLog(last, new(raft.Log)); errors.Is(lerr, wal.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrDamaged, lerr)
		}
	}
	return nil, err
}
