package raftnode

import (
	"context"
	"crypto/tls"
	"encoding/binary"
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
	OnFatal   func(error)                           // a failed write or fsync; must not return to normal work; default: panic
	Logger    *slog.Logger                          // default: discard
}

// Timing bounds how long groups wait.
type Timing struct {
	Heartbeat time.Duration // a follower stands for election after this much silence, up to twice
	Election  time.Duration // a candidate tries again after this, up to twice
	Lease     time.Duration // a leader steps down when it has not heard from a majority for this long; at most Heartbeat
	Commit    time.Duration // longest time until followers hear of a commit when nothing else is sent
}

// DefaultTiming fails over in about two seconds and survives a second of stall.
var DefaultTiming = Timing{
	Heartbeat: 800 * time.Millisecond,
	Election:  800 * time.Millisecond,
	Lease:     600 * time.Millisecond,
	Commit:    15 * time.Millisecond,
}

// Node owns what the groups of this machine share.
type Node struct {
	cfg       Config
	log       wal.Log
	transport *transport.Transport

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
	if cfg.OnFatal == nil {
		cfg.OnFatal = func(err error) { panic(err) }
	}
	log, err := wal.OpenBolt(wal.Config{
		Path:      filepath.Join(cfg.Identity.Dir(), "raft.db"),
		NodeID:    cfg.Identity.DiskID,
		MustExist: cfg.HasData,
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
	n := &Node{cfg: cfg, log: log, groups: make(map[string]*Group)}
	n.transport, err = transport.Listen(transport.Config{
		Listen:    cfg.Listen,
		ClusterID: cfg.ClusterID,
		LocalID:   cfg.Identity.ServerID(),
		Resolve:   cfg.Resolve,
		Handler:   n.handleCall,
		TLS:       cfg.TLS,
		Logger:    cfg.Logger,
	})
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("raft listener: %w", err)
	}
	return n, nil
}

// ServerID returns the id under which this node is a member of groups.
func (n *Node) ServerID() string { return n.cfg.Identity.ServerID() }

// Addr returns the address of the Raft listener, with the port that was chosen when 0 was asked for.
func (n *Node) Addr() string { return n.transport.Addr().String() }

// Log returns the shared log's counters.
func (n *Node) LogStats() wal.Stats { return n.log.Stats() }

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
	err := n.transport.Close()
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

// Methods of control calls between nodes. The body is the group's key.
const (
	methodReadIndex byte = 1 // answers an index, 8 bytes
	methodIsOpen    byte = 2 // answers the applied index, 8 bytes, once the group is open
)

func (n *Node) handleCall(ctx context.Context, _ string, method byte, body []byte) ([]byte, error) {
	g := n.group(string(body))
	if g == nil {
		return nil, fmt.Errorf("group %q is not open here", body)
	}
	switch method {
	case methodReadIndex:
		return g.answerReadIndex(ctx)
	case methodIsOpen:
		applied, _ := g.machine.Applied()
		return binary.BigEndian.AppendUint64(nil, applied), nil
	}
	return nil, fmt.Errorf("unknown control method %d: the caller is of another version", method)
}
