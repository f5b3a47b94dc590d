package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// Subjects between nodes, in the peers' account. <id> is a server id.
const (
	subjectHello    = "hello"
	subjectWrite    = "write"    // node.<id>.write: a forwarded request; its subject is in headerSubject
	subjectRead     = "read"     // node.<id>.read: a forwarded read of a store of which the asking node has no sound replica
	subjectHolds    = "holds"    // node.<id>.holds: do you serve this store and have its post?
	subjectRoutes   = "routes"   // node.<id>.routes: does your server know the post of this store's leader?
	subjectSettled  = "settled"  // node.<id>.settled: are your stores those of the configuration at this position?
	subjectTransfer = "transfer" // node.<id>.transfer: give up leadership of a store

	headerSubject = "Quorate-Subject"
)

// Time limits of questions between nodes.
const (
	forwardTimeout = 3 * time.Second
	askTimeout     = 500 * time.Millisecond
)

func nodeSubject(serverID, what string) string { return "node." + serverID + "." + what }

// peerMessage is a request that another node forwarded.
type peerMessage struct{ rawMessage }

func (m peerMessage) Subject() string     { return m.Msg.Header.Get(headerSubject) }
func (m peerMessage) Header() nats.Header { return nil }

// servePeers answers other nodes.
func (b *Bus) servePeers() error {
	for what, handle := range map[string]func(*nats.Msg){
		subjectWrite:    b.onForwarded,
		subjectRead:     b.onForwardedRead,
		subjectHolds:    b.onHolds,
		subjectRoutes:   b.inBackground(answering(b, b.onRoutes)),
		subjectSettled:  b.inBackground(answering(b, b.onSettled)),
		subjectTransfer: b.inBackground(b.onTransfer),
	} {
		sub, err := b.peers.Subscribe(nodeSubject(b.cfg.ServerID, what), handle)
		if err == nil {
			err = sub.SetPendingLimits(pendingMessages, pendingBytes)
		}
		if err != nil {
			return err
		}
	}
	return b.peers.FlushTimeout(startTimeout)
}

func (b *Bus) inBackground(handle func(*nats.Msg)) func(*nats.Msg) {
	return func(m *nats.Msg) {
		b.work.start(func() { handle(m) }) // ends with the question; each has a time limit
	}
}

// forward sends the request to the node that leads and passes its answer on. done is false when the request surely had no effect
// there; why says what the node said.
func (b *Bus) forward(r *request, w write, leader string) (done bool, why *api.Error) {
	data, err := w.payload()
	if err != nil {
		r.giveUp(api.ErrInternal.With("encode the request: %v", err))
		return true, nil
	}
	m := &nats.Msg{Subject: nodeSubject(leader, subjectWrite), Data: data, Header: nats.Header{headerSubject: []string{r.message.Subject()}}}
	limit := forwardTimeout
	if _, config := w.(*configWrite); config {
		limit = writeTimeout // it waits for other nodes
	}
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	answer, err := b.peers.RequestMsgWithContext(ctx, m)
	name := raftnode.ServerName(leader)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		e := api.ErrNoLeader.With("store %s is led by %s, which cannot be reached; nothing was written; retry shortly", r.subject.Store, name)
		e.Leader = name
		return false, e
	case errors.Is(err, nats.ErrMaxPayload):
		r.giveUp(api.ErrTooLarge.With("the request has %d bytes as nodes send it to one another, and at most %d are allowed; nothing was written; split it", len(data), api.MaxPayload))
		return true, nil
	case err != nil:
		r.fail(api.ErrOutcomeUnknown.With("the request was forwarded to %s, which leads store %s, and no answer came (%v); retry with the same event ids to find out",
			name, r.subject.Store, err))
		return true, nil
	}
	failed := replyError(answer.Data)
	for _, definite := range []*api.Error{api.ErrNotLeader, api.ErrNoLeader, api.ErrShuttingDown, api.ErrNotReady} {
		if failed != nil && errors.Is(failed, definite) {
			return false, failed
		}
	}
	if failed != nil && r.unsure != nil && !w.tells(failed) {
		r.fail(r.unsure)
	} else {
		r.send(answer.Data, answer.Header, failed)
	}
	return true, nil
}

func replyError(data []byte) *api.Error {
	var reply api.Reply
	if json.Unmarshal(data, &reply) != nil {
		return nil
	}
	return reply.Error
}

// onForwarded handles a request that another node forwarded: as if it had come here, but it goes no further.
func (b *Bus) onForwarded(m *nats.Msg) {
	r := b.accept(peerMessage{rawMessage{m}})
	if r == nil {
		return
	}
	r.forwarded = true
	p := b.post(r.subject.Store)
	if p == nil {
		r.fail(api.ErrNotLeader.With("node %s has store %s not open; nothing was written; retry", b.name, r.subject.Store))
		return
	}
	p.handle(r)
}

// forwardRead sends the read to another member, for a store whose replica is set aside or not open yet here, or turned out to be damaged. It reports whether one of them took it. A node
// that has just started has not heard the others yet, and its routes may not stand: then it asks them all again for a moment.
func (b *Bus) forwardRead(r *request, limit time.Duration) bool {
	for until := time.Now().Add(forwardTimeout); ; {
		if b.askMembers(r, limit) {
			return true
		}
		timer := time.NewTimer(askAgain)
		select {
		case <-timer.C:
		case <-b.ctx.Done():
		}
		timer.Stop()
		if b.ctx.Err() != nil || time.Now().After(until) {
			return false
		}
	}
}

// askMembers asks the members one after the other, those that are up first, and passes an answer on.
func (b *Bus) askMembers(r *request, limit time.Duration) (answered bool) {
	members, _ := b.backend.Load().Directory.Nodes()
	slices.SortStableFunc(members, func(x, y api.NodeInfo) int {
		switch {
		case x.Up == y.Up:
			return 0
		case x.Up:
			return -1
		}
		return 1
	})
	for _, member := range members {
		if member.ServerID == b.cfg.ServerID {
			continue
		}
		answer, failed, err := b.askMember(r, member.ServerID, limit)
		if err != nil || failed != nil && errors.Is(failed, api.ErrReplicaDamaged) {
			continue // a read changes nothing: the next member may be asked
		}
		r.send(answer.Data, answer.Header, failed)
		return true
	}
	return false
}

// askMember has the member answer the read: failed is its refusal.
func (b *Bus) askMember(r *request, serverID string, limit time.Duration) (answer *nats.Msg, failed *api.Error, err error) {
	m := &nats.Msg{Subject: nodeSubject(serverID, subjectRead), Data: r.message.Data(), Header: nats.Header{headerSubject: []string{r.message.Subject()}}}
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	if answer, err = b.peers.RequestMsgWithContext(ctx, m); err == nil {
		failed = replyError(answer.Data)
	}
	return answer, failed, err
}

// soundWithout reports whether so many other members answer the read soundly that they are a majority of the store's without this node.
func (b *Bus) soundWithout(r *request, s *stores.Store, limit time.Duration) bool {
	sound := 0
	for _, id := range s.Members() {
		if id == b.cfg.ServerID {
			continue
		}
		if _, failed, err := b.askMember(r, id, limit); err == nil && failed == nil {
			sound++
		}
	}
	return sound > len(s.Members())/2
}

func (b *Bus) onForwardedRead(m *nats.Msg) {
	if r := b.accept(peerMessage{rawMessage{m}}); r != nil {
		r.forwarded = true
		b.spawn(r, func() { b.readStore(r) })
	}
}

// SendHello gives a hello to every other node in reach.
func (b *Bus) SendHello(hello []byte) error { return b.peers.Publish(subjectHello, hello) }

// OnHello calls fn with the hellos of all nodes, this one included.
func (b *Bus) OnHello(fn func([]byte)) error {
	_, err := b.peers.Subscribe(subjectHello, func(m *nats.Msg) { fn(m.Data) })
	return err
}
