package raftnode

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/quorate/quorate/raftnode/transport"
	"github.com/quorate/quorate/raftnode/wal"
)

// Config is what a Node needs.
type Config struct {
	Identity  *Identity
	Listen    string                                // address of the Raft listener, host:port
	ClusterID func() string                         // checked in every handshake
	Resolve   func(serverID string) (string, error) // where a member's Raft listener is now
	TLS       *tls.Config                           // mutual TLS between members; nil: plain TCP
	HasData   bool                                  // this disk belongs to a cluster: a missing log is damage, not a blank disk
	Timing    Timing                                // zero: DefaultTiming
	segments  wal.Folder                            // tests put one here that forgets; nil: the identity's directory
	ioTimeout time.Duration                         // tests shorten it; 0: the transport's default
	OnFatal   func(error)                           // a failed write or fsync; must not return to normal work; default: panic
	Logger    *slog.Logger                          // default: discard
}

// Timing bounds how long nodes and groups wait.
//
// Nodes watch each other (see detector), so groups need not: their own timers are the safety net, and long, since each costs messages for every group.
type Timing struct {
	Probe     time.Duration // between two probes of a peer whose connection holds
	Silence   time.Duration // a peer that has not answered for so long is gone; a leader that reaches no majority for so long steps down
	Heartbeat time.Duration // a follower stands for election after this much silence of its leader, up to twice; a leader speaks ten times as often
	Election  time.Duration // a candidate tries again after this, up to twice; at least Heartbeat
	Lease     time.Duration // a leader that has not heard from a majority of the group for so long steps down; at most Heartbeat, and more than two of its tenths
	Commit    time.Duration // longest time until raft itself tells followers of a commit, or sends again what was lost; notices do the one within milliseconds, resends the other within a second
	Roll      time.Duration // between two messages to a peer about all groups that this node leads, up to twice; 0: DefaultTiming's. It does for followers what Heartbeat and Commit do
	Hang      time.Duration // when a write to the log takes longer, the node's disk hangs, and others lead what it leads, if they can; 0: DefaultTiming's
}

// DefaultTiming replaces a leader that was killed in less than half a second and one that hangs in less than two, and survives most of a second of stall.
var DefaultTiming = Timing{
	Probe:     250 * time.Millisecond,
	Silence:   time.Second,
	Heartbeat: 15 * time.Minute,
	Election:  15 * time.Minute,
	Lease:     6 * time.Minute,
	Commit:    15 * time.Minute,
	Roll:      2 * time.Minute,
	Hang:      10 * time.Second, // far above the seconds that busy disks, snapshots of volumes and a controller's resets take, after which a leader had better go on; below the 30 s after which kernels give up
}

// Node owns what the groups of this machine share.
type Node struct {
	cfg       Config
	log       wal.Log
	transport *transport.Transport
	detector  *detector
	elections *elections
	notices   *notices
	resends   *resends
	terms     *termChecks

	ctx    context.Context // done when Close begins
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything the node has started

	mu     sync.Mutex // guards groups and closed
	groups map[string]*Group
	closed bool
}

// Open opens the log in the identity's directory and begins to listen. No group runs yet.
func Open(cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Timing == (Timing{}) {
		cfg.Timing = DefaultTiming
	}
	if cfg.Timing.Roll == 0 {
		cfg.Timing.Roll = DefaultTiming.Roll
	}
	if cfg.Timing.Hang == 0 {
		cfg.Timing.Hang = DefaultTiming.Hang
	}
	if cfg.OnFatal == nil {
		cfg.OnFatal = func(err error) { panic(err) }
	}
	log, err := wal.OpenSegments(wal.Config{
		Path:      filepath.Join(cfg.Identity.Dir(), "raft.db"),
		NodeID:    cfg.Identity.DiskID,
		MustExist: cfg.HasData,
		Segments:  cfg.segments,
		OnFatal:   cfg.OnFatal,
		Logger:    cfg.Logger,
	})
	if errors.Is(err, fs.ErrNotExist) && cfg.HasData {
		return nil, fmt.Errorf("raft.db is gone from %s: this disk has forgotten its votes and entries; move the directory away, the node then comes back as a new member (%w)",
			cfg.Identity.Dir(), err)
	}
	if err != nil {
		return nil, fmt.Errorf("raft log: %w", err)
	}
	sinkMetrics()
	n := &Node{cfg: cfg, log: log, groups: make(map[string]*Group)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.elections, n.notices, n.resends, n.terms = newElections(n), newNotices(n), newResends(n), newTermChecks(n)
	n.detector = newDetector(n, n.elections.look)
	n.transport, err = transport.Listen(transport.Config{
		Listen:    cfg.Listen,
		ClusterID: cfg.ClusterID,
		LocalID:   cfg.Identity.ServerID(),
		Resolve:   cfg.Resolve,
		Handler:   n.handleCall,
		Waits:     func(method byte) bool { return method == methodReadIndex }, // for members' terms
		OnMessage: n.handleMessage,
		OnBroken:  func(string) { n.detector.suspect() },
		TLS:       cfg.TLS,
		// Probes are written that often anyway, and take heartbeats along.
		HeartbeatWait: min(cfg.Timing.Probe, cfg.Timing.Heartbeat/20),
		IOTimeout:     cfg.ioTimeout,
		Logger:        cfg.Logger,
	})
	if err != nil {
		n.cancel()
		log.Close()
		return nil, fmt.Errorf("raft listener: %w", err)
	}
	for _, run := range []func(){
		func() { n.detector.run(n.ctx) },
		func() { n.elections.run(n.ctx) },
		func() { n.notices.run() },
		func() { n.resends.run(n.ctx) },
	} {
		n.wg.Add(1)
		go func() { // ends when Close begins
			defer n.wg.Done()
			run()
		}()
	}
	return n, nil
}

// ServerID returns the id under which this node is a member of groups.
func (n *Node) ServerID() string { return n.cfg.Identity.ServerID() }

// Addr returns the address of the Raft listener, with the port that was chosen when 0 was asked for.
func (n *Node) Addr() string { return n.transport.Addr().String() }

// Log returns the shared log's counters.
func (n *Node) LogStats() wal.Stats { return n.log.Stats() }

// TransportStats returns the transport's counters since the node was opened.
func (n *Node) TransportStats() transport.Stats { return n.transport.Stats() }

// RemoveLog forgets everything the log holds of a group that is closed here. Durable on return.
func (n *Node) RemoveLog(id wal.GroupID) error { return n.log.Remove(id) }

// LoggedGroups lists the groups the log has records of.
func (n *Node) LoggedGroups() ([]wal.GroupID, error) { return n.log.Groups() }

// Close ends the listener and the log. Groups must be closed before.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	open := len(n.groups)
	n.mu.Unlock()
	if open > 0 {
		return fmt.Errorf("close raft node: %d groups are open", open)
	}
	n.cancel()
	err := n.transport.Close()
	n.wg.Wait()
	if lerr := n.log.Close(); err == nil {
		err = lerr
	}
	return err
}

func (n *Node) register(g *Group) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	if _, taken := n.groups[g.key]; taken {
		return fmt.Errorf("group %s is open already", g.key)
	}
	n.groups[g.key] = nil // reserved while it opens
	return nil
}

func (n *Node) opened(g *Group) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.groups[g.key] = g
}

func (n *Node) unregister(g *Group) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.groups, g.key)
}

func (n *Node) group(key string) *Group {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.groups[key]
}

// openGroups lists the groups that run.
func (n *Node) openGroups() []*Group {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := make([]*Group, 0, len(n.groups))
	for _, g := range n.groups {
		if g != nil {
			open = append(open, g)
		}
	}
	return open
}

// send gives a peer a message that may be lost.
func (n *Node) send(peer string, method byte, body []byte) {
	if err := n.transport.Send(peer, method, body); err != nil {
		n.cfg.Logger.Debug("a message to a peer is lost", "error", err)
	}
}
