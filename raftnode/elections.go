package raftnode

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// elections gives groups that have lost their leader a new one at once, and new groups their first: Raft's own timers are long (Timing.Heartbeat), so
// that idle groups cost nothing, and are the safety net only.
//
// A group is an orphan when this replica knows no leader of it, or one that a majority of the members thinks gone, or one whose process has been started
// anew. For all orphans together each reachable member is asked once how far its replica is and whether it leads; with answers from a majority, the most
// up-to-date replica stands at once (TimeoutNow into its own raft; Ongaro 2014, §3.10). All members choose by the same rule, so usually one stands. The choice is only a
// hint: whether it wins, Raft's votes decide, and a choice made from old answers costs an election at most.
type elections struct {
	node *Node
	poke chan struct{} // something has changed; the value says nothing
	soon chan struct{} // a group may be behind

	orphans map[*Group]*orphan // run's own, as what follows
	behind  bool               // in the last round some group missed an entry
}

const (
	idleRound     = 30 * time.Second       // between rounds when nothing was heard of that needs one: each looks at all groups
	soonRound     = time.Second            // the next round when a group may be behind, and between rounds while somebody is missed
	orphanRound   = 50 * time.Millisecond  // between rounds while some are not
	roundGap      = 5 * time.Millisecond   // at least so long between two rounds
	askStandings  = 500 * time.Millisecond // a member that takes longer is left out
	electionGrace = 150 * time.Millisecond // a leader has gone because another one stands, most likely: for that to succeed
	maxElections  = 64                     // under way at once, so that a thousand don't storm
	maxStandings  = 8192                   // groups in one question
	behindFor     = 500 * time.Millisecond // a follower that misses a commit for so long asks its leader to send again
)

func newElections(n *Node) *elections {
	return &elections{node: n, poke: make(chan struct{}, 1), soon: make(chan struct{}, 1), orphans: make(map[*Group]*orphan)}
}

// look has the groups looked at soon.
func (e *elections) look() {
	select {
	case e.poke <- struct{}{}:
	default:
	}
}

// lookAgain has the groups looked at within soonRound: one misses an entry, and if it still does then, its leader is asked.
func (e *elections) lookAgain() {
	select {
	case e.soon <- struct{}{}:
	default:
	}
}

// run ends with ctx. Everything that makes a group an orphan pokes it: a peer that is missed, heard again or thought gone by others, a process that is another one, a
// leader that resigns, raft's own loss of a leader, a group that is opened. The rounds in between are a net.
func (e *elections) run(ctx context.Context) {
	due := time.Now().Add(soonRound)
	timer := time.NewTimer(soonRound)
	defer timer.Stop()
	for {
		select {
		case <-e.poke:
		case <-timer.C:
		case <-e.soon:
			if latest := time.Now().Add(soonRound); due.After(latest) {
				due = latest
				timer.Reset(soonRound)
			}
			continue
		case <-ctx.Done():
			return
		}
		e.round(ctx)
		wait := e.pause()
		due = time.Now().Add(wait)
		timer.Reset(wait)
		gap := time.NewTimer(roundGap)
		select {
		case <-gap.C:
		case <-ctx.Done():
		}
		gap.Stop()
	}
}

// pause is how long nothing needs to be looked at if nothing is heard of.
func (e *elections) pause() time.Duration {
	switch {
	case len(e.orphans) > 0:
		return orphanRound
	case e.behind || !e.node.detector.quiet():
		return soonRound
	}
	return idleRound
}

func (e *elections) round(ctx context.Context) {
	now := time.Now()
	asking := e.findOrphans(now)
	if len(asking) == 0 {
		return
	}
	for _, g := range e.decide(now, asking, e.node.askStandings(ctx, asking)) {
		g.aside(func() {
			if err := g.stand(); err != nil {
				g.log.Debug("stand for election", "error", err)
			}
		})
	}
}

// decide returns the groups for which this replica stands now, by what the members have answered. The others whose turn it is wait in the queue, and say so
// when they are asked.
func (e *elections) decide(now time.Time, asking []*Group, answers map[*Group][]standing) (stand []*Group) {
	underWay := 0
	for _, o := range e.orphans {
		if o.holdsPlace(now) {
			underWay++
		}
	}
	for _, g := range asking {
		o := e.orphans[g]
		if o == nil {
			continue // asked because it is behind
		}
		self := g.node.ServerID()
		verdict := choose(g.Members(), g.cfg.ID.Store, self, answers[g])
		if verdict.leader != "" && now.Sub(o.stood) >= standAgain {
			if _, id := g.raft.LeaderWithID(); string(id) == verdict.leader {
				g.followed.Store(e.node.detector.processOf(verdict.leader)) // it is that process that leads
				e.look()
			}
		}
		again := o.underWay(now)
		turn := o.turn(verdict, self, now) && !g.asked.Load() // raft has not taken what it was asked before: this would be no try
		g.queued.Store(turn && !again && underWay >= maxElections)
		if !turn || g.queued.Load() {
			continue
		}
		if !again {
			underWay++
		}
		o.begin(now)
		g.log.Debug("stand for election", "orphan_for", now.Sub(o.since), "chosen", verdict.stand, "tied", verdict.tied, "try", o.tries)
		stand = append(stand, g)
	}
	return stand
}

// found forgets a group that is no orphan any more.
func (e *elections) found(g *Group) {
	if e.orphans[g] != nil {
		delete(e.orphans, g)
		g.queued.Store(false)
	}
}

// aside has the group's raft asked for something beside the rounds: it answers after a sync of the log, and one whose loop is held up answers after seconds, which must not hold up the
// elections of others; and what many ask for at once shares a sync. Nothing is asked while an earlier one is not answered.
func (g *Group) aside(ask func()) {
	if !g.asked.CompareAndSwap(false, true) {
		return
	}
	if !g.enter() {
		g.asked.Store(false)
		return
	}
	go func() { // ends with raft's answer, at the latest after an IOTimeout
		defer g.inflight.Done()
		defer g.asked.Store(false)
		ask()
	}()
}

// findOrphans lists the groups whose members must be asked, and makes leaders that reach no majority step down.
func (e *elections) findOrphans(now time.Time) (asking []*Group) {
	d := e.node.detector
	e.behind = false
	hung := d.hung()
	calm := d.calm() // spares a thousand groups the two questions
	for _, g := range e.node.openGroups() {
		members := g.Members()
		isolated := !calm && d.isolated(members)
		if view := g.Leadership(); view.Role != Follower {
			e.found(g)
			switch {
			case isolated:
				g.aside(func() { g.stepDown("isolated") })
			case hung && d.replaceable(members):
				g.leadership.giveUp() // raft may wait for the disk, and hear nothing
			}
			continue
		}
		if g.leadership.gaveUp.Load() && g.raft.State() == raft.Leader {
			e.behind = true // looked at again soon
			if !hung {
				g.aside(func() { g.stepDown(diskHangs) }) // nobody else leads yet, or raft has not heard of it
			}
			continue
		}
		_, id := g.raft.LeaderWithID()
		leader := string(id)
		lost := leader != "" && leader != e.node.ServerID() && (isolated || !calm && d.agreed(leader, members) || g.leaderRestarted(leader))
		g.leadership.loseLeader(lost)
		if leader != "" && !lost {
			e.found(g)
			misses, ask := g.isBehind(now)
			e.behind = e.behind || misses
			if ask {
				asking = append(asking, g)
			}
			continue
		}
		if hung { // it could not write that it stands
			continue
		}
		if e.orphans[g] == nil {
			o := &orphan{since: now}
			if leader == "" && g.raft.State() == raft.Candidate { // it was told to stand, and has just begun
				o.begin(now)
			}
			e.orphans[g] = o
		}
		if view := g.Leadership(); leader == "" && view.Changes > 0 && now.Sub(view.Since) < electionGrace {
			continue
		}
		asking = append(asking, g)
	}
	maps.DeleteFunc(e.orphans, func(g *Group, _ *orphan) bool { return g.ctx.Err() != nil }) // closed
	return asking
}

// standing returns how far this replica is.
func (g *Group) standing() standing {
	view := g.Leadership()
	state := g.raft.State()
	s := standing{member: g.node.ServerID(), open: true, leads: view.Role != Follower,
		stands: state == raft.Candidate || state == raft.Leader, candidate: state == raft.Candidate, queued: g.queued.Load(), term: g.raft.CurrentTerm(), lastIndex: g.raft.LastIndex()}
	if s.leads {
		s.term = view.Term
	}
	var last raft.Log
	if err := g.logs.GetLog(s.lastIndex, &last); err == nil {
		s.lastTerm = last.Term
	} else if m := g.snapshots.current(); m != nil && m.Index == s.lastIndex {
		s.lastTerm = m.Term
	}
	return s
}

// stand sends this replica's own raft the message with which a leader hands over. Standing can only cost an election; who wins is decided as ever.
func (g *Group) stand() error {
	switch g.raft.State() {
	case raft.Leader: // it has won meanwhile; raft would take the message, and resign
		return nil
	case raft.Candidate:
		// One whose election failed waits for Timing.Election and hears of nothing else; as a follower it can stand again.
		g.stepDown("")
	}
	return g.timeoutNow()
}

// timeoutNow has this replica's raft stand, be it a follower or the leader.
func (g *Group) timeoutNow() error {
	id := g.node.ServerID()
	req := &raft.TimeoutNowRequest{RPCHeader: g.header()}
	return g.trans.TimeoutNow(raft.ServerID(id), raft.ServerAddress(id), req, &raft.TimeoutNowResponse{})
}

// stepDown makes this replica, which leads when there is a reason and else is a candidate, a follower in the next term, by a request for a vote that it must refuse. hashicorp/raft offers no other way, and waits for its
// lease (Timing.Lease) before it believes that it has lost its majority.
func (g *Group) stepDown(reason string) {
	if reason != "" {
		if g.raft.State() != raft.Leader { // not any more, or it never was: its term would only make the leader step down
			return
		}
		g.leadership.expect(reason)
		g.log.Warn("this node steps down as leader", "reason", reason, "term", g.raft.CurrentTerm())
	}
	id := g.node.ServerID()
	req := &raft.RequestVoteRequest{
		RPCHeader: g.header(), Term: g.raft.CurrentTerm() + 1, LeadershipTransfer: true,
	}
	if err := g.trans.RequestVote(raft.ServerID(id), raft.ServerAddress(id), req, &raft.RequestVoteResponse{}); err != nil {
		g.log.Debug("step down", "error", err)
	}
}

func (g *Group) header() raft.RPCHeader {
	id := g.node.ServerID()
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: g.trans.EncodePeer(raft.ServerID(id), raft.ServerAddress(id))}
}

// askStandings asks every reachable member of the groups, each once for all of them, and adds what is known here.
func (n *Node) askStandings(ctx context.Context, groups []*Group) map[*Group][]standing {
	ctx, cancel := context.WithTimeout(ctx, askStandings)
	defer cancel()
	own := make(map[*Group]standing, len(groups))
	byPeer := make(map[string][]*Group)
	all := make(map[*Group][]standing, len(groups))
	for _, g := range groups {
		own[g] = g.standing()
		all[g] = []standing{own[g]}
		for _, id := range g.Members() {
			if id != n.ServerID() && n.detector.reachable(id) && len(byPeer[id]) < maxStandings {
				byPeer[id] = append(byPeer[id], g)
			}
		}
	}
	var mu sync.Mutex // guards all
	var wg sync.WaitGroup
	for peer, asked := range byPeer {
		wg.Add(1)
		go func() { // ends with the answer, or with ctx
			defer wg.Done()
			question := encodeStandings(asked, own)
			raw, err := n.transport.Call(ctx, peer, methodStanding, question)
			if err != nil {
				return
			}
			got, err := decodeStandings(raw)
			if err != nil || len(got) != len(asked) {
				n.cfg.Logger.Warn("a peer's answer about its replicas is not understood", "peer", peer, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, g := range asked {
				got[i].s.member = peer
				all[g] = append(all[g], got[i].s)
			}
		}()
	}
	wg.Wait()
	for _, list := range all {
		slices.SortFunc(list, func(a, b standing) int { return strings.Compare(a.member, b.member) })
	}
	return all
}
