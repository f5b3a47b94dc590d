package raftnode

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// notices tells followers what is committed. hashicorp/raft tells them with the next entry, or after Timing.Commit, which is long; until then followers could not
// apply what is acknowledged, and reads there would be old. A leader that has applied entries puts its group on a list, and at most every few milliseconds each
// peer gets one small message for all groups on it, but for those of which the next entry has told it meanwhile: a busy group needs no notices.
//
// A follower hands the notice to its own raft as what it is: an AppendEntries of the leader without entries, whose previous entry is the committed one. Raft checks
// that it has that very entry before it believes the commit index.
type notices struct {
	node     *Node
	wake     chan struct{}
	hookSend atomic.Pointer[func(peer string, list []commit) (lost bool)] // tests

	mu    sync.Mutex // guards what follows
	dirty groupsOf
}

// groupsOf is groups to speak of, by peer.
type groupsOf map[string]map[*Group]bool

func (m groupsOf) add(peer string, g *Group) {
	if m[peer] == nil {
		m[peer] = make(map[*Group]bool)
	}
	m[peer][g] = true
}

// commit is what a leader says: in its term, the entry at index is committed, and is of entryTerm.
type commit struct {
	key                    string
	term, index, entryTerm uint64
}

// noticeWindow lies between two messages, and gathers commits of many groups for the second. The first after a pause goes at once. Followers are at most about so
// much behind.
const noticeWindow = 8 * time.Millisecond

// echoAfter is how long after a notice it is given once more: a message can be lost, and when no entry follows nothing else would tell for minutes.
const echoAfter = time.Second

func newNotices(n *Node) *notices {
	return &notices{node: n, wake: make(chan struct{}, 1), dirty: make(groupsOf)}
}

// committed puts a group that this node leads on the list.
func (s *notices) committed(g *Group) {
	s.add(g, g.Members()...)
}

// remind puts the group on one peer's list, whatever entries have told it: they may have been lost.
func (s *notices) remind(g *Group, peer string) {
	g.commits.Lock()
	delete(g.carried, peer)
	g.commits.Unlock()
	s.add(g, peer)
}

// remindAll puts every group that this node leads and the peer is a member of on the peer's list: messages to it may have been lost.
func (s *notices) remindAll(peer string) {
	for _, g := range s.node.openGroups() {
		if g.Leadership().Role == Serving && slices.Contains(g.Members(), peer) {
			s.remind(g, peer)
		}
	}
}

func (s *notices) add(g *Group, peers ...string) {
	s.mu.Lock()
	for _, id := range peers {
		if id == s.node.ServerID() {
			continue
		}
		s.dirty.add(id, g)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run ends when the node closes.
func (s *notices) run() {
	ctx := s.node.ctx
	timer := time.NewTimer(noticeWindow)
	defer timer.Stop()
	var last time.Time // when notices were sent
	echo := time.NewTimer(echoAfter)
	defer echo.Stop()
	roll := time.NewTimer(s.nextRoll())
	defer roll.Stop()
	said := make(groupsOf) // since the last echo; echo runs while there are any
	for {
		select {
		case <-s.wake:
		case <-echo.C:
			for peer, groups := range said {
				s.send(peer, groups, true)
			}
			said = make(groupsOf)
			continue
		case <-roll.C:
			s.callRoll()
			for _, g := range s.node.openGroups() {
				g.logs.forget() // what nobody wrote for as long as that need not be at hand
				g.cutLate()
			}
			roll.Reset(s.nextRoll())
			continue
		case <-ctx.Done():
			return
		}
		timer.Reset(noticeWindow - time.Since(last))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		last = time.Now()
		s.mu.Lock()
		dirty := s.dirty
		s.dirty = make(groupsOf)
		s.mu.Unlock()
		if len(said) == 0 {
			echo.Reset(echoAfter)
		}
		for peer, groups := range dirty {
			s.send(peer, groups, false)
			for g := range groups {
				said.add(peer, g)
			}
		}
	}
}

// nextRoll spreads the rolls of nodes that were started together.
func (s *notices) nextRoll() time.Duration {
	every := s.node.cfg.Timing.Roll
	return every + rand.N(every)
}

// send tells the peer what is committed in the groups; unless it is an echo, without what entries have told it.
func (s *notices) send(peer string, groups map[*Group]bool, echo bool) {
	var list []commit
	for g := range groups {
		if c, ok := g.lastCommit(); ok && (echo || c.index > g.carriedTo(peer)) {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return
	}
	if hook := s.hookSend.Load(); hook != nil && (*hook)(peer, list) {
		return
	}
	for part := range slices.Chunk(list, rollPart) { // a message holds 1 MiB
		s.node.send(peer, methodCommits, encodeCommits(part))
	}
}

// The message: number of groups · for each: key (text) · term · index · term of that entry (numbers).
func encodeCommits(list []commit) []byte {
	b := binary.AppendUvarint(nil, uint64(len(list)))
	for _, c := range list {
		b = appendText(b, c.key)
		b = binary.AppendUvarint(b, c.term)
		b = binary.AppendUvarint(b, c.index)
		b = binary.AppendUvarint(b, c.entryTerm)
	}
	return b
}

func decodeCommits(raw []byte) ([]commit, error) {
	s := scanner{rest: raw}
	n := s.count()
	list := make([]commit, 0, n)
	for range n {
		list = append(list, commit{key: s.text(), term: s.number(), index: s.number(), entryTerm: s.number()})
	}
	return list, s.end()
}

// onCommits takes a leader's message.
func (n *Node) onCommits(from string, body []byte) error {
	list, err := decodeCommits(body)
	if err != nil {
		return err
	}
	for _, c := range list {
		if g := n.group(c.key); g != nil {
			g.onCommit(from, c)
		}
	}
	return nil
}

// lastCommit returns what this replica can say as leader: the newest entry of its own term that it knows to be committed. What it says stays true when it leads no
// longer: it was the leader of that term, and the entry was committed.
func (g *Group) lastCommit() (commit, bool) {
	view := g.Leadership()
	if view.Role != Serving {
		return commit{}, false
	}
	g.commits.Lock()
	defer g.commits.Unlock()
	c := commit{key: g.key, term: view.Term, entryTerm: view.Term}
	switch view.Term {
	case g.appliedTerm:
		c.index = g.appliedIndex
	case g.barrierTerm:
		c.index = g.barrierIndex
	default:
		return commit{}, false
	}
	return c, true
}

// carry notes that a request to the peer says that entries up to the index are committed. It may get lost; raft then sends another one, and the echo tells as well.
func (g *Group) carry(peer string, index uint64) {
	if index == 0 { // a heartbeat
		return
	}
	g.commits.Lock()
	defer g.commits.Unlock()
	if g.carried == nil {
		g.carried = make(map[string]uint64)
	}
	g.carried[peer] = index
}

// carriedTo returns the newest index of carry.
func (g *Group) carriedTo(peer string) uint64 {
	g.commits.Lock()
	defer g.commits.Unlock()
	return g.carried[peer]
}

// serves notes the barrier with which this replica began to serve, and tells followers: it commits what earlier leaders left.
func (g *Group) serves(term, barrier uint64) {
	g.commits.Lock()
	g.barrierTerm, g.barrierIndex = term, barrier
	g.commits.Unlock()
	g.node.notices.committed(g)
}

// applied is called by raft's goroutine after entries were applied.
func (g *Group) applied(last *raft.Log) {
	g.commits.Lock()
	g.appliedIndex, g.appliedTerm = last.Index, last.Term
	g.commits.Unlock()
	if last.Index >= g.snapshotDue.Load() {
		g.grown()
	}
	if view := g.Leadership(); view.Role == Serving && view.Term == last.Term {
		g.node.notices.committed(g)
	}
}

// onCommit hands the newest notice to raft, one at a time: raft may be busy with its disk.
func (g *Group) onCommit(from string, c commit) {
	g.commits.Lock()
	defer g.commits.Unlock()
	if c.index > 0 && c.index <= g.appliedIndex && g.Leadership().Leader == from {
		return // it is known
	}
	if n := g.noticed; n.from != "" && (n.c.term > c.term || n.c.term == c.term && n.c.index > c.index) {
		return
	}
	g.noticed = notice{from: from, c: c}
	if g.injecting || !g.enter() {
		return
	}
	g.injecting = true
	go g.inject() // ends when no notice is left
}

type notice struct {
	from string // the leader's server id
	c    commit
}

// A notice often overtakes the entry, which goes over another connection and is written to the disk. It is tried again until it is believed, the leader is
// another one, or the pauses have reached lastRetry; from then on the leader is asked to send the entry (see elections.findOrphans), and says again what is committed.
const (
	firstRetry = time.Millisecond
	lastRetry  = 256 * time.Millisecond
)

func (g *Group) inject() {
	defer g.inflight.Done()
	pause := firstRetry
	for {
		g.commits.Lock()
		n := g.noticed
		g.commits.Unlock()
		done := g.tell(n)
		g.commits.Lock()
		switch newer := g.noticed != n; {
		case newer:
			pause = firstRetry
		case done || pause > lastRetry:
			g.noticed, g.injecting = notice{}, false
			g.commits.Unlock()
			return
		}
		g.commits.Unlock()
		if done {
			continue
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-g.ctx.Done():
		}
		timer.Stop()
		if g.ctx.Err() != nil {
			return
		}
		pause *= 2
	}
}

// tell hands a notice to raft. done is false when the entry is not here yet.
func (g *Group) tell(n notice) (done bool) {
	id := raft.ServerID(g.node.ServerID())
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.from), Addr: g.trans.EncodePeer(raft.ServerID(n.from), raft.ServerAddress(n.from)),
		},
		Term: n.c.term, PrevLogEntry: n.c.index, PrevLogTerm: n.c.entryTerm, LeaderCommitIndex: n.c.index,
	}
	var res raft.AppendEntriesResponse
	err := g.trans.AppendEntries(id, raft.ServerAddress(id), req, &res)
	if err == nil && (res.Success || res.Term != n.c.term) {
		return true
	}
	g.commits.Lock()
	defer g.commits.Unlock()
	if n.c.index > g.missing {
		if g.missing == 0 || g.raft.CommitIndex() >= g.missing {
			g.missingSince = time.Now()
		}
		g.missing = n.c.index
	}
	g.node.elections.lookAgain()
	return false
}

// isBehind reports whether an entry that the leader has committed is missing here, and whether it has been for a while, or somebody waits for it.
func (g *Group) isBehind(now time.Time) (misses, ask bool) {
	g.commits.Lock()
	defer g.commits.Unlock()
	if g.awaited == 0 && g.missing == 0 {
		return false, false
	}
	if applied, _ := g.machine.Applied(); applied >= g.awaited {
		g.awaited = 0
	}
	if g.awaited > 0 {
		return true, true
	}
	if g.missing != 0 && g.raft.CommitIndex() >= g.missing { // to have the entry is not enough: that it is committed was said when it was not here yet
		g.missing = 0
	}
	return g.missing != 0, g.missing != 0 && now.Sub(g.missingSince) > behindFor
}

// miss says that a reader waits for an entry that the leader has applied.
func (g *Group) miss(index uint64) {
	if applied, _ := g.machine.Applied(); applied >= index {
		return
	}
	g.commits.Lock()
	defer g.commits.Unlock()
	g.awaited = max(g.awaited, index)
	g.node.elections.lookAgain()
}
