package raftnode

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// termChecks asks peers whether they are still in the term in which a replica here leads, for all groups that read at the same time in one call: one call a
// peer is under way, and what is asked meanwhile goes with the next one.
//
// This is the exchange of heartbeats of the read index (Ongaro 2014, §6.4). A yes is given after it was asked, and whoever is elected in a later term has
// taken a majority of the members into that term before it commits anything; so with a majority of yes, nothing was acknowledged in
// a later term when the question was asked.
type termChecks struct {
	node *Node

	mu    sync.Mutex // guards peers
	peers map[string]*termQueue
}

// termCheckTimeout bounds one call; a peer that needs longer counts as no answer.
const termCheckTimeout = 2 * time.Second

// maxTermChecks are in one call, whose question has 1 MiB at most.
const maxTermChecks = 8192

type termQueue struct {
	waiting []*termCheck
	running bool
}

type termCheck struct {
	key    string
	term   uint64
	answer func(yes bool, err error) // called once
}

func newTermChecks(n *Node) *termChecks {
	return &termChecks{node: n, peers: make(map[string]*termQueue)}
}

// ask has the peer asked; the check's answer is called when it is known.
func (t *termChecks) ask(peer string, c *termCheck) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.peers[peer]
	if q == nil {
		q = &termQueue{}
		t.peers[peer] = q
	}
	q.waiting = append(q.waiting, c)
	if !q.running {
		q.running = true
		t.node.wg.Add(1)
		go t.run(peer, q) // ends when nothing waits
	}
}

func (t *termChecks) run(peer string, q *termQueue) {
	defer t.node.wg.Done()
	for {
		t.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		if len(batch) == 0 {
			q.running = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		for part := range slices.Chunk(batch, maxTermChecks) {
			yes, err := t.call(peer, part)
			for i, c := range part {
				c.answer(err == nil && yes[i], err)
			}
		}
	}
}

// The question: number of groups · for each: key (text) · term (number). The answer: for each a byte, 1 for yes.
func (t *termChecks) call(peer string, batch []*termCheck) ([]bool, error) {
	b := binary.AppendUvarint(nil, uint64(len(batch)))
	for _, c := range batch {
		b = appendText(b, c.key)
		b = binary.AppendUvarint(b, c.term)
	}
	ctx, cancel := context.WithTimeout(t.node.ctx, termCheckTimeout)
	defer cancel()
	raw, err := t.node.transport.Call(ctx, peer, methodTerms, b)
	if err != nil {
		return nil, err
	}
	if len(raw) != len(batch) {
		return nil, fmt.Errorf("%s answers %d of %d checks", peer, len(raw), len(batch))
	}
	yes := make([]bool, len(raw))
	for i, v := range raw {
		yes[i] = v == 1
	}
	return yes, nil
}

// answerTerms is the handler of methodTerms.
func (n *Node) answerTerms(body []byte) ([]byte, error) {
	s := scanner{rest: body}
	count := s.count()
	out := make([]byte, 0, count)
	for range count {
		key, term := s.text(), s.number()
		yes := byte(0)
		// A replica that was not open yet when it voted has written its term down: raft has read it when the group is open.
		if g := n.group(key); g != nil && g.raft.CurrentTerm() == term {
			yes = 1
		}
		out = append(out, yes)
	}
	return out, s.end()
}

// confirm returns nil when this replica, which serves in the view's term, was still its group's leader at some time after the call.
func (g *Group) confirm(ctx context.Context, view Leadership) error {
	members := g.Members()
	need := majority(len(members)) - 1
	answers := make(chan error, len(members))
	asked := 0
	for _, id := range members {
		if id == g.node.ServerID() {
			continue
		}
		asked++
		g.node.terms.ask(id, &termCheck{key: g.key, term: view.Term, answer: func(yes bool, err error) {
			if err == nil && !yes {
				err = fmt.Errorf("%w: a member is not in term %d", ErrNotLeader, view.Term)
			}
			answers <- err
		}})
	}
	var last error
	for i := 0; need > 0; i++ {
		if i == asked {
			return last
		}
		select {
		case err := <-answers:
			if err == nil {
				need--
			} else {
				last = err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if g.raft.State() != raft.Leader || g.raft.CurrentTerm() != view.Term {
		return ErrNotLeader
	}
	return nil
}
