package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// What the nodes are asked before the change of a store is answered.
//
// A name that is dropped and created again is another store. Nodes learn of it one after the other, and until a majority has closed the old store that one goes on: it acknowledges what is gone a
// moment later. A node closes the old store before it opens the new one, so as soon as the new one has a leader, or a majority says that it is where the
// drop is, nothing is acknowledged by the old one any more, whoever else still has it. The rest are asked so that requests that come by them are answered well.

// Time limits of these questions.
const (
	laterAfter = 1 * time.Second // a node that is asked says by then that it takes longer
	silentFor  = 2 * time.Second // who has said nothing by then hangs, and is left out
	slowFor    = 4 * time.Second // who has only said that it takes longer is left out then; a client gives up after five
)

// Answers to them. Any other says why the node will not get there.
const (
	answerYes   = "yes"
	answerLater = "later"
)

// storeQuestion is about a store since an incarnation of its name: what came before is another store.
type storeQuestion struct {
	Store       string `json:"store"`
	Incarnation uint64 `json:"incarnation"`
}

func about(s *stores.Store) storeQuestion { return storeQuestion{s.Name(), s.Spec().Incarnation} }

// settledQuestion asks whether the node has opened and closed its stores as the configuration says at a position.
type settledQuestion struct {
	Position uint64 `json:"position"`
}

// answering makes a handler of fn, which returns once the answer is yes, or why it will not be.
func answering[Q any](b *Bus, fn func(ctx context.Context, q Q) error) func(*nats.Msg) {
	return func(m *nats.Msg) {
		ctx, cancel := context.WithTimeout(b.ctx, laterAfter)
		defer cancel()
		var q Q
		err := json.Unmarshal(m.Data, &q)
		if err == nil {
			err = fn(ctx, q)
		}
		answer := answerYes
		switch {
		case err != nil && ctx.Err() != nil:
			answer = answerLater
		case err != nil:
			answer = err.Error()
		}
		m.Respond([]byte(answer))
	}
}

// askOthers asks the other members that are up, side by side, until each has said yes or is left out: it cannot be reached, is silent for silentFor, needs longer than slowFor, or says why it cannot.
// It returns how many have said yes.
func (b *Bus) askOthers(ctx context.Context, what string, question any) (yes int) {
	raw, err := json.Marshal(question)
	if err != nil {
		b.log.Error("a question to the other nodes", "error", err)
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, slowFor)
	defer cancel()
	var (
		wg sync.WaitGroup
		mu sync.Mutex // guards yes
	)
	members, _ := b.backend.Load().Directory.Nodes()
	for _, member := range members {
		if !member.Up || member.ServerID == b.cfg.ServerID {
			continue
		}
		wg.Go(func() { // ends with ctx at the latest
			if err := b.askUntil(ctx, nodeSubject(member.ServerID, what), raw); err != nil {
				b.log.Info("a node is not waited for", "node", member.Name, "question", what, "error", err)
				return
			}
			mu.Lock()
			yes++
			mu.Unlock()
		})
	}
	wg.Wait()
	return yes
}

// askUntil asks until the answer is not "later".
func (b *Bus) askUntil(ctx context.Context, subject string, question []byte) error {
	for {
		try, cancel := context.WithTimeout(ctx, silentFor)
		m, err := b.peers.RequestWithContext(try, subject, question)
		cancel()
		switch {
		case err != nil:
			return err
		case string(m.Data) == answerYes:
			return nil
		case string(m.Data) != answerLater:
			return errors.New(string(m.Data))
		}
	}
}

// settled returns once this node and a majority have opened and closed their stores as the configuration says at the position, and the others too unless they are left out.
func (b *Bus) settled(ctx context.Context, position uint64) error {
	be := b.backend.Load()
	own, cancel := context.WithTimeout(ctx, slowFor)
	defer cancel()
	others := make(chan int, 1)
	go func() { others <- b.askOthers(own, subjectSettled, settledQuestion{position}) }() // ends with own
	n := 0
	if be.Config.Settled(own, position) == nil {
		n++
	}
	n += <-others
	if members := len(be.Directory.Members()); n <= members/2 {
		return fmt.Errorf("%d of %d nodes have carried it out", n, members)
	}
	return nil
}

func (b *Bus) onSettled(ctx context.Context, q settledQuestion) error {
	if err := b.backend.Load().Config.Settled(ctx, q.Position); err != nil { // returned as it is, nil would be an error: it has a type
		return err
	}
	return nil
}

// onRoutes answers once this node's server knows the post of the store's leader.
func (b *Bus) onRoutes(ctx context.Context, q storeQuestion) error {
	_, err := b.awaitServing(ctx, q)
	return err
}

// awaitServing returns the leader of the store, once it serves and this node can route requests to it.
func (b *Bus) awaitServing(ctx context.Context, q storeQuestion) (leader string, err error) {
	for {
		s, err := b.backend.Load().Stores.Wait(ctx, q.Store, q.Incarnation)
		if err != nil {
			return "", err
		}
		view, err := s.WaitLeadership(ctx, func(l raftnode.Leadership) bool { return l.Leader != "" })
		if err != nil && !s.IsClosing() { // else another one may come
			return "", err
		}
		// A post of this store has replaced that of an older one here, and there are no posts but in reach. The leader is asked last: what it has subscribed to before it
		// says yes, this node's server knows when it hears that.
		p := b.post(q.Store)
		if err == nil && p != nil && p.store == s && b.reaches(q.Store) && b.leaderHolds(ctx, view, q) {
			return view.Leader, nil
		}
		timer := time.NewTimer(10 * time.Millisecond) // the server does not tell when interest arrives
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		}
	}
}

func (b *Bus) leaderHolds(ctx context.Context, view raftnode.Leadership, q storeQuestion) bool {
	if view.Leader == b.cfg.ServerID {
		return b.holds(q)
	}
	return b.askHolds(ctx, view.Leader, q)
}

// holds reports whether this node serves the store and has its post.
func (b *Bus) holds(q storeQuestion) bool {
	p := b.post(q.Store)
	return p != nil && p.store.Spec().Incarnation >= q.Incarnation && p.serves() && !p.isDropped()
}

func (b *Bus) onHolds(m *nats.Msg) {
	var q storeQuestion
	answer := "no"
	if json.Unmarshal(m.Data, &q) == nil && b.holds(q) {
		answer = answerYes
	}
	m.Respond([]byte(answer))
}

// askHolds reports whether the node says that it serves the store and has its post.
func (b *Bus) askHolds(ctx context.Context, serverID string, q storeQuestion) bool {
	raw, err := json.Marshal(q)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := b.peers.RequestWithContext(ctx, nodeSubject(serverID, subjectHolds), raw)
	return err == nil && string(m.Data) == answerYes
}
