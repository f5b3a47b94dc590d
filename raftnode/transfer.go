package raftnode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

const (
	transferWait   = 3 * time.Second       // how long the leader waits for its successor to catch up and to win, or for its own election
	successorWait  = time.Second           // bounds how long members are asked whether they can take over
	candidateAgain = 20 * time.Millisecond // between two questions whether a member has heard of the next term
)

// Transfer moves leadership to the member with the id, or to the one that has applied most when it is empty. It returns when the old leader
// has stepped down or the attempt has failed; who leads then, WaitLeadership tells.
//
// Only a member that answers is asked to take over. hashicorp/raft waits for the target to catch up and to win, and the leader refuses all writes meanwhile,
// for Timing.Election at worst: so after transferWait this replica steps down by itself, and whoever is the most up to date takes over.
func (g *Group) Transfer(to string) error {
	if !g.enter() {
		return ErrClosed
	}
	defer g.inflight.Done()
	target, err := g.successor(to)
	if err == nil && target.candidate {
		if err = g.renew(); err == nil {
			target, err = g.follower(to)
		}
	}
	if err != nil {
		return err
	}
	g.leadership.expect("transfer")
	future := g.raft.LeadershipTransferToServer(raft.ServerID(target.id), raft.ServerAddress(target.id))
	late := time.AfterFunc(transferWait, func() { g.stepDown("transfer") })
	err = future.Error()
	late.Stop()
	if err == nil {
		return nil
	}
	g.leadership.expect("")
	if errors.Is(err, raft.ErrNotLeader) {
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	return err
}

// renew has this leader elected once more, in the next term. A member that lost the election of this term to it may be a candidate still: raft 1.8.0 keeps one that was told to stand in
// that state until it hears of a later term or Timing.Election is over. It takes the leader's entries meanwhile, but ignores that it should take over.
func (g *Group) renew() error {
	before := g.Leadership()
	if before.Role != Serving {
		return ErrNotLeader
	}
	g.leadership.expect("transfer")
	if err := g.timeoutNow(); err != nil {
		g.leadership.expect("")
		return err
	}
	ctx, cancel := context.WithTimeout(g.ctx, transferWait)
	defer cancel()
	now, err := g.WaitLeadership(ctx, func(l Leadership) bool {
		return l.Term > before.Term && (l.Role == Serving || l.Role == Follower && l.Leader != "")
	})
	switch {
	case err != nil:
		return fmt.Errorf("this node stood once more, for the successor is a candidate, and was not elected: %w", err)
	case now.Role != Serving:
		return fmt.Errorf("%w: %s was elected meanwhile", ErrNotLeader, ServerName(now.Leader))
	}
	return nil
}

// follower is successor once the next term has reached it.
func (g *Group) follower(to string) (successor, error) {
	again := time.NewTicker(candidateAgain)
	defer again.Stop()
	for latest := time.Now().Add(successorWait); ; {
		target, err := g.successor(to)
		switch {
		case err != nil || !target.candidate:
			return target, err
		case time.Now().After(latest):
			return target, fmt.Errorf("%s has not heard yet who leads; try again", ServerName(target.id))
		}
		select {
		case <-again.C:
		case <-g.ctx.Done():
			return target, ErrClosed
		}
	}
}

// successor is a member that could take over.
type successor struct {
	id        string
	applied   uint64
	candidate bool // raft ignores there that it should
}

// better says whether a should rather take over than b.
func (a successor) better(b successor) bool {
	if a.candidate != b.candidate {
		return b.candidate
	}
	return a.applied > b.applied
}

// successor returns the member with the id if it answers, or the best of all others that answer.
func (g *Group) successor(to string) (successor, error) {
	ctx, cancel := context.WithTimeout(g.ctx, successorWait)
	defer cancel()
	type answer struct {
		successor
		err error
	}
	var asked int
	answers := make(chan answer, len(g.Members()))
	for _, id := range g.Members() {
		if id == g.node.ServerID() || to != "" && id != to {
			continue
		}
		asked++
		go func() { // ends with the answer, or with ctx
			raw, err := g.node.transport.Call(ctx, id, methodIsOpen, []byte(g.key))
			a := answer{successor{id: id}, err}
			if err == nil {
				a.applied, a.candidate, a.err = decodeIsOpen(raw)
			}
			answers <- a
		}()
	}
	if asked == 0 && to != "" {
		return successor{}, fmt.Errorf("%w: %s", ErrNotMember, to)
	}
	best := answer{err: errors.New("there is no other member")}
	for range asked {
		if a := <-answers; best.err != nil || a.err == nil && a.better(best.successor) {
			best = a
		}
	}
	if best.err != nil {
		return successor{}, fmt.Errorf("no member that could take over answers: %w", best.err)
	}
	return best.successor, nil
}

// answerIsOpen is the handler of methodIsOpen: the applied index, 8 bytes, and a byte more from a candidate.
func (g *Group) answerIsOpen() []byte {
	applied, _ := g.machine.Applied()
	b := binary.BigEndian.AppendUint64(nil, applied)
	if g.raft.State() == raft.Candidate {
		b = append(b, 1)
	}
	return b
}

func decodeIsOpen(raw []byte) (applied uint64, candidate bool, err error) {
	if len(raw) != 8 && len(raw) != 9 {
		return 0, false, fmt.Errorf("answer has %d bytes, wanted 8 or 9", len(raw))
	}
	return binary.BigEndian.Uint64(raw), len(raw) == 9, nil
}
