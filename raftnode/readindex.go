package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// readRoundTimeout bounds one round of the read index; a round that needs longer has no majority.
const readRoundTimeout = 3 * time.Second

// readIndex gives linearizable reads on any node (Raft, Ongaro 2014, §6.4): an index such that a state which has applied it contains every write
// acknowledged before the read began.
//
// Reads that arrive while a round is under way wait for the next one and share it: a round must begin after the read did. A round at the leader notes what it
// has applied and then asks the members whether they are still in its term (see termChecks); it writes nothing. What it has applied is enough: it
// acknowledges nothing before it has applied it, and what earlier leaders acknowledged was applied before it began to serve. raft's VerifyLeader
// is no substitute: it counts answers to heartbeats sent before the read.
type readIndex struct {
	group *Group
	ask   func(context.Context) (uint64, error) // carries out one round

	mu      sync.Mutex // guards what follows
	next    *readRound // collects readers; nil when there are none
	running bool
}

type readRound struct {
	done  chan struct{}
	index uint64
	err   error
}

// ReadIndex returns an index that the Machine must have applied before it is read. Any member can ask; it goes to the leader.
//
// It fails with ErrNoLeader when none answers within a few seconds, or with ctx's error.
func (g *Group) ReadIndex(ctx context.Context) (uint64, error) {
	round, ok := g.reads.join()
	if !ok {
		return 0, ErrClosed
	}
	select {
	case <-round.done:
		return round.index, round.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-g.ctx.Done():
		return 0, ErrClosed
	}
}

// LinearizableRead returns once the Machine's state contains every write acknowledged before the call.
func (g *Group) LinearizableRead(ctx context.Context) error {
	index, err := g.ReadIndex(ctx)
	if err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, noticeLost)
	err = g.machine.WaitApplied(soon, index)
	cancel()
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The leader has applied it, and this replica has not heard that it is committed: the notice was lost. The leader says it again when it is asked.
	g.miss(index)
	g.node.elections.look()
	return g.machine.WaitApplied(ctx, index)
}

// noticeLost is how long a commit notice may take; it needs milliseconds.
const noticeLost = 200 * time.Millisecond

// join returns the round that begins next; false when the group is closing.
func (r *readIndex) join() (*readRound, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running && !r.group.enter() {
		return nil, false
	}
	if r.next == nil {
		r.next = &readRound{done: make(chan struct{})}
	}
	round := r.next
	if !r.running {
		r.running = true
		go r.run() // ends when nobody waits
	}
	return round, true
}

func (r *readIndex) run() {
	defer r.group.inflight.Done()
	for {
		r.mu.Lock()
		round := r.next
		r.next = nil
		if round == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(r.group.ctx, readRoundTimeout)
		round.index, round.err = r.ask(ctx)
		cancel()
		close(round.done)
	}
}

// askLeader carries out one round: here when this node serves, else by a call to the leader. It follows leadership as it moves.
func (g *Group) askLeader(ctx context.Context) (uint64, error) {
	var last error
	for {
		view, err := g.WaitLeadership(ctx, func(l Leadership) bool {
			return l.Role == Serving || l.Role == Follower && l.Leader != ""
		})
		if err != nil {
			if errors.Is(err, ErrClosed) {
				return 0, err
			}
			if last != nil {
				return 0, fmt.Errorf("%w: %w", ErrNoLeader, last)
			}
			return 0, ErrNoLeader
		}
		// Whoever does not lead any more in our view may hang; the next one is asked in the same round.
		asking, cancel := g.leadership.during(ctx, view)
		var index uint64
		if view.Role == Serving {
			index, last = g.confirmedIndex(asking)
		} else {
			index, last = g.callReadIndex(asking, view.Leader)
		}
		cancel()
		if last == nil {
			return index, nil
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%w: %w", ErrNoLeader, last)
		}
		// The leader we knew did not answer. Ask again when our view changes, or after a moment, when it may serve by then.
		retry, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		g.WaitLeadership(retry, view.over)
		cancel()
	}
}

// confirmedIndex returns an index that contains everything acknowledged before the call, if this replica leads.
func (g *Group) confirmedIndex(ctx context.Context) (uint64, error) {
	view := g.Leadership()
	if view.Role != Serving {
		return 0, fmt.Errorf("%w; it follows %q", ErrNotLeader, view.Leader)
	}
	index, _ := g.machine.Applied()
	if err := g.confirm(ctx, view); err != nil {
		return 0, err
	}
	return index, nil
}

func (g *Group) callReadIndex(ctx context.Context, leader string) (uint64, error) {
	raw, err := g.node.transport.Call(ctx, leader, methodReadIndex, []byte(g.key))
	if err != nil {
		return 0, err
	}
	if len(raw) < 8 {
		return 0, fmt.Errorf("read index of %s: answer has %d bytes, wanted 8 and what is committed", leader, len(raw))
	}
	commits, err := decodeCommits(raw[8:])
	if err != nil {
		return 0, fmt.Errorf("read index of %s: %w", leader, err)
	}
	for _, c := range commits {
		g.onCommit(leader, c)
	}
	return binary.BigEndian.Uint64(raw), nil
}

// answerReadIndex serves a peer's round. It joins our own readers' rounds, so all peers and local reads share barriers, but it
// never asks on: one hop only. With the index it says what is committed, so that the peer need not wait for a notice before it can apply it.
func (g *Group) answerReadIndex(ctx context.Context) ([]byte, error) {
	if view := g.Leadership(); view.Role != Serving {
		return nil, fmt.Errorf("%w; it follows %q", ErrNotLeader, view.Leader)
	}
	round, ok := g.answers.join()
	if !ok {
		return nil, ErrClosed
	}
	select {
	case <-round.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.ctx.Done():
		return nil, ErrClosed
	}
	if round.err != nil {
		return nil, round.err
	}
	var commits []commit
	if c, ok := g.lastCommit(); ok {
		commits = append(commits, c)
	}
	return append(binary.BigEndian.AppendUint64(nil, round.index), encodeCommits(commits)...), nil
}
