package raftnode

import (
	"encoding/binary"
	"time"
)

// A question how far the asked node's replicas are, and its answer:
//
//	number of groups · for each: key (text) · flags (1 byte) · term · term of the last entry · index of the last entry (numbers)
//
// In the question the values are those of the asking replica.
const (
	flagOpen      = 1 << 0
	flagLeads     = 1 << 1
	flagStands    = 1 << 2
	flagQueued    = 1 << 3
	flagCandidate = 1 << 4
)

type keyedStanding struct {
	key string
	s   standing
}

func appendStanding(b []byte, key string, s standing) []byte {
	b = appendText(b, key)
	var flags byte
	if s.open {
		flags |= flagOpen
	}
	if s.leads {
		flags |= flagLeads
	}
	if s.stands {
		flags |= flagStands
	}
	if s.queued {
		flags |= flagQueued
	}
	if s.candidate {
		flags |= flagCandidate
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, s.term)
	b = binary.AppendUvarint(b, s.lastTerm)
	return binary.AppendUvarint(b, s.lastIndex)
}

func encodeStandings(groups []*Group, of map[*Group]standing) []byte {
	b := binary.AppendUvarint(nil, uint64(len(groups)))
	for _, g := range groups {
		b = appendStanding(b, g.key, of[g])
	}
	return b
}

func decodeStandings(raw []byte) ([]keyedStanding, error) {
	s := scanner{rest: raw}
	n := s.count()
	out := make([]keyedStanding, 0, n)
	for range n {
		var k keyedStanding
		k.key = s.text()
		flags := s.number()
		k.s = standing{open: flags&flagOpen != 0, leads: flags&flagLeads != 0, stands: flags&flagStands != 0, queued: flags&flagQueued != 0, candidate: flags&flagCandidate != 0,
			term: s.number(), lastTerm: s.number(), lastIndex: s.number()}
		out = append(out, k)
	}
	return out, s.end()
}

// answerStandings is the handler of methodStanding. A leader that is asked sends the asker what it misses: who asks does not know it, or is behind.
func (n *Node) answerStandings(from string, body []byte) ([]byte, error) {
	asked, err := decodeStandings(body)
	if err != nil {
		return nil, err
	}
	b := binary.AppendUvarint(nil, uint64(len(asked)))
	orphan := false
	for _, q := range asked {
		var s standing
		if g := n.group(q.key); g != nil {
			s = g.standing()
			if s.leads {
				g.remind(from, g.misses(q.s.lastIndex, s.lastIndex))
			} else if _, leader := g.raft.LeaderWithID(); string(leader) == from && !q.s.leads && !q.s.stands {
				g.followed.Store(resigned) // whom this replica takes for the leader looks for one
				orphan = true
			} else if leader == "" {
				orphan = true
			}
		}
		b = appendStanding(b, q.key, s)
	}
	if orphan {
		n.elections.look() // they are ready; so are we
	}
	return b, nil
}

// misses returns how many of this replica's entries, up to last, a follower misses that has those up to has: one at most when it needs the state, which entries do not bring.
func (g *Group) misses(has, last uint64) uint64 {
	n := last - min(has, last)
	if first, err := g.store.FirstIndex(); err != nil || has+1 < first {
		n = min(n, 1)
	}
	return n
}

// remind tells a follower that this replica leads, and has raft send the entries that it misses: raft's own next try may be Timing.Commit away, and a new
// entry is what makes it look at all followers now. It then sends maxAppendEntries of what they miss and waits for the next one, so a follower that is far behind, in a store that nobody writes to any more,
// takes as many.
func (g *Group) remind(follower string, missing uint64) {
	g.node.notices.remind(g, follower)
	if missing == 0 {
		return
	}
	now := time.Now()
	last := g.nudged.Load()
	if now.UnixNano()-last >= int64(behindFor) && g.nudged.CompareAndSwap(last, now.UnixNano()) {
		g.nudge(min(1+missing/maxAppendEntries, maxNudges))
	}
}
