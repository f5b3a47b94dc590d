package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// Peers carries hellos between nodes.
type Peers interface {
	// SendHello gives the text to every other node that can be reached now.
	SendHello(hello []byte) error
	// OnHello calls fn, from one goroutine, with what other nodes send.
	OnHello(fn func(hello []byte)) error
}

// Config is what a Directory needs.
type Config struct {
	Dir      string // the node's data directory; cluster.json lies there
	Name     string
	ServerID string
	Raft     string // address at which other nodes reach this node's Raft listener
	Prefix   string // of the subjects that the node answers
	Expect   int    // how many nodes form the cluster; 1 or more
	Commands int    // the highest kind of command in a store's log that this program can apply
	Now      func() time.Time
	Logger   *slog.Logger
	// OnMember is told when another node comes (up) or goes.
	OnMember func(name string, up bool)
}

// Times of hellos.
const (
	helloForming = 100 * time.Millisecond
	helloMissing = 500 * time.Millisecond // while a member is not heard: one that starts waits for ours
	helloFormed  = time.Second
	helloFirst   = 3 * time.Second // after its start a node sends as many as if it were forming: if it is connected to a cluster that is not its own, both must know soon
	downAfter    = 3 * time.Second // without a hello a node counts as down
)

const clusterFile = "cluster.json"

// disk is the content of cluster.json.
type disk struct {
	Format int   `json:"format"`
	State  State `json:"state"`
	Plan   Plan  `json:"plan"`
}

// Directory is this node's view of the cluster.
type Directory struct {
	cfg   Config
	peers Peers
	stop  context.CancelFunc
	done  chan struct{} // closed when run has ended

	trouble atomic.Pointer[trouble] // nil until look is called

	mu     sync.Mutex // guards what follows
	disk   disk
	seen   map[string]seen // by server id, others only
	wait   string          // why formation waits
	formed chan struct{}   // closed once this disk belongs to a cluster
}

type seen struct {
	hello Hello
	at    time.Time
	up    bool
}

// Load reads what the disk knows of its cluster. Start begins to speak with the others.
func Load(cfg Config) (*Directory, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Directory{cfg: cfg, seen: make(map[string]seen), formed: make(chan struct{}), disk: disk{Format: 1, State: Blank}}
	path := filepath.Join(cfg.Dir, clusterFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &d.disk)
	}
	if err != nil || d.disk.Format != 1 || d.disk.State != Prepared && d.disk.State != Formed {
		return nil, fmt.Errorf("%s is damaged (format %d, state %q, %v): restore it from another member's copy", path, d.disk.Format, d.disk.State, err)
	}
	if want := planOf(d.disk.Plan.Members); !d.disk.Plan.equal(want) {
		return nil, fmt.Errorf("%s is damaged: cluster %s of %v, whose id is %s: restore it from another member's copy", path, d.disk.Plan.Cluster, d.disk.Plan.Members, want.Cluster)
	}
	if !slices.Contains(d.disk.Plan.Members, cfg.ServerID) {
		return nil, fmt.Errorf("%s lists %v, not this disk %s: the file is another node's", path, d.disk.Plan.Members, cfg.ServerID)
	}
	if d.disk.State == Formed {
		close(d.formed)
	}
	return d, nil
}

// SetRaft says at which address the Raft listener is reached, when it was not known at Load.
func (d *Directory) SetRaft(addr string) { d.cfg.Raft = addr }

// Start begins to send and hear hellos, until Close.
func (d *Directory) Start(peers Peers) error {
	d.peers = peers
	ctx, cancel := context.WithCancel(context.Background())
	heard := make(chan struct{}, 1)
	err := peers.OnHello(func(raw []byte) {
		var h Hello
		if json.Unmarshal(raw, &h) != nil || h.ServerID == "" || h.ServerID == d.cfg.ServerID {
			return
		}
		if d.hear(h) {
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		cancel()
		return err // Close has nothing to wait for
	}
	d.stop, d.done = cancel, make(chan struct{})
	go d.run(ctx, heard) // ends when ctx is cancelled
	return nil
}

// Close says goodbye and stops.
func (d *Directory) Close() {
	if d.stop == nil {
		return
	}
	d.stop()
	<-d.done
	h := d.hello()
	h.Leaving = true
	d.send(h)
}

func (d *Directory) run(ctx context.Context, heard <-chan struct{}) {
	defer close(d.done)
	first := time.Now().Add(helloFirst)
	for {
		d.decide()
		d.send(d.hello())
		d.age()
		d.look()
		pace := d.pace()
		if time.Now().Before(first) {
			pace = helloForming
		}
		pause := time.NewTimer(pace)
		select {
		case <-heard:
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		pause.Stop()
	}
}

// pace is how long the next hello may wait.
func (d *Directory) pace() time.Duration {
	if !d.IsFormed() {
		return helloForming
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range d.disk.Plan.Members {
		if id != d.cfg.ServerID && !d.seen[id].up {
			return helloMissing
		}
	}
	return helloFormed
}

// hear reports whether the hello says something new that should be acted on at once.
func (d *Directory) hear(h Hello) bool {
	defer d.look() // at once: what a client asks for next may be refused
	d.mu.Lock()
	old, known := d.seen[h.ServerID]
	if h.Leaving {
		d.mu.Unlock()
		if known && old.up {
			d.setUp(h.ServerID, false)
		}
		return false
	}
	d.seen[h.ServerID] = seen{hello: h, at: d.cfg.Now(), up: known && old.up}
	d.mu.Unlock()
	if !known || !old.up {
		d.setUp(h.ServerID, true)
	}
	return !known || !old.up || old.hello.State != h.State || !old.hello.Plan.equal(h.Plan)
}

func (d *Directory) setUp(serverID string, up bool) {
	d.mu.Lock()
	s := d.seen[serverID]
	s.up = up
	d.seen[serverID] = s
	member := slices.Contains(d.disk.Plan.Members, serverID)
	d.mu.Unlock()
	d.cfg.Logger.Info("node seen", "node", s.hello.Name, "server_id", serverID, "up", up)
	if d.cfg.OnMember != nil && member {
		d.cfg.OnMember(s.hello.Name, up)
	}
}

// age marks nodes that have fallen silent.
func (d *Directory) age() {
	d.mu.Lock()
	var gone []string
	for id, s := range d.seen {
		if s.up && d.cfg.Now().Sub(s.at) > downAfter {
			gone = append(gone, id)
		}
	}
	d.mu.Unlock()
	for _, id := range gone {
		d.setUp(id, false)
	}
}

// decide carries out formation's next step, if there is one.
func (d *Directory) decide() {
	if d.IsFormed() {
		return
	}
	d.mu.Lock()
	var others []Hello
	for _, s := range d.seen {
		if s.up {
			others = append(others, s.hello)
		}
	}
	d.mu.Unlock()
	st := next(d.hello(), others)
	if st.wait != "" {
		d.mu.Lock()
		if d.wait != st.wait {
			d.wait = st.wait
			d.cfg.Logger.Info("cluster is not formed yet", "node", d.cfg.Name, "reason", st.wait)
		}
		d.mu.Unlock()
		return
	}
	to := disk{Format: 1, State: st.state, Plan: st.plan}
	if err := raftnode.WriteJSON(filepath.Join(d.cfg.Dir, clusterFile), to); err != nil {
		d.cfg.Logger.Error("formation cannot be written down", "error", err)
		return
	}
	d.mu.Lock()
	d.disk, d.wait = to, ""
	d.mu.Unlock()
	if st.state == Formed {
		d.cfg.Logger.Info("cluster is formed", "cluster", st.plan.Cluster, "members", st.plan.Members)
		close(d.formed)
	}
}

func (d *Directory) hello() Hello {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Hello{
		Name: d.cfg.Name, ServerID: d.cfg.ServerID, Raft: d.cfg.Raft, Version: api.Version,
		Commands: d.cfg.Commands, Prefix: d.cfg.Prefix, Expect: d.cfg.Expect, State: d.disk.State, Plan: d.disk.Plan,
	}
}

func (d *Directory) send(h Hello) {
	raw, err := json.Marshal(h)
	if err == nil {
		err = d.peers.SendHello(raw)
	}
	if err != nil {
		d.cfg.Logger.Debug("hello was not sent", "error", err)
	}
}

// IsFormed reports whether this disk belongs to a cluster.
func (d *Directory) IsFormed() bool {
	select {
	case <-d.formed:
		return true
	default:
		return false
	}
}

// WaitFormed returns once this disk belongs to a cluster, or ctx's error with the reason why it does not.
func (d *Directory) WaitFormed(ctx context.Context) error {
	select {
	case <-d.formed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cluster is not formed: %s: %w", d.Reason(), ctx.Err())
	}
}

// Reason says why formation waits; empty when it does not.
func (d *Directory) Reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wait
}

// ClusterID returns the cluster's id; empty before it is formed.
func (d *Directory) ClusterID() string {
	if !d.IsFormed() {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disk.Plan.Cluster
}

// Members returns the server ids of the cluster's members, sorted.
func (d *Directory) Members() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.disk.Plan.Members)
}

// Resolve returns the address at which a server's Raft listener was last said to be.
func (d *Directory) Resolve(serverID string) (string, error) {
	if serverID == d.cfg.ServerID {
		return d.cfg.Raft, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.seen[serverID]
	if !ok {
		return "", fmt.Errorf("%s has not been heard on the routes yet", serverID)
	}
	return s.hello.Raft, nil
}

// Commands returns the highest kind of command that the server last said it can apply, and whether it has been heard since this node started.
func (d *Directory) Commands(serverID string) (kind int, heard bool) {
	if serverID == d.cfg.ServerID {
		return d.cfg.Commands, true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, heard := d.seen[serverID]
	return s.hello.Commands, heard
}

// Nodes returns the members, and who else is heard, in name order.
func (d *Directory) Nodes() (members, unlisted []api.NodeInfo) {
	self := d.hello()
	now := d.cfg.Now().UTC()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range d.disk.Plan.Members {
		info := api.NodeInfo{Name: raftnode.ServerName(id), ServerID: id}
		if id == self.ServerID {
			info.Raft, info.Version, info.Up, info.Seen = self.Raft, self.Version, true, now
		} else if s, ok := d.seen[id]; ok {
			info.Raft, info.Version, info.Up, info.Seen = s.hello.Raft, s.hello.Version, s.up, s.at.UTC()
		}
		members = append(members, info)
	}
	for id, s := range d.seen {
		if !slices.Contains(d.disk.Plan.Members, id) && s.up {
			unlisted = append(unlisted, api.NodeInfo{Name: s.hello.Name, ServerID: id, Raft: s.hello.Raft, Version: s.hello.Version, Up: s.up, Seen: s.at.UTC()})
		}
	}
	sort.Slice(unlisted, func(i, j int) bool { return unlisted[i].ServerID < unlisted[j].ServerID })
	return members, unlisted
}
