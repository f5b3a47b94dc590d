package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/quorate/quorate/raftnode"
)

// State is how far a disk has come in forming its cluster.
type State string

// A disk is blank, has promised to be in a plan (prepared), or belongs to a cluster for ever (formed).
const (
	Blank    State = "blank"
	Prepared State = "prepared"
	Formed   State = "formed"
)

// Plan is a cluster's id and first members. The id is a digest of the members' server ids, so the same blank disks always agree on the same plan,
// however often formation is interrupted.
type Plan struct {
	Cluster string   `json:"cluster"`
	Members []string `json:"members"` // server ids, sorted
}

func planOf(members []string) Plan {
	members = slices.Clone(members)
	sort.Strings(members)
	sum := sha256.Sum256([]byte(strings.Join(members, "\n")))
	return Plan{Cluster: hex.EncodeToString(sum[:8]), Members: members}
}

func (p Plan) equal(q Plan) bool { return p.Cluster == q.Cluster && slices.Equal(p.Members, q.Members) }

// Hello is what a node says of itself, over and over.
type Hello struct {
	Name     string `json:"name"`
	ServerID string `json:"server_id"`
	Raft     string `json:"raft"` // address of its Raft listener
	Version  string `json:"version"`
	// Commands is the highest kind of command in a store's log that the node can apply; 0 from nodes that do not say it yet, which is 1.
	Commands int    `json:"commands,omitempty"`
	Prefix   string `json:"prefix,omitempty"` // of the subjects it answers; empty from nodes that do not say it yet
	Expect   int    `json:"expect"`           // how many nodes form the cluster
	State    State  `json:"state"`
	Plan     Plan   `json:"plan"`
	Leaving  bool   `json:"leaving,omitempty"` // the node is stopping on purpose
}

// step is what a node does next: move to a state with a plan, or wait for a reason it can tell its operator.
type step struct {
	state State
	plan  Plan
	wait  string
}

// next is formation's rule, a pure function of this node's hello and the fresh ones of all others.
//
//	coordinator (lowest name)              the others
//	blank, sees all blank or prepared
//	  └─► prepared(plan) ─────hello─────►  same plan from what I see? └─► prepared(plan)
//	sees all prepared(plan)
//	  └─► formed(plan)   ─────hello─────►  prepared(plan)? └─► formed(plan)
//
// A crash anywhere leaves promises on disk, not clusters: nobody forms before every member has promised the same plan, and the coordinator's own disk says
// formed before any other does. A promise may be replaced (a disk was swapped before the end) only while all expected nodes are here and none has formed; a majority of
// the old plan can then not exist.
func next(self Hello, others []Hello) step {
	if self.State == Formed {
		return step{state: Formed, plan: self.Plan}
	}
	if s, is := besideFormed(self, others); is {
		return s
	}
	all := append([]Hello{self}, others...)
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	ids := make([]string, len(all))
	for i, h := range all {
		ids[i] = h.ServerID
		if i > 0 && all[i-1].Name == h.Name {
			return step{wait: fmt.Sprintf("two nodes are named %s (%s and %s); every node needs its own --name", h.Name, all[i-1].ServerID, h.ServerID)}
		}
		if h.Expect != self.Expect {
			return step{wait: fmt.Sprintf("%s expects %d nodes and %s expects %d; start all with the same --expect", h.Name, h.Expect, self.Name, self.Expect)}
		}
		if otherPrefix(h, self) {
			return step{wait: fmt.Sprintf("%s uses --prefix %s and %s uses %s; start all with the same --prefix", h.Name, h.Prefix, self.Name, self.Prefix)}
		}
	}
	switch {
	case len(all) < self.Expect:
		return step{wait: fmt.Sprintf("sees %d of %d nodes: %s", len(all), self.Expect, strings.Join(names(ids), ", "))}
	case len(all) > self.Expect:
		return step{wait: fmt.Sprintf("sees %d nodes (%s) where --expect says %d", len(all), strings.Join(names(ids), ", "), self.Expect)}
	}
	plan := planOf(ids)
	coordinator := all[0]
	prepared := self.State == Prepared && self.Plan.equal(plan)
	if self.Name != coordinator.Name {
		if !prepared && coordinator.State == Prepared && coordinator.Plan.equal(plan) {
			return step{state: Prepared, plan: plan}
		}
		return step{wait: "waits for the coordinator " + coordinator.Name}
	}
	if !prepared {
		return step{state: Prepared, plan: plan}
	}
	for _, h := range all {
		if h.State != Prepared || !h.Plan.equal(plan) {
			return step{wait: "waits for the promise of " + h.Name}
		}
	}
	return step{state: Formed, plan: plan}
}

// besideFormed is what a disk does that belongs to no cluster when others say that they do; false when nobody does.
//
// A plan is formed only when every member has promised it, so a disk is in the plan that it has promised. It may have promised one and then another, and only the latter is on it: either may be formed, each
// by a disk that was lost for a while. So it joins another plan than its own only when a majority is in it without this disk; were its own one formed, it could not make that a majority any more. That holds
// as long as no second disk was swapped meanwhile: promises can be replaced, and so two nodes that each come back with another disk can still be in two plans.
func besideFormed(self Hello, others []Hello) (s step, is bool) {
	var reason string
	for _, h := range others {
		if h.State != Formed {
			continue
		}
		promised := self.State == Prepared && slices.Contains(h.Plan.Members, self.ServerID)
		if promised && (h.Plan.equal(self.Plan) || 2*formedIn(h.Plan, others) > len(h.Plan.Members)) {
			return step{state: Formed, plan: h.Plan}, true
		}
		if reason != "" {
			continue
		}
		of := fmt.Sprintf("cluster %s is formed already, of %s; the disk of this node (%s)", h.Plan.Cluster, strings.Join(names(h.Plan.Members), ", "), self.ServerID)
		if reason = of + " is new to it and does not join by itself"; promised {
			reason = fmt.Sprintf("%s has promised since to be in cluster %s, which may be formed too, and joins this one when a majority is in it without it; "+
				"when nobody is in that other one, nothing has been written: move the data directories of all nodes away and start anew", of, self.Plan.Cluster)
		}
	}
	return step{wait: reason}, reason != ""
}

// formedIn counts the plan's members that say that they are formed in it.
func formedIn(p Plan, hellos []Hello) (n int) {
	for _, h := range hellos {
		if h.State == Formed && h.Plan.equal(p) && slices.Contains(p.Members, h.ServerID) {
			n++
		}
	}
	return n
}

func names(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = raftnode.ServerName(id)
	}
	return out
}
