package raftnode

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/raftnode/wal"
)

const patience = 30 * time.Second // of waits that end much sooner when all is well

var (
	testTiming = Timing{Probe: 20 * time.Millisecond, Silence: 600 * time.Millisecond, Heartbeat: time.Hour, Election: time.Hour, Lease: time.Hour, Commit: time.Hour} // Raft's own timers never fire in a test
	testGroup  = wal.GroupID{Store: 7, Incarnation: 1}
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition that tells nobody when it comes true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// member is one node with one group, on a directory of its own.
type member struct {
	t       testing.TB
	cluster *testCluster
	name    string
	dir     string
	timing  Timing
	disk    *disk    // of the log's segments; nil: a real one, which forgets nothing
	said    *sayings // counts what it logs; nil: nobody does

	ioTimeout time.Duration // of exchanges; 0: the transport's default

	around func(*lines) Machine // what the group gets in the place of its machine; nil: that itself

	identity *Identity
	node     *Node
	group    *Group
	machine  *lines

	mu    sync.Mutex // guards views
	views []Leadership
}

type testCluster struct {
	members []*member
	ids     []string // server ids of the first members
	direct  bool     // members reach each other without links, which cost processor time

	mu    sync.Mutex // guards what follows
	addrs map[string]string
	links map[[2]string]*link // by server ids: from, to
	cut   map[string]bool     // server ids that nothing gets through to or from
}

// newCluster opens a group of n members.
func newCluster(t testing.TB, n int) *testCluster {
	t.Helper()
	c := &testCluster{addrs: map[string]string{}, links: map[[2]string]*link{}, cut: map[string]bool{}}
	for i := range n {
		m := &member{t: t, cluster: c, name: fmt.Sprintf("n%d", i+1), dir: t.TempDir(), timing: testTiming}
		c.members = append(c.members, m)
		m.identify()
		c.ids = append(c.ids, m.identity.ServerID())
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.stop()
		}
		for _, l := range c.links {
			l.close()
		}
	})
	return c
}

func (c *testCluster) start() *testCluster {
	for _, m := range c.members {
		m.start()
	}
	return c
}

func (m *member) identify() {
	m.t.Helper()
	var err error
	if m.identity, err = OpenIdentity(m.dir, m.name, epoch); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) listen() {
	m.t.Helper()
	if m.identity == nil {
		m.identify()
	}
	self := m.identity.ServerID()
	_, statErr := os.Stat(filepath.Join(m.dir, "raft.db"))
	cfg := Config{
		Identity: m.identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c1" }, HasData: statErr == nil, Timing: m.timing,
		Resolve:   func(id string) (string, error) { return m.cluster.resolve(self, id) },
		ioTimeout: m.ioTimeout,
	}
	if m.said != nil {
		cfg.Logger = slog.New(m.said)
	}
	if m.disk != nil {
		cfg.segments, cfg.OnFatal = m.disk, func(error) {}
	}
	node, err := Open(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.node = node
	m.cluster.mu.Lock()
	m.cluster.addrs[self] = node.Addr()
	m.cluster.mu.Unlock()
}

func (m *member) open() error {
	dir := filepath.Join(m.dir, "group")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	m.machine = openLines(m.t, filepath.Join(dir, "state"))
	var machine Machine = m.machine
	if m.around != nil {
		machine = m.around(m.machine)
	}
	g, err := m.node.OpenGroup(GroupConfig{
		ID: testGroup, Name: "orders", Dir: dir, Machine: machine, Bootstrap: m.cluster.ids,
		OnLeadership: func(l Leadership) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.views = append(m.views, l)
		},
	})
	m.group = g
	return err
}

func (m *member) start() {
	m.t.Helper()
	m.listen()
	if err := m.open(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) stop() {
	m.t.Helper()
	if m.group != nil {
		if err := m.group.Close(); err != nil {
			m.t.Errorf("%s: close group: %v", m.name, err)
		}
	}
	if m.node != nil {
		if err := m.node.Close(); err != nil {
			m.t.Errorf("%s: close node: %v", m.name, err)
		}
	}
	if m.identity != nil {
		m.identity.Close()
	}
	m.group, m.node, m.identity = nil, nil, nil
}

func (m *member) seen() []Leadership {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Leadership(nil), m.views...)
}

// write appends a line through the member, which must lead, and returns its index.
func (m *member) write(line string) (uint64, error) {
	p, err := m.group.Propose([]byte(line))
	if err != nil {
		return 0, err
	}
	if _, err := p.Wait(); err != nil {
		return 0, err
	}
	index, _ := m.machine.Applied()
	return index, nil
}

func (m *member) mustWrite(line string) uint64 {
	m.t.Helper()
	index, err := m.write(line)
	if err != nil {
		m.t.Fatalf("write %s: %v", line, err)
	}
	return index
}

// leader waits until one of the members that run serves.
func (c *testCluster) leader(t testing.TB, except ...*member) *member {
	t.Helper()
	var found *member
	eventually(t, "a member serves", func() bool {
		for _, m := range c.members {
			skip := m.group == nil
			for _, e := range except {
				skip = skip || e == m
			}
			if !skip && m.group.Leadership().Role == Serving {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// mustTake writes a line through whoever leads, and returns who took it. On a slow machine a leader that was just elected may be replaced once more.
func (c *testCluster) mustTake(t testing.TB, line string) (by *member) {
	t.Helper()
	eventually(t, "a leader takes "+line, func() bool {
		by = c.leader(t)
		_, err := by.write(line)
		return err == nil
	})
	return by
}

// allTake is mustTake, and waits until everybody has applied what the leader has.
func (c *testCluster) allTake(t testing.TB, line string) (leader *member) {
	t.Helper()
	leader = c.mustTake(t, line)
	index, _ := leader.machine.Applied()
	c.heard(t, leader, index)
	return leader
}

// heard waits until the leader's followers have applied the entry.
func (c *testCluster) heard(t testing.TB, leader *member, index uint64) {
	t.Helper()
	for _, f := range c.followers(leader) {
		if err := f.machine.WaitApplied(testContext(t), index); err != nil {
			t.Fatalf("%s does not hear of entry %d: %v", f.name, index, err)
		}
	}
}

func (c *testCluster) followers(leader *member) (out []*member) {
	for _, m := range c.members {
		if m != leader && m.group != nil {
			out = append(out, m)
		}
	}
	return out
}

// moveTo makes the member the one that serves.
func (c *testCluster) moveTo(t testing.TB, m *member) {
	t.Helper()
	var last error
	served := false
	defer func() {
		if !served {
			for _, o := range c.members {
				if o.group != nil {
					t.Logf("%s: %+v\n%v", o.name, o.group.Leadership(), o.group.raft.Stats())
				}
			}
			t.Logf("the last transfer: %v", last)
		}
	}()
	eventually(t, m.name+" serves", func() bool {
		l := c.leader(t)
		if l != m {
			last = l.group.Transfer(m.node.ServerID())
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			m.group.WaitLeadership(ctx, func(v Leadership) bool { return v.Role == Serving })
		}
		served = m.group.Leadership().Role == Serving
		return served
	})
}

func (c *testCluster) resolve(from, to string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.addrs[to]; !ok {
		return "", fmt.Errorf("%s has not been heard", to)
	}
	if c.direct {
		return c.addrs[to], nil
	}
	l := c.links[[2]string{from, to}]
	if l == nil {
		var err error
		if l, err = newLink(func() string { c.mu.Lock(); defer c.mu.Unlock(); return c.addrs[to] }); err != nil {
			return "", err
		}
		l.cut = c.cut[from] || c.cut[to]
		c.links[[2]string{from, to}] = l
	}
	return l.listener.Addr().String(), nil
}

// isolate lets nothing through between the member and all others, without telling either end.
func (c *testCluster) isolate(m *member, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[m.node.ServerID()] = cut
	for key, l := range c.links {
		if key[0] == m.node.ServerID() || key[1] == m.node.ServerID() {
			l.setCut(c.cut[key[0]] || c.cut[key[1]])
		}
	}
}

// link returns the way from one member to another one that it has been connected to.
func (c *testCluster) link(from, to *member) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.links[[2]string{from.node.ServerID(), to.node.ServerID()}]
}

// silence lets nothing through of what the member asks others, or all again; what they ask it, it answers.
func (c *testCluster) silence(m *member, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, l := range c.links {
		if key[0] == m.node.ServerID() {
			l.setCut(cut)
		}
	}
}

// link forwards connections, or swallows what they carry while it is cut. Healing ends the connections that have lost something.
type link struct {
	listener net.Listener
	target   func() string

	mu    sync.Mutex // guards what follows
	cut   bool
	lost  []byte // what it has swallowed
	mute  bool   // answers to entries are swallowed
	conns map[net.Conn]bool
}

func newLink(target func() string) (*link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: ln, target: target, conns: map[net.Conn]bool{}}
	go func() { // ends when the listener is closed
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go l.forward(conn) // ends with the connection
		}
	}()
	return l, nil
}

func (l *link) forward(a net.Conn) {
	var head [6]byte // magic, version and kind of a handshake
	if _, err := io.ReadFull(a, head[:]); err != nil {
		a.Close()
		return
	}
	b, err := net.Dial("tcp", l.target())
	if err != nil {
		a.Close()
		return
	}
	l.mu.Lock()
	l.conns[a], l.conns[b] = true, true
	l.mu.Unlock()
	go l.pipe(io.MultiReader(bytes.NewReader(head[:]), a), a, b, false)
	l.pipe(b, b, a, head[5] == 1)
	l.mu.Lock()
	delete(l.conns, a)
	delete(l.conns, b)
	l.mu.Unlock()
}

func (l *link) pipe(r io.Reader, from, to net.Conn, answers bool) {
	defer from.Close()
	defer to.Close()
	io.Copy(writerFunc(func(p []byte) (int, error) {
		l.mu.Lock()
		cut := l.cut || l.mute && answers && len(p) > 2 // a handshake's welcome has two bytes, and comes alone
		if cut {
			l.lost = append(l.lost, p...)
		}
		l.mu.Unlock()
		if cut {
			return len(p), nil
		}
		return to.Write(p)
	}), r)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if !cut {
		for c := range l.conns {
			c.Close()
		}
	}
}

// swallowed reports whether the text was lost while the link was cut.
func (l *link) swallowed(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.lost, []byte(text))
}

// muteAnswers lets entries through, and no answers to them.
func (l *link) muteAnswers(mute bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = mute
}

func (l *link) close() {
	l.listener.Close()
	l.setCut(false)
}
