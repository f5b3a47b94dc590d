package raftnode

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/transport"
	"github.com/quorate/quorate/raftnode/wal"
)

// Machine is the state a group replicates. It keeps itself on disk: when ApplyBatch returns, the effects and the index of the last entry are
// durable together, or the entries will be given again after a restart. Entries at or below the applied index must be ignored.
type Machine interface {
	raft.BatchingFSM
	// Applied returns index and term of the last entry whose effects are visible.
	Applied() (index, term uint64)
	// WaitApplied returns nil once Applied is at least index, or ctx's error.
	WaitApplied(ctx context.Context, index uint64) error
	// OpenSnapshot streams one consistent state, at or after the entries applied when it is called. size is exact.
	OpenSnapshot() (index, term uint64, size int64, rc io.ReadCloser, err error)
	// Bytes returns about how many bytes the state takes: what it would cost to send it.
	Bytes() (int64, error)
}

// GroupConfig opens a Group.
type GroupConfig struct {
	ID        wal.GroupID
	Name      string   // for logs
	Dir       string   // for the snapshot marker; exists
	Machine   Machine  // opened
	Bootstrap []string // server ids of the first members; used once, when this disk has nothing of the group yet
	// OnLeadership is told of every change of this node's view of who leads, in order, from one goroutine. It must not
	// block for long and must not call Close.
	OnLeadership func(Leadership)
}

// Group is one Raft group's replica on this node. Its methods may be called concurrently.
type Group struct {
	node    *Node
	cfg     GroupConfig
	key     string
	raft    *raft.Raft
	trans   *transport.Group
	store   wal.Store
	logs    *recentLog // in front of store
	machine Machine
	log     *slog.Logger

	snapshots *snapshotStore
	growth    growth
	holds     holds
	members   atomic.Pointer[[]string] // server ids of the voters
	watched   []string                 // those given to the detector
	nudged    atomic.Int64             // when raft was last made to look at its followers, in Unix nanoseconds
	asked     atomic.Bool              // raft is asked for something by elections, see aside
	queued    atomic.Bool              // it is this replica's turn to stand, once fewer elections are under way
	followed  atomic.Uint64            // the process (see detector) that led when this replica last saw its leader change
	unnamed   atomic.Uint64            // the term in which the leader's last roll did not name this group; 0: it did (see roll.go)

	newest    atomic.Uint64 // the last entry that this replica has stored as leader, see resends
	unsettled atomic.Bool   // resends watches the group, or is about to
	nudging   atomic.Bool   // a nudge of many is under way

	commits      sync.Mutex // guards what follows
	appliedIndex uint64     // of the last command that raft had applied
	appliedTerm  uint64
	barrierIndex uint64 // of the entry after which this replica began to serve in barrierTerm
	barrierTerm  uint64
	carried      map[string]uint64 // by peer: see carry
	noticed      notice            // the newest one that is not with raft yet
	injecting    bool
	missing      uint64 // committed, says the leader; this replica did not have it when it was told
	missingSince time.Time
	awaited      uint64 // a reader waits until this is applied

	snapshotDue  atomic.Uint64 // the entry whose application makes a snapshot due; never: one is planned
	snapshotPlan *time.Timer   // guarded by gate

	leadership *leadership
	reads      readIndex // of this node's readers: asks the leader
	answers    readIndex // of peers that ask this node: confirmed here or nothing, so that no two nodes wait for each other

	gate     sync.Mutex     // guards closing and snapshotPlan
	closing  bool           // nothing more is handed to raft
	inflight sync.WaitGroup // what waits for raft's answer; raft must run until it has come

	closeOnce sync.Once
	ctx       context.Context // done when Close begins
	cancel    context.CancelFunc
	wg        sync.WaitGroup // the leadership watcher
	closeErr  error
}

// enter lets a call wait for raft, unless the group is closing. hashicorp/raft may leave calls that it holds when it shuts down without an
// answer for ever; while it runs, every call ends with a commit or a loss of leadership.
func (g *Group) enter() bool {
	g.gate.Lock()
	defer g.gate.Unlock()
	if g.closing {
		return false
	}
	g.inflight.Add(1)
	return true
}

// trailingLogs are kept behind a snapshot at most, so that a follower that was away for a moment needs no copy of the state; see compact for large ones.
const (
	trailingLogs      = 8192
	snapshotThreshold = 8192
	snapshotInterval  = 30 * time.Second
	applyEnqueue      = 2 * time.Second
)

// OpenGroup starts the replica. When this disk has nothing of the group and Bootstrap names this server, the group is
// bootstrapped: the first members are written as entry 1 of term 1, the same on every one of them.
//
// It refuses (ErrDamaged) a disk whose parts contradict each other, since guessing could lose acknowledged entries.
func (n *Node) OpenGroup(cfg GroupConfig) (*Group, error) {
	g := &Group{
		node:    n,
		cfg:     cfg,
		key:     cfg.ID.String(),
		machine: cfg.Machine,
		log:     n.cfg.Logger.With("store", cfg.Name),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	if err := n.register(g); err != nil {
		return nil, fmt.Errorf("open group %s: %w", cfg.Name, err)
	}
	if err := g.open(); err != nil {
		n.unregister(g)
		return nil, fmt.Errorf("open group %s: %w", cfg.Name, err)
	}
	n.opened(g)
	g.watched = g.Members()
	n.detector.watch(g.watched)
	n.elections.look()
	return g, nil
}

func (g *Group) open() (err error) {
	defer func() {
		if err != nil && g.store != nil {
			g.store.Close()
		}
	}()
	if g.store, err = g.node.log.Open(g.cfg.ID); err != nil {
		return err
	}
	snapshots, err := openSnapshots(g.cfg.Dir, g.machine)
	if err != nil {
		return err
	}
	g.snapshots = snapshots
	if err := g.checkDisk(snapshots); err != nil {
		return err
	}
	g.holds.written, g.holds.log = g.growth.all, g.log
	logs := &overlappingLog{Store: g.store, dispatched: g.dispatched, holds: &g.holds, snapshots: snapshots, log: g.log}
	trans, err := g.node.transport.InspectedGroup(g.key, logs.arrives)
	if err != nil {
		return err
	}
	g.trans = trans
	trans.Acknowledged = g.holds.acknowledged
	g.logs = newRecentLog(logs)
	g.logs.leads = logs.leads
	if err := discardForeign(g.logs, snapshots.current()); err != nil { // we died between a restore and this
		return err
	}
	conf := g.raftConfig()
	notify := make(chan bool, 16)
	conf.NotifyCh = notify
	g.snapshotDue.Store(never)              // until raft runs
	g.leadership = newLeadership(g, notify) // before raft, which may apply entries at once: applied looks at it
	if err = g.bootstrap(conf, snapshots, trans); err == nil {
		machine := &groupMachine{Machine: g.machine, log: g.store, logs: g.logs, snapshots: snapshots, applied: g.applied, grew: g.grew, closing: g.ctx.Done()}
		g.raft, err = newRaft(conf, machine, g.logs, &votes{StableStore: g.store}, snapshots, &boundedTransport{Group: trans, log: g.store, carry: g.carry, holds: &g.holds})
	}
	if err != nil {
		trans.Close()
		return err
	}
	logs.raft.Store(g.raft)
	g.awaitGrowth()
	g.growth.start()
	g.reads.group, g.reads.ask = g, g.askLeader
	g.answers.group, g.answers.ask = g, g.confirmedIndex
	g.refreshMembers()
	g.wg.Add(1)
	go g.leadership.run() // ends when closed is closed and raft has shut down
	return nil
}

// maxAppendEntries is what one request takes of the log. Entries are batches, and raft keeps channels of this size for every group.
const maxAppendEntries = 64

func (g *Group) raftConfig() *raft.Config {
	t := g.node.cfg.Timing
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(g.node.ServerID())
	conf.HeartbeatTimeout = t.Heartbeat
	conf.ElectionTimeout = t.Election
	conf.LeaderLeaseTimeout = t.Lease
	conf.CommitTimeout = t.Commit
	conf.BatchApplyCh = true
	conf.MaxAppendEntries = maxAppendEntries
	conf.TrailingLogs = trailingLogs
	conf.SnapshotThreshold = snapshotThreshold
	conf.SnapshotInterval = lookAtLog    // see snapshotplan.go
	conf.NoSnapshotRestoreOnStart = true // the machine is on disk already; a snapshot is only a marker
	conf.NoLegacyTelemetry = true
	conf.Logger = newRaftLogger(g.log)
	return conf
}

// checkDisk compares the log, the snapshot marker and the machine. Each can be lost alone (a deleted file, a restored backup of one of
// them); the others then tell.
func (g *Group) checkDisk(snapshots *snapshotStore) error {
	first, err := g.store.FirstIndex()
	if err != nil {
		return err
	}
	applied, _ := g.machine.Applied()
	marker := snapshots.current()
	term, err := g.store.GetUint64([]byte("CurrentTerm")) // raft writes it before the first entry
	if err != nil && err.Error() != "not found" {
		return err
	}
	switch {
	case term == 0 && (marker != nil || applied > 0):
		return fmt.Errorf("%w: there is a state (applied entry %d) but the log is empty: the log was lost, and with it this replica's votes", ErrDamaged, applied)
	case first == 0 && marker == nil && applied > 0:
		return fmt.Errorf("%w: the state has applied entry %d but the log is empty: the log was lost, and with it this replica's votes", ErrDamaged, applied)
	case marker != nil && applied < marker.Machine:
		return fmt.Errorf("%w: the state has applied entry %d, the snapshot marker says %d: the state file was lost or is older", ErrDamaged, applied, marker.Machine)
	case first > 1 && marker == nil:
		return fmt.Errorf("%w: the log begins at entry %d and there is no snapshot marker", ErrDamaged, first)
	case first > 1 && first > marker.Index+1:
		return fmt.Errorf("%w: the log begins at entry %d, the snapshot marker ends at %d", ErrDamaged, first, marker.Index)
	}
	return nil
}

// bootstrap writes the first members, when there is nothing of the group yet. raft writes the term before the entry, each with a sync of its own: whoever died between the two has a
// term, maybe by now of an election that it voted in, and no entry, and would never know of any member.
func (g *Group) bootstrap(conf *raft.Config, snapshots *snapshotStore, trans raft.Transport) error {
	has, err := raft.HasExistingState(g.store, g.store, snapshots)
	if err != nil {
		return err
	}
	if has {
		last, err := g.store.LastIndex()
		if err != nil || last > 0 || snapshots.current() != nil { // checkDisk knows that nothing was applied
			return err
		}
	}
	var members raft.Configuration
	listed := false
	for _, id := range g.cfg.Bootstrap {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
		listed = listed || id == g.node.ServerID()
	}
	if !listed {
		return fmt.Errorf("%w: %s is not among the group's members %v", ErrNotMember, g.node.ServerID(), g.cfg.Bootstrap)
	}
	if has {
		return g.store.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(members)})
	}
	return raft.BootstrapCluster(conf, g.store, g.store, snapshots, trans, members)
}

// ID returns the group's id.
func (g *Group) ID() wal.GroupID { return g.cfg.ID }

// Proposal is an entry on its way to a majority.
type Proposal struct {
	group  *Group
	future raft.ApplyFuture
}

// Propose hands data to the leader's log. Entries are applied in the order in which Propose was called. It blocks
// only while raft's queue is full, at most two seconds. ErrNotLeader means that the group is closing; everything else Wait tells, and it must be called.
func (g *Group) Propose(data []byte) (*Proposal, error) {
	if !g.enter() {
		return nil, fmt.Errorf("%w: %w", ErrNotLeader, ErrClosed)
	}
	return &Proposal{group: g, future: g.raft.Apply(data, applyEnqueue)}, nil
}

// Wait returns what the Machine made of the entry. It may be called once.
//
// ErrNotLeader: the entry was not and will not be applied. ErrOutcomeUnknown: leadership was lost while a majority was asked. It blocks until one of
// the three is known; a leader that loses its majority gives up after Timing.Lease.
func (p *Proposal) Wait() (any, error) {
	defer p.group.inflight.Done()
	if err := p.future.Error(); err != nil {
		return nil, applyError(err)
	}
	if lost, ok := p.future.Response().(notDurable); ok {
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, lost.err)
	}
	return p.future.Response(), nil
}

// Leadership returns this node's present view of who leads.
func (g *Group) Leadership() Leadership { return g.leadership.current() }

// WaitLeadership returns the first view, from now on, that ok accepts. It ends early with ctx's error or ErrClosed.
func (g *Group) WaitLeadership(ctx context.Context, ok func(Leadership) bool) (Leadership, error) {
	return g.leadership.wait(ctx, ok)
}

// Members returns the server ids of the group's voters, as this replica knows them. The caller must not change them.
func (g *Group) Members() []string { return *g.members.Load() }

// refreshMembers reads the members from raft; cheap reads of them are many.
func (g *Group) refreshMembers() {
	f := g.raft.GetConfiguration()
	if f.Error() != nil {
		return
	}
	ids := []string{}
	for _, s := range f.Configuration().Servers {
		ids = append(ids, string(s.ID))
	}
	g.members.Store(&ids)
}

// resigned stands for a process in followed: whichever leads, it leads this group no longer.
const resigned = 1 << 1 // a process is an odd number

// leaderRestarted reports whether the leader's process is another one than when this replica began to follow it.
func (g *Group) leaderRestarted(leader string) bool {
	now := g.node.detector.processOf(leader)
	if g.followed.Load() == resigned {
		return true
	}
	if now == 0 || g.followed.CompareAndSwap(0, now) {
		return false
	}
	return g.followed.Load() != now
}

// closeGrace is how long a replica that closes waits for the majority's answer to what is under way.
const closeGrace = time.Second

// awaitAnswers returns when nothing waits for raft's answer any more. Where the other replicas are gone already, as when a store is dropped everywhere, nothing
// is committed any more, and raft would notice only after Timing.Lease: so this replica then ceases to lead, which answers everything.
func (g *Group) awaitAnswers() {
	done := make(chan struct{})
	go func() { // ends with the last answer
		g.inflight.Wait()
		close(done)
	}()
	again := time.NewTicker(closeGrace)
	defer again.Stop()
	for {
		select {
		case <-done:
			return
		case <-again.C:
			g.stepDown("shutdown")
		}
	}
}

// Close stops the replica and waits for everything it started. Leadership is not handed over; Transfer does that.
//
// A snapshot that is on its way is cut off, whichever way it goes, and so is the restore of one that has arrived: what is on the disk then is what a crash leaves there (see snapshot.go).
func (g *Group) Close() error {
	g.closeOnce.Do(func() {
		led := g.Leadership().Role != Follower
		g.leadership.expect("shutdown")
		g.gate.Lock()
		g.closing = true
		if g.snapshotPlan != nil {
			g.snapshotPlan.Stop()
		}
		g.gate.Unlock()
		g.cancel()
		g.trans.EndSnapshots() // raft's main loop receives them and answers nobody meanwhile, and its shutdown waits for those that it sends
		g.awaitAnswers()
		g.closeErr = g.raft.Shutdown().Error()
		g.wg.Wait()
		if err := g.store.Close(); g.closeErr == nil {
			g.closeErr = err
		}
		g.node.detector.unwatch(g.watched)
		g.node.unregister(g)
		if led { // the node goes on, so nobody would miss the leader for a long time
			for _, id := range g.watched {
				if id != g.node.ServerID() {
					g.node.send(id, methodResigned, []byte(g.key))
				}
			}
		}
	})
	return g.closeErr
}
