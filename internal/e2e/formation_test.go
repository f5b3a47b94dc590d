package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

func clusterID(t *testing.T, nc *nats.Conn) string {
	t.Helper()
	info, failed := request[api.ClusterInfoResponse](t, nc, "es.cluster.read.info", "")
	if failed != nil {
		t.Fatal(failed)
	}
	return info.Cluster
}

// TestFormation: the cluster is formed once; restarts of some or all nodes, in any order, bring the same one back with its data.
func TestFormation(t *testing.T) {
	c := testcluster.New(t, 3)
	// Two of three expected nodes do not form anything.
	c.Nodes[0].Start()
	c.Nodes[1].Start()
	testcluster.Eventually(t, "n1 waits for the third node", func() error {
		h, err := c.Nodes[0].Health()
		if err == nil && (h.Ready || !strings.Contains(h.Reason, "2 of 3")) {
			t.Logf("reason: %s", h.Reason)
			return os.ErrNotExist
		}
		return err
	})
	c.Nodes[2].Start()
	c.WaitReady()
	cl := c.Client()
	id := clusterID(t, c.Nodes[0].Connect())
	c.CreateStore(cl, "orders")
	ctx, cancel := context.WithTimeout(context.Background(), 2*testcluster.Patience)
	defer cancel()
	if _, err := cl.Store("orders").Append(ctx, "s", []api.NewEvent{{Type: "A"}}, client.NoStream); err != nil {
		t.Fatal(err)
	}
	for round, order := range [][]int{{2, 0, 1}, {1, 2, 0}} {
		for _, n := range c.Nodes {
			n.Kill()
		}
		for _, i := range order {
			c.Nodes[i].Start()
		}
		c.WaitReady()
		for _, n := range c.Nodes {
			if got := clusterID(t, n.Connect()); got != id {
				t.Fatalf("round %d: %s is in cluster %s, it was %s", round, n.Name, got, id)
			}
		}
		if _, err := cl.Store("orders").Append(ctx, "s", []api.NewEvent{{Type: "A"}}, int64(round)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	// Two of three are enough to go on.
	for _, n := range c.Nodes {
		n.Kill()
	}
	c.Nodes[2].Start()
	c.Nodes[1].Start()
	c.WaitReady()
	if _, err := cl.Store("orders").Append(ctx, "s", []api.NewEvent{{Type: "A"}}, 2); err != nil {
		t.Fatal(err)
	}
}

// TestWipedDisk: a node whose disk was emptied is a new member that nobody listed. It forms no cluster of its own, and it does not vote: with it and one
// old member there is no majority, since the third may hold what the wiped one forgot.
func TestWipedDisk(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	load := testcluster.StartLoad(clients(c, 1), "orders", 2)
	load.WaitAcks(t, 20)
	load.Stop(t)
	id := clusterID(t, c.Nodes[0].Connect())
	wiped, old, away := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	for _, n := range c.Nodes {
		n.Kill()
	}
	wiped.Wipe()
	wiped.Start()
	old.Start()
	testcluster.Eventually(t, "the wiped node says that it is not a member", func() error {
		h, err := wiped.Health()
		if err == nil && !strings.Contains(h.Reason, "new to it") {
			t.Logf("reason: %s", h.Reason)
			return os.ErrNotExist
		}
		return err
	})
	// The old member alone has no majority, whatever the wiped one says.
	nc := old.Connect()
	testcluster.Eventually(t, "the old member answers", func() error { // the wiped one may have heard it before
		_, err := nc.Request("es.cluster.read.info", nil, requestTimeout)
		return err
	})
	_, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.x", `{"events":[{"type":"A"}]}`)
	if err := wantError(failed, api.ErrNoLeader); err != nil {
		t.Errorf("with a wiped disk and one member: %v", err)
	}
	info, failed := request[api.ClusterInfoResponse](t, old.Connect(), "es.cluster.read.info", "")
	if failed != nil || info.Cluster != id || len(info.Nodes) != 3 || len(info.Unlisted) != 1 || info.Unlisted[0].Name != wiped.Name {
		t.Errorf("cluster info: %v %+v", failed, info)
	}
	away.Start()
	c.Nodes = c.Nodes[1:]
	c.WaitReady()
	c.WaitSame("orders")
	for _, n := range c.Nodes {
		load.Check(t, client.New(n.Connect()), api.Local)
	}
}

// TestDataDirectory: a directory is used by one process, and by one node.
func TestDataDirectory(t *testing.T) {
	c := testcluster.Start(t, 1)
	n := c.Nodes[0]
	try := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		all := append([]string{"server", "--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0", "--raft-listen", "127.0.0.1:0", "--http", ""}, args...)
		out, err := exec.CommandContext(ctx, testcluster.Binary(t), all...).CombinedOutput()
		if err == nil || ctx.Err() != nil {
			t.Fatalf("%v: it started: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := try("--name", "n1", "--data", n.Data); !strings.Contains(out, "in use") {
		t.Errorf("a second process: %s", out)
	}
	if code := n.Stop(); code != 0 {
		t.Errorf("exit code %d on SIGTERM", code)
	}
	if out := try("--name", "n2", "--data", n.Data); !strings.Contains(out, `belongs to node "n1"`) {
		t.Errorf("another name: %s", out)
	}
	strange := t.TempDir()
	if err := os.WriteFile(filepath.Join(strange, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := try("--name", "n1", "--data", strange); !strings.Contains(out, "thesis.txt") {
		t.Errorf("a directory of somebody else: %s", out)
	}
	// A lost log is a lost memory of votes: the node must not start as if nothing had been.
	if err := os.Remove(filepath.Join(n.Data, "raft.db")); err != nil {
		t.Fatal(err)
	}
	if out := try("--name", "n1", "--data", n.Data); !strings.Contains(out, "raft.db is gone") {
		t.Errorf("without its log: %s", out)
	}
}
