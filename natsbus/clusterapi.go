package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/cluster"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

func (b *Bus) readCluster(r *request) {
	be := b.backend.Load()
	var none struct{}
	if !r.noName() || !r.decode(&none) {
		return
	}
	switch r.subject.Verb {
	case "info":
		members, unlisted := be.Directory.Nodes()
		r.answer(&api.ClusterInfoResponse{
			Reply: api.Reply{Type: api.TypeClusterInfo}, Cluster: be.Directory.ClusterID(), Node: b.name, Version: api.Version,
			Prefix: b.cfg.Server.Prefix, Nodes: members, Unlisted: unlisted, Stores: len(be.Config.Records()),
		}, nil)
	case "leaders":
		r.answer(be.Directory.Leaders(led(be.Stores)), nil)
	case "health":
		r.answer(b.Health(), nil)
	default:
		r.fail(api.UnknownVerb(r.subject))
	}
}

func led(m *stores.Manager) []cluster.Led {
	var out []cluster.Led
	for _, s := range m.List() {
		out = append(out, s)
	}
	return out
}

// Health says whether the node is ready and which stores have a problem here.
func (b *Bus) Health() *api.HealthResponse {
	be := b.backend.Load()
	h := &api.HealthResponse{Reply: api.Reply{Type: api.TypeHealth}, Node: b.name}
	h.Ready, h.Reason = be.Ready()
	for _, s := range be.Stores.List() {
		if s.Leadership().Leader == "" {
			h.Stores = append(h.Stores, api.StoreHealth{Store: s.Name(), Status: "no_leader", Reason: "this node knows no leader; writes are refused until a majority elects one"})
		}
	}
	for _, f := range be.Stores.Failures() {
		status := "not_open" // yet: it is tried again
		if f.Lasts() {
			status = "damaged"
		}
		h.Stores = append(h.Stores, api.StoreHealth{Store: f.Spec.Name, Status: status, Reason: f.Err.Error()})
	}
	return h
}

func (b *Bus) handleClusterWrite(r *request) {
	if r.subject.Verb != "transfer" {
		r.fail(api.UnknownVerb(r.subject))
		return
	}
	b.spawn(r, func() {
		var t api.TransferRequest
		if !r.decode(&t) {
			return
		}
		v, err := b.transfer(r.subject.Name, t.To)
		r.answer(v, err)
	})
}

// transferMessage is a transfer on its way to the node that leads.
type transferMessage struct {
	Store string `json:"store"`
	To    string `json:"to"` // server id; empty: the best follower
}

// transfer moves a store's leadership and returns once the new leader serves.
func (b *Bus) transfer(store, to string) (*api.TransferResponse, *api.Error) {
	ctx, cancel := context.WithTimeout(b.ctx, writeTimeout)
	defer cancel()
	if store == "" {
		return nil, api.ErrBadName.With("the store name is missing; put it behind the verb: %s.<store>", b.subjects.Write(api.ClusterStore, "transfer", ""))
	}
	if store != api.ConfigStore {
		if err := api.CheckStoreName(store); err != nil {
			return nil, err
		}
	}
	s, aerr := b.store(ctx, store)
	if aerr != nil {
		return nil, aerr
	}
	target := ""
	if to != "" {
		i := slices.IndexFunc(s.Members(), func(id string) bool { return raftnode.ServerName(id) == to })
		if i < 0 {
			return nil, api.ErrUnknownNode.With("node %q is not a member of store %s; its members are %v", to, store, memberNames(s))
		}
		target = s.Members()[i]
	}
	hold, stop := context.WithTimeout(ctx, holdAtMost) // no longer than a write is kept
	view, err := s.WaitLeadership(hold, func(l raftnode.Leadership) bool { return l.Leader != "" && l.Role != raftnode.Elected })
	stop()
	if err != nil {
		return nil, api.ErrNoLeader.With("store %s has no leader to move; retry shortly", store)
	}
	from := view.Leader
	if target != from {
		if aerr := b.giveUp(ctx, s, view, transferMessage{Store: store, To: target}); aerr != nil {
			return nil, aerr
		}
	}
	for {
		view, err = s.WaitLeadership(ctx, func(l raftnode.Leadership) bool { return l.Leader != "" && (l.Leader != from || target == from) })
		if err != nil {
			return nil, api.ErrOutcomeUnknown.With("%s gave up store %s, but no new leader is known yet; it will be shortly; look at cluster.read.leaders before you transfer again", raftnode.ServerName(from), store)
		}
		if b.leaderHolds(ctx, view, about(s)) {
			break
		}
		again, stop := context.WithTimeout(ctx, askAgain)
		s.WaitLeadership(again, func(l raftnode.Leadership) bool { return l != view })
		stop()
		if ctx.Err() != nil {
			return nil, api.ErrOutcomeUnknown.With("store %s is led by %s now, which does not take its requests yet; look at cluster.read.leaders before you transfer again", store, raftnode.ServerName(view.Leader))
		}
	}
	return &api.TransferResponse{
		Reply: api.Reply{Type: api.TypeTransfer}, Store: store, From: raftnode.ServerName(from), Leader: raftnode.ServerName(view.Leader), Term: view.Term,
	}, nil
}

func memberNames(s *stores.Store) []string {
	var out []string
	for _, id := range s.Members() {
		out = append(out, raftnode.ServerName(id))
	}
	return out
}

// giveUp has the leader hand over: this node, or another that is asked.
func (b *Bus) giveUp(ctx context.Context, s *stores.Store, view raftnode.Leadership, t transferMessage) *api.Error {
	if view.Leader == b.cfg.ServerID {
		return transferHere(s, t)
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return api.AsError(err)
	}
	m, err := b.peers.RequestWithContext(ctx, nodeSubject(view.Leader, subjectTransfer), raw)
	if err != nil {
		return api.ErrTransferFailed.With("%s, which leads store %s, did not answer: %v", raftnode.ServerName(view.Leader), t.Store, err)
	}
	return replyError(m.Data)
}

func transferHere(s *stores.Store, t transferMessage) *api.Error {
	err := s.Transfer(t.To)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raftnode.ErrNotLeader):
		return api.ErrNotLeader.With("leadership of store %s moved by itself meanwhile; look at cluster.read.leaders and try again", t.Store)
	}
	return api.ErrTransferFailed.With("store %s stays where it is: %v; is the new leader up and in touch?", t.Store, err)
}

func (b *Bus) onTransfer(m *nats.Msg) {
	var t transferMessage
	reply := api.Reply{Type: api.TypeTransfer}
	if err := json.Unmarshal(m.Data, &t); err != nil {
		reply.Error = api.ErrBadRequest.With("%v", err)
	} else if s, ok := b.backend.Load().Stores.Get(t.Store); !ok {
		reply.Error = api.ErrNotLeader.With("node %s has store %s not open", b.name, t.Store)
	} else {
		reply.Error = transferHere(s, t)
	}
	if raw, err := api.Marshal(reply); err == nil {
		m.Respond(raw)
	}
}
