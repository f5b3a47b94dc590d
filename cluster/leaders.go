package cluster

import (
	"time"

	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// Led is a store as far as leadership is concerned.
type Led interface {
	Name() string
	Leadership() raftnode.Leadership
	Members() []string // server ids
}

// Leaders says who leads what, as this node sees it.
func (d *Directory) Leaders(stores []Led) *api.LeadersResponse {
	res := &api.LeadersResponse{Reply: api.Reply{Type: api.TypeLeaders}, Stores: []api.StoreLeader{}, Nodes: []api.NodeLeads{}}
	leads := map[string]int{}
	for _, s := range stores {
		l := s.Leadership()
		leader := raftnode.ServerName(l.Leader)
		if leader != "" {
			leads[leader]++
		}
		res.Stores = append(res.Stores, api.StoreLeader{
			Store: s.Name(), Leader: leader, Term: l.Term, Since: l.Since.UTC(), Members: names(s.Members()), Elections: l.Changes,
		})
	}
	members, _ := d.Nodes()
	for _, m := range members {
		res.Nodes = append(res.Nodes, api.NodeLeads{Node: m.Name, Leads: leads[m.Name], Up: m.Up})
	}
	return res
}

// NewLeaderEvent describes a gain or loss of leadership by the node concerned.
func NewLeaderEvent(kind, store, node string, l raftnode.Leadership, now time.Time) *api.LeaderEvent {
	e := &api.LeaderEvent{
		Type: api.TypeLeaderEvent, ID: nuid.Next(), Time: now.UTC(), Kind: kind, Store: store, Node: node, Term: l.Term, Reason: l.Reason,
	}
	if kind == api.LeaderElected && raftnode.ServerName(l.Previous) != node {
		e.Previous = raftnode.ServerName(l.Previous)
	}
	return e
}

// NewMemberEvent describes that a node was seen to come or go.
func NewMemberEvent(node, by string, up bool, now time.Time) *api.MemberEvent {
	kind := "down"
	if up {
		kind = "up"
	}
	return &api.MemberEvent{Type: api.TypeMemberEvent, ID: nuid.Next(), Time: now.UTC(), Kind: kind, Node: node, By: by}
}
