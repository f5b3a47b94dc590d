// Package node puts one Quorate node together: it starts the parts in the order in which they need one another and stops them in reverse.
//
//	data directory → Raft listener and log → NATS and routes → formation → config store → config service → store manager, data stores → requests
//
// The config store is up before anything reads the configuration, and requests are answered last, so that whoever is
// answered is answered by a node that knows what there is.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/cluster"
	"github.com/quorate/quorate/configsvc"
	"github.com/quorate/quorate/dashboard"
	"github.com/quorate/quorate/natsbus"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// Config is everything a node can be told. The zero value of a field is its default.
type Config struct {
	Name          string      // unique in the cluster; default: n1
	Data          string      // directory; default: data
	Listen        string      // NATS clients; default: 127.0.0.1:4222
	ClusterListen string      // NATS routes; default: 127.0.0.1:6222
	RaftListen    string      // Raft; default: 127.0.0.1:7222
	RaftAdvertise string      // host:port at which other nodes reach RaftListen; default: RaftListen, with the host's name for 0.0.0.0
	RaftTLS       *tls.Config // mutual TLS between nodes' Raft listeners; nil: plain TCP
	HTTP          string      // dashboard, health, metrics; default: none
	Join          []string    // route addresses of other nodes
	Expect        int         // how many nodes form the cluster; default: 1
	ClusterName   string      // nodes of another name are refused; default: quorate
	Prefix        string      // of all subjects; default: es
	Inboxes       []string    // prefixes that replies may go to, beyond _INBOX; with or without a dot at the end
	Timing        raftnode.Timing
	Pprof         bool
	OnFatal       func(error) // a disk failed: the node must end; default: log and exit 3
	Logger        *slog.Logger
}

// ConfigError is a mistake in a Config.
type ConfigError struct{ error }

func (c *Config) validate() error {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Name, "n1")
	def(&c.Data, "data")
	def(&c.Listen, "127.0.0.1:4222")
	def(&c.ClusterListen, "127.0.0.1:6222")
	def(&c.RaftListen, "127.0.0.1:7222")
	def(&c.ClusterName, "quorate")
	def(&c.Prefix, api.DefaultPrefix)
	if c.Expect == 0 {
		c.Expect = 1
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnFatal == nil {
		c.OnFatal = func(err error) {
			c.Logger.Error("the node ends: it cannot keep what it promises", "error", err)
			os.Exit(3)
		}
	}
	if err := api.CheckNodeName(c.Name); err != nil {
		return fmt.Errorf("--name: %s", err.Description)
	}
	if err := api.CheckPrefix(c.Prefix); err != nil {
		return fmt.Errorf("--prefix: %s", err.Description)
	}
	if c.Expect < 1 || c.Expect > 9 {
		return fmt.Errorf("--expect %d: a cluster has 1 to 9 nodes; 3 or 5 are usual", c.Expect)
	}
	return c.validateAddresses()
}

func (c *Config) validateAddresses() error {
	for flag, addr := range map[string]string{"--listen": c.Listen, "--cluster-listen": c.ClusterListen, "--raft-listen": c.RaftListen, "--raft-advertise": c.RaftAdvertise, "--http": c.HTTP} {
		if addr == "" && (flag == "--raft-advertise" || flag == "--http") {
			continue
		}
		if _, _, err := natsbus.SplitAddr(addr); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	for _, addr := range c.Join {
		if _, rest, isURL := strings.Cut(addr, "://"); isURL {
			addr = rest[strings.LastIndex(rest, "@")+1:]
		}
		if _, _, err := natsbus.SplitAddr(addr); err != nil {
			return fmt.Errorf("--join: %w", err)
		}
	}
	return nil
}

// Node is a running node.
type Node struct {
	cfg       Config
	identity  *raftnode.Identity
	directory *cluster.Directory
	raft      *raftnode.Node
	bus       *natsbus.Bus
	stores    *stores.Manager
	config    *configsvc.Service
	http      *http.Server
	httpAddr  string
	opening   atomic.Pointer[stores.Manager] // stores, for those who ask before the node serves
	serving   atomic.Bool
	stopping  atomic.Bool
}

// Start starts a node and returns once it serves requests. With ctx done before the cluster is formed it gives up. On an error everything that was started is stopped.
func Start(ctx context.Context, cfg Config) (_ *Node, err error) {
	if err := cfg.validate(); err != nil {
		return nil, ConfigError{err}
	}
	tuneGC()
	n := &Node{cfg: cfg}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.identity, err = raftnode.OpenIdentity(cfg.Data, cfg.Name, time.Now()); err != nil {
		return nil, err
	}
	if err = n.listen(); err != nil {
		return nil, err
	}
	if err = n.directory.WaitFormed(ctx); err != nil {
		return nil, err
	}
	if err = n.openStores(); err != nil {
		return nil, err
	}
	err = n.bus.Serve(natsbus.Backend{Stores: n.stores, Config: n.config, Directory: n.directory, Ready: n.Ready})
	if err != nil {
		return nil, err
	}
	n.serving.Store(true)
	cfg.Logger.Info("the node serves", "node", cfg.Name, "nats", n.bus.ClientURL(), "cluster", n.directory.ClusterID(), "stores", len(n.stores.List())-1)
	return n, nil
}

// listen opens everything that speaks with other nodes, and begins to look for them.
func (n *Node) listen() (err error) {
	cfg := &n.cfg
	n.directory, err = cluster.Load(cluster.Config{
		Dir: cfg.Data, Name: cfg.Name, ServerID: n.identity.ServerID(), Prefix: cfg.Prefix, Expect: cfg.Expect, Commands: stores.Commands, Logger: cfg.Logger,
		OnMember: n.memberSeen,
	})
	if err != nil {
		return err
	}
	n.raft, err = raftnode.Open(raftnode.Config{
		Identity: n.identity, Listen: cfg.RaftListen, ClusterID: n.directory.ClusterID, Resolve: n.directory.Resolve,
		TLS: cfg.RaftTLS, HasData: n.directory.IsFormed(), Timing: cfg.Timing, OnFatal: cfg.OnFatal, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	advertise, err := advertised(cfg.RaftAdvertise, n.raft.Addr())
	if err != nil {
		return fmt.Errorf("--raft-advertise: %w", err)
	}
	n.directory.SetRaft(advertise)
	n.bus, err = natsbus.Start(natsbus.Config{
		Server: natsbus.ServerConfig{
			Name: cfg.Name, ClusterName: cfg.ClusterName, Listen: cfg.Listen, ClusterListen: cfg.ClusterListen,
			Routes: cfg.Join, Prefix: cfg.Prefix,
		},
		ServerID: n.identity.ServerID(), Inboxes: cfg.Inboxes, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	if err := n.serveHTTP(); err != nil {
		return err
	}
	return n.directory.Start(n.bus)
}

func (n *Node) openStores() error {
	cfg := &n.cfg
	n.stores = stores.NewManager(stores.Config{
		Node: n.raft, Dir: cfg.Data, OnLeadership: n.bus.OnLeadership, OnCommitted: n.bus.Committed, Listens: n.bus.Listens, Push: n.bus, OnClosing: n.bus.OnClosing,
		Commands: n.directory.Commands, OnFatal: cfg.OnFatal, Logger: cfg.Logger,
	})
	n.opening.Store(n.stores)
	members := n.directory.Members()
	config, err := n.stores.Open(stores.Spec{Name: api.ConfigStore, ID: 0, Incarnation: 1, Members: members})
	if err != nil {
		return fmt.Errorf("the config store cannot be opened, and without it no other: %w", err)
	}
	n.config, err = configsvc.Start(configsvc.Config{
		Store: config, Manager: n.stores, ServerID: n.identity.ServerID(), Members: n.directory.Members, OnFatal: cfg.OnFatal, Logger: cfg.Logger,
	})
	return err
}

// advertised returns where other nodes reach the Raft listener. A listener on all addresses is reached by the host's name.
func advertised(given, listening string) (string, error) {
	if given != "" {
		_, _, err := net.SplitHostPort(given)
		return given, err
	}
	host, port, err := net.SplitHostPort(listening)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

func (n *Node) memberSeen(name string, up bool) {
	if n.serving.Load() && !n.stopping.Load() {
		subject := api.Subjects{Prefix: n.cfg.Prefix}.MemberEvent(name)
		n.bus.Publish(subject, cluster.NewMemberEvent(name, n.cfg.Name, up, time.Now()))
	}
}

// serveHTTP opens the dashboard before the node is ready, so that it can say what it waits for.
func (n *Node) serveHTTP() error {
	if n.cfg.HTTP == "" {
		return nil
	}
	l, err := net.Listen("tcp", n.cfg.HTTP)
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	n.httpAddr = l.Addr().String()
	n.http = &http.Server{Handler: dashboard.New(n, n.cfg.Pprof), ReadHeaderTimeout: 5 * time.Second}
	go n.http.Serve(l) // ends when http is shut down
	return nil
}

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Name }

// ClientURL returns where NATS clients connect.
func (n *Node) ClientURL() string { return n.bus.ClientURL() }

// HTTPAddr returns the dashboard's address; empty when there is none.
func (n *Node) HTTPAddr() string { return n.httpAddr }

// Stores returns the node's stores.
func (n *Node) Stores() *stores.Manager { return n.stores }

// Directory returns the node's view of the cluster.
func (n *Node) Directory() *cluster.Directory { return n.directory }

// LogStats returns the shared log's counters as names and values.
func (n *Node) LogStats() map[string]float64 {
	s := n.raft.LogStats()
	return map[string]float64{"syncs": float64(s.Syncs), "requests": float64(s.Requests), "entries": float64(s.Entries), "bytes": float64(s.Bytes)}
}

// TransportStats returns the counters of the transport between nodes as names and values.
func (n *Node) TransportStats() map[string]float64 {
	s := n.raft.TransportStats()
	return map[string]float64{
		"frames_out": float64(s.Frames), "writes": float64(s.Writes), "bytes_out": float64(s.BytesOut),
		"frames_in": float64(s.FramesIn), "bytes_in": float64(s.BytesIn), "dropped": float64(s.Dropped), "broken": float64(s.Broken),
		"strangers": float64(s.Strangers),
	}
}

// OpenStores returns the stores that are open; none before they are.
func (n *Node) OpenStores() []*stores.Store {
	if !n.serving.Load() {
		return nil
	}
	return n.stores.List()
}

// Health says whether the node is ready and which stores have a problem here.
func (n *Node) Health() *api.HealthResponse {
	if !n.serving.Load() {
		ready, reason := n.Ready()
		return &api.HealthResponse{Reply: api.Reply{Type: api.TypeHealth}, Node: n.cfg.Name, Ready: ready, Reason: reason}
	}
	return n.bus.Health()
}

// Ready reports whether the node has joined, can read the configuration and has recovered its replicas; and if not, why.
func (n *Node) Ready() (bool, string) {
	switch {
	case n.stopping.Load():
		return false, "the node is stopping"
	case !n.directory.IsFormed():
		return false, "the cluster is not formed: " + n.directory.Reason()
	case !n.serving.Load():
		if m := n.opening.Load(); m != nil {
			if done, wanted := m.Progress(); wanted > 0 {
				return false, fmt.Sprintf("the node is opening its stores: %d of %d are done", done, wanted)
			}
		}
		return false, "the node is opening its stores"
	}
	if why := n.directory.Trouble(); why != "" {
		return false, why
	}
	config, ok := n.stores.Get(api.ConfigStore)
	if !ok || config.Leadership().Leader == "" {
		return false, "the config store has no leader: too few members are up"
	}
	if failures := n.stores.Failures(); len(failures) > 0 {
		return false, fmt.Sprintf("%d replicas are not open, the first is %s: %v", len(failures), failures[0].Spec.Name, failures[0].Err)
	}
	return true, ""
}

// handOverTime bounds the first step of Stop, so that time is left for the others when no member can take over.
const handOverTime = 6 * time.Second

// Stop hands leaderships over, finishes requests and stops everything in reverse order of start. When ctx is done it stops waiting for others.
func (n *Node) Stop(ctx context.Context) error {
	n.stopping.Store(true)
	half, cancel := context.WithTimeout(ctx, handOverTime)
	n.stores.HandOver(half)
	cancel()
	err := n.bus.StopServing(ctx)
	return errors.Join(err, n.close())
}

// Kill stops everything without handing over or waiting for requests, as far as a process can do that to a part of itself. Tests of whole clusters in one
// process use it.
func (n *Node) Kill() error {
	n.stopping.Store(true)
	return n.close()
}

func (n *Node) close() error {
	n.stopping.Store(true)
	var errs []error
	if n.config != nil {
		n.config.Close()
	}
	if n.stores != nil {
		errs = append(errs, n.stores.Close(), n.stores.CloseConfig())
	}
	if n.directory != nil {
		n.directory.Close()
	}
	if n.http != nil {
		errs = append(errs, n.http.Close())
	}
	if n.bus != nil {
		n.bus.Close()
	}
	if n.raft != nil {
		errs = append(errs, n.raft.Close())
	}
	if n.identity != nil {
		errs = append(errs, n.identity.Close())
	}
	return errors.Join(errs...)
}
