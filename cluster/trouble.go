package cluster

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// trouble is what a formed node hears that makes it unfit to serve, however well its own cluster is. It ends when the node that causes it has said goodbye, or has not been heard for downAfter.
type trouble struct {
	reason string // empty: none
	// foreign says that another cluster is connected to this one. At NATS both are one: a request goes to a node of either, and each would carry out a part of what clients ask for.
	foreign bool
	// warning is about what does not keep this node from serving; empty: nothing.
	warning string
}

// troubleOf is a pure function of this node's hello and the fresh ones of all others.
//
// Of two clusters that are connected the one with fewer members refuses requests; the other goes on, so that one node that was started with a wrong --join does not end the service of five. What comes to a node of the
// smaller one is answered not_ready, and a client tries again. When they have as many members, nobody can tell which is meant, and both refuse.
func troubleOf(self Hello, others []Hello) trouble {
	if self.State != Formed {
		return trouble{} // formation waits, and says why
	}
	sort.Slice(others, func(i, j int) bool { return others[i].ServerID < others[j].ServerID })
	var t trouble
	for _, h := range others {
		if h.State != Formed || h.Plan.Cluster == self.Plan.Cluster {
			continue
		}
		what := fmt.Sprintf("node %s (%s) of the cluster %s (%s) is connected to this one, %s (%s): a --join of one names a node of the other; remove it and restart that node. Until then the cluster with fewer members refuses requests, both when they have as many; clusters that share a network should each have a --cluster-name",
			h.Name, h.Raft, h.Plan.Cluster, strings.Join(names(h.Plan.Members), ", "), self.Plan.Cluster, strings.Join(names(self.Plan.Members), ", "))
		if len(self.Plan.Members) <= len(h.Plan.Members) {
			return trouble{foreign: true, reason: what}
		}
		if t.warning == "" {
			t.warning = what
		}
	}
	agree := 1
	for _, h := range others {
		if slices.Contains(self.Plan.Members, h.ServerID) && !otherPrefix(self, h) {
			agree++
		}
	}
	for _, h := range others {
		if slices.Contains(self.Plan.Members, h.ServerID) && otherPrefix(self, h) {
			what := fmt.Sprintf("node %s uses --prefix %s and this node, %s, uses %s: writes to stores that the other leads get no answer; restart the one that is wrong with the same --prefix as the others", h.Name, h.Prefix, self.Name, self.Prefix)
			if agree <= len(self.Plan.Members)/2 {
				return trouble{warning: t.warning, reason: what}
			}
			if t.warning == "" { // the other one is the odd one, and says so: it is not ready
				t.warning = what
			}
		}
	}
	return t
}

// otherPrefix reports whether the two say that they use different prefixes. Nodes of earlier builds do not say.
func otherPrefix(a, b Hello) bool { return a.Prefix != "" && b.Prefix != "" && a.Prefix != b.Prefix }

// look notes whether there is trouble, and says so when that has changed.
func (d *Directory) look() {
	self := d.hello()
	d.mu.Lock()
	defer d.mu.Unlock()
	var others []Hello
	for _, s := range d.seen {
		if s.up {
			others = append(others, s.hello)
		}
	}
	now := troubleOf(self, others)
	before := d.trouble.Swap(&now)
	switch {
	case before != nil && *before == now, before == nil && now == trouble{}:
	case now.reason != "":
		d.cfg.Logger.Error("the node is not ready", "node", self.Name, "reason", now.reason)
	case now.warning != "":
		d.cfg.Logger.Error("a node does not fit in, and what it should answer is refused or not answered", "node", self.Name, "reason", now.warning)
	default:
		d.cfg.Logger.Info("the trouble is over", "node", self.Name, "reason", before.reason+before.warning)
	}
}

// Trouble says why this node should not serve though its cluster is formed; empty when nothing is known.
func (d *Directory) Trouble() string {
	if t := d.trouble.Load(); t != nil {
		return t.reason
	}
	return ""
}

// Foreign says which other cluster, with at least as many members, is connected to this one, and what to do; empty when there is none. While there is one, whatever a client asks for may go to either.
func (d *Directory) Foreign() string {
	if t := d.trouble.Load(); t != nil && t.foreign {
		return t.reason
	}
	return ""
}
