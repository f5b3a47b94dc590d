// Package testcluster runs whole clusters for tests: nodes as real processes on loopback, which can be killed, paused, wiped and restarted.
//
// It waits for conditions, never for time to pass. Everything it starts ends with the test.
package testcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// Patience bounds every wait for a cluster. Reaching it is a failure.
const Patience = 45 * time.Second

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary builds cmd/quorate once a test process and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "quorate-bin-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "quorate")
		out, err := exec.Command("go", "build", "-o", build.path, "github.com/quorate/quorate/cmd/quorate").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// Edit changes one place of a source file for a build: old, which must be there exactly once. The file is named by its path in the module.
type Edit struct{ File, Old, New string }

// BinaryWith builds cmd/quorate with edits, to plant a bug or to make rare things frequent. The sources stay as they are, and no switch in them could be left on.
func BinaryWith(t testing.TB, edits ...Edit) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	dir, err := os.MkdirTemp(filepath.Dir(Binary(t)), "edited-") // goes with it
	if err != nil {
		t.Fatal(err)
	}
	replace := make(map[string]string)
	for i, e := range edits {
		original := filepath.Join(root, e.File)
		from := original
		if changed, again := replace[original]; again {
			from = changed
		}
		source, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), e.Old); n != 1 {
			t.Fatalf("%s has %q %d times, wanted once: say anew what the build is to change", e.File, e.Old, n)
		}
		replace[original] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[original], []byte(strings.Replace(string(source), e.Old, e.New, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "quorate")
	list, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, list, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", binary, "github.com/quorate/quorate/cmd/quorate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

var small struct {
	once sync.Once
	path string
}

// Small returns a node, built once a test process, that does in seconds what takes others hours: its log's segments hold a few hundred entries, and it takes a snapshot and cuts its log after a few
// dozen, so that a follower that was away for a moment is sent the state.
func Small(t testing.TB) string {
	t.Helper()
	small.once.Do(func() {
		small.path = BinaryWith(t,
			Edit{"raftnode/wal/segments.go", "defaultSegmentSize = 8 << 20", "defaultSegmentSize = 128 << 10"},
			Edit{"raftnode/group.go", "trailingLogs      = 8192", "trailingLogs      = 16"},
			Edit{"raftnode/group.go", "snapshotThreshold = 8192", "snapshotThreshold = 32"},
			Edit{"raftnode/group.go", "snapshotInterval  = 30 * time.Second", "snapshotInterval  = 300 * time.Millisecond"},
		)
	})
	if small.path == "" {
		t.Fatal("the small node could not be built; an earlier test says why")
	}
	return small.path
}

// CleanUp removes the binary; call it at the end of TestMain.
func CleanUp() {
	if build.path != "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// logLines is how much of each node's log a failed test shows. All of it, with what every goroutine waits for, goes to the directory that QUORATE_LOGS names.
const logLines = 60

// Cluster is n nodes.
type Cluster struct {
	T     testing.TB
	Nodes []*Node
	bin   string
}

// Node is one node; its process may be running or not.
type Node struct {
	Name                    string
	Data                    string
	NATS, Route, Raft, HTTP string // host:port
	cluster                 *Cluster
	in                      []string
	args                    []string
	cmd                     *exec.Cmd
	exited                  chan struct{} // closed when the process has ended
	down                    bool          // ended on purpose
	log                     *lockedBuffer
}

// Start starts n nodes and waits until all are ready.
func Start(t testing.TB, n int, extra ...string) *Cluster {
	t.Helper()
	c := New(t, n, extra...)
	for _, node := range c.Nodes {
		node.Start()
	}
	c.WaitReady()
	return c
}

// Place is where a node runs.
type Place struct {
	Host string   // its address; empty: loopback, with ports that nobody uses
	In   []string // what its command begins with, to run in a network namespace
	Data string   // its directory; empty: one of the test's
}

// New prepares n nodes without starting them.
func New(t testing.TB, n int, extra ...string) *Cluster {
	t.Helper()
	return NewAt(t, make([]Place, n), extra...)
}

// NewAt prepares a node for each place without starting them.
func NewAt(t testing.TB, places []Place, extra ...string) *Cluster {
	t.Helper()
	n := len(places)
	c := &Cluster{T: t, bin: Binary(t)}
	ports := FreePorts(t, 4*n)
	root := t.TempDir()
	for i, p := range places {
		name := fmt.Sprintf("n%d", i+1)
		addr := func(k int) string {
			if p.Host != "" {
				return fmt.Sprintf("%s:%d", p.Host, []int{4222, 6222, 7222, 8222}[k])
			}
			return fmt.Sprintf("127.0.0.1:%d", ports[4*i+k])
		}
		if p.Data == "" {
			p.Data = filepath.Join(root, name)
		}
		c.Nodes = append(c.Nodes, &Node{
			Name: name, Data: p.Data, NATS: addr(0), Route: addr(1), Raft: addr(2), HTTP: addr(3), in: p.In, cluster: c, log: &lockedBuffer{},
		})
	}
	for _, node := range c.Nodes {
		node.args = append([]string{
			"server", "--name", node.Name, "--data", node.Data, "--listen", node.NATS, "--cluster-listen", node.Route, "--raft-listen", node.Raft,
			"--http", node.HTTP, "--expect", fmt.Sprint(n),
		}, extra...)
		for _, other := range c.Nodes {
			if other != node {
				node.args = append(node.args, "--join", other.Route)
			}
		}
	}
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			if t.Failed() && os.Getenv("QUORATE_LOGS") != "" && node.Running() {
				node.Signal(syscall.SIGQUIT) // Go then prints what every goroutine waits for
				node.WaitExit()
			}
			node.Kill()
		}
		if t.Failed() {
			for _, node := range c.Nodes {
				t.Logf("--- log of %s\n%s", node.Name, tail(node.log.String(), logLines))
				if dir := os.Getenv("QUORATE_LOGS"); dir != "" {
					if err := os.WriteFile(filepath.Join(dir, node.Name+".log"), []byte(node.log.String()), 0o600); err != nil {
						t.Error(err)
					}
				}
			}
		}
	})
	return c
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Use makes the cluster's nodes run another binary from their next start on.
func (c *Cluster) Use(binary string) { c.bin = binary }

// FreePorts returns ports that nobody uses now. They are all held at once, so that none is given twice.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// Start starts the node's process.
func (n *Node) Start() {
	t := n.cluster.T
	t.Helper()
	n.down = false
	command := append(append(slices.Clone(n.in), n.cluster.bin), n.args...) // what it begins with replaces itself by the node: signals reach it
	n.cmd = exec.Command(command[0], command[1:]...)
	n.cmd.Stderr, n.cmd.Stdout = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	n.exited = exited
	cmd := n.cmd
	go func() { // ends with the process
		cmd.Wait()
		close(exited)
	}()
}

// Flags adds flags from the node's next start on. One that it has already is replaced.
func (n *Node) Flags(flags ...string) { n.args = append(n.args, flags...) }

// Running reports whether the process runs.
func (n *Node) Running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// Kill ends the process as kill -9 does, and waits for its end.
func (n *Node) Kill() {
	if !n.Running() {
		return
	}
	n.down = true
	n.cmd.Process.Signal(syscall.SIGCONT)
	n.cmd.Process.Kill()
	<-n.exited
}

// Signal sends the process a signal.
func (n *Node) Signal(s syscall.Signal) { n.cmd.Process.Signal(s) }

// Stop sends SIGTERM and returns the exit code.
func (n *Node) Stop() int {
	n.cluster.T.Helper()
	n.down = true
	n.Signal(syscall.SIGTERM)
	return n.WaitExit()
}

// WaitExit returns the exit code of a process that ends.
func (n *Node) WaitExit() int {
	n.cluster.T.Helper()
	select {
	case <-n.exited:
	case <-time.After(Patience):
		n.cluster.T.Fatalf("%s did not end\n%s", n.Name, tail(n.log.String(), 40))
	}
	return n.cmd.ProcessState.ExitCode()
}

// Wipe removes the node's disk.
func (n *Node) Wipe() {
	if err := os.RemoveAll(n.Data); err != nil {
		n.cluster.T.Fatal(err)
	}
}

// Log returns what the process has printed so far.
func (n *Node) Log() string { return n.log.String() }

// URL returns the node's NATS URL.
func (n *Node) URL() string { return "nats://" + n.NATS }

// Health asks /readyz.
func (n *Node) Health() (*api.HealthResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTP+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var h api.HealthResponse
	return &h, json.NewDecoder(res.Body).Decode(&h)
}

// Connect opens a NATS connection to this node alone.
func (n *Node) Connect() *nats.Conn {
	t := n.cluster.T
	t.Helper()
	nc, err := nats.Connect(n.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Connect opens a NATS connection that finds another node when its own dies.
func (c *Cluster) Connect() *nats.Conn {
	c.T.Helper()
	var urls []string
	for _, n := range c.Nodes {
		urls = append(urls, n.URL())
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(nc.Close)
	return nc
}

// Client returns a client on a connection that finds another node when its own dies.
func (c *Cluster) Client() *client.Client {
	c.T.Helper()
	return client.New(c.Connect(), client.WithTryTimeout(3*time.Second))
}

// WaitReady waits until every running node is ready.
func (c *Cluster) WaitReady() {
	c.T.Helper()
	for _, n := range c.Nodes {
		if n.down || n.cmd == nil {
			continue
		}
		Eventually(c.T, n.Name+" is ready", func() error {
			if !n.Running() {
				return fmt.Errorf("the process has ended:\n%s", tail(n.Log(), 20))
			}
			h, err := n.Health()
			if err == nil && !h.Ready {
				err = fmt.Errorf("%s", h.Reason)
			}
			return err
		})
	}
}

// Node returns the node with the name.
func (c *Cluster) Node(name string) *Node {
	c.T.Helper()
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	c.T.Fatalf("there is no node %q", name)
	return nil
}

// Leader waits until a running node is known to lead the store, and returns its state.
func (c *Cluster) Leader(cl *client.Client, store string) api.StoreLeader {
	c.T.Helper()
	var found api.StoreLeader
	Eventually(c.T, store+" has a leader that runs", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		res, err := cl.Leaders(ctx)
		if err != nil {
			return err
		}
		for _, s := range res.Stores {
			if s.Store == store && s.Leader != "" && c.Node(s.Leader).Running() {
				found = s
				return nil
			}
		}
		return fmt.Errorf("leaders are %+v", res.Stores)
	})
	return found
}

// CreateStore creates a store.
func (c *Cluster) CreateStore(cl *client.Client, name string) *api.ConfigPutResponse {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	res, err := cl.CreateStore(ctx, name, api.ConfigPutRequest{})
	if err != nil {
		c.T.Fatal(err)
	}
	return res
}

// pollEvery is how often a condition is looked at that nothing announces.
const pollEvery = 20 * time.Millisecond

// Eventually waits until ok returns nil.
func Eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v until %s: %v", Patience, what, err)
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
