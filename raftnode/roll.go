package raftnode

import (
	"encoding/binary"
	"hash/fnv"
	"slices"

	"github.com/hashicorp/raft"
)

// A node now and then calls the roll: it tells every peer which groups it leads, all in one message, and what is committed in each. That is what raft's own
// heartbeats and commit times are for, at a cost that does not go with the number of groups, so those are long (Timing.Heartbeat).
//
//   - A follower that missed a commit, since messages were lost, hears of it again (see notices).
//   - A group whose leader does not name it, twice in one term, may have lost that leader without a word: its process lives, so the detector does not miss it. The members are
//     asked (see elections), and if it does lead, all stays as it is.
//
// The message:
//
//	parts (number) · part (number) · commits of the groups of this part, as in a notice
//
// A node that leads very many groups says it in parts; partOf tells which group is in which.
const rollPart = 4096 // groups in one message, about

// callRoll sends every peer its roll.
func (s *notices) callRoll() {
	led := make(map[string][]commit)
	for _, g := range s.node.openGroups() {
		c, ok := g.lastCommit()
		for _, id := range g.Members() {
			if id == s.node.ServerID() {
				continue
			}
			if led[id] == nil {
				led[id] = []commit{} // that this node leads nothing is told too
			}
			if ok {
				led[id] = append(led[id], c)
			}
		}
	}
	for peer, list := range led {
		parts := 1 + len(list)/rollPart
		for part := range parts {
			of := slices.DeleteFunc(slices.Clone(list), func(c commit) bool { return partOf(c.key, parts) != part })
			b := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(parts)), uint64(part))
			s.node.send(peer, methodRoll, append(b, encodeCommits(of)...))
		}
	}
}

func partOf(key string, parts int) int {
	if parts <= 1 {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	return int(h.Sum32() % uint32(parts))
}

// onRoll takes a peer's roll.
func (n *Node) onRoll(from string, body []byte) error {
	s := scanner{rest: body}
	parts, part := s.number(), s.number()
	if s.bad || part >= parts || parts > 1<<16 {
		return errShortMessage
	}
	list, err := decodeCommits(s.rest)
	if err != nil {
		return err
	}
	named := make(map[string]bool, len(list))
	for _, c := range list {
		named[c.key] = true
		if g := n.group(c.key); g != nil {
			g.unnamed.Store(0)
			g.onCommit(from, c)
		}
	}
	look := false
	for _, g := range n.openGroups() {
		if partOf(g.key, int(parts)) == int(part) && !named[g.key] && g.follows(from) {
			look = g.notNamed() || look
		}
	}
	if look {
		n.elections.look()
	}
	return nil
}

// follows reports whether raft takes the server for the group's leader.
func (g *Group) follows(id string) bool {
	_, leader := g.raft.LeaderWithID()
	return leader == raft.ServerID(id)
}

// notNamed notes that the leader did not name the group, and reports whether it is taken for lost: when that is so for the second time in a term. The first time it
// may have been elected a moment ago and not serve yet.
func (g *Group) notNamed() (lost bool) {
	term := g.raft.CurrentTerm()
	if g.unnamed.Swap(term) != term {
		return false
	}
	g.followed.Store(resigned)
	return true
}
