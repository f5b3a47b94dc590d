package node_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/node"
	"github.com/quorate/quorate/internal/testcluster"
)

// startAs starts the node with another configuration than it had.
func (c *cluster) startAs(t *testing.T, i int, cfg node.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	n, err := node.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.nodes[i] = n
}

// Two clusters that were formed apart are one to NATS when a node is told by mistake to join a node of the other: requests of either's clients go to both. While they are connected neither carries out any,
// and says why.
func TestTwoClustersThatAreConnected(t *testing.T) {
	a, b := start(t, 1), start(t, 1, func(cfg *node.Config) { cfg.Name = "m1" })
	for _, c := range []*cluster{a, b} {
		ask(t, c.conn(0), "es.config.write.put.orders", "")
		ask(t, c.conn(0), "es.orders.write.append.a", `{"events":[{"type":"A"}]}`)
	}
	b.kill(0)
	stray := b.cfgs[0]
	stray.Join = []string{a.cfgs[0].ClusterListen}
	b.startAs(t, 0, stray)
	for c, other := range map[*cluster]string{a: "node m1", b: "node n1"} {
		testcluster.Eventually(t, "it is not ready", func() error {
			ready, why := c.nodes[0].Ready()
			if ready || !strings.Contains(why, other) || !strings.Contains(why, "--join") {
				return fmt.Errorf("ready: %v, %q", ready, why)
			}
			return nil
		})
	}
	for _, c := range []*cluster{a, b} {
		nc := c.conn(0)
		for _, subject := range []string{"es.config.write.put.other", "es.orders.write.append.a", "es.orders.read.all", "es.config.read.list", "es.cluster.write.transfer.orders"} {
			m, err := nc.Request(subject, []byte(`{}`), testcluster.Patience)
			var reply api.Reply
			if err != nil || json.Unmarshal(m.Data, &reply) != nil || !errors.Is(reply.Error, api.ErrNotReady) {
				t.Errorf("%s: %v, %+v", subject, err, reply.Error)
			}
		}
		ask(t, nc, "es.cluster.read.info", "")
	}
	b.kill(0)
	testcluster.Eventually(t, "it is ready again", func() error {
		if ready, why := a.nodes[0].Ready(); !ready {
			return errors.New(why)
		}
		return nil
	})
	nc := a.conn(0)
	ask(t, nc, "es.orders.write.append.a", `{"events":[{"type":"A"}]}`)
	var page api.ReadResponse
	if err := json.Unmarshal([]byte(ask(t, nc, "es.orders.read.all", "")), &page); err != nil || len(page.Events) != 2 {
		t.Errorf("%v, %d events, want the first and the last", err, len(page.Events))
	}
}

// A member that is started with another prefix than the others is noticed: what it leads, clients cannot reach.
func TestAnotherPrefix(t *testing.T) {
	c := start(t, 2)
	c.kill(1)
	odd := c.cfgs[1]
	odd.Prefix = "events"
	c.startAs(t, 1, odd)
	for i, other := range []string{"n2", "n1"} {
		testcluster.Eventually(t, c.nodes[i].Name()+" says so", func() error {
			if ready, why := c.nodes[i].Ready(); ready || !strings.Contains(why, "node "+other+" uses --prefix") {
				return fmt.Errorf("ready: %v, %q", ready, why)
			}
			return nil
		})
	}
	c.kill(1)
	c.up() // with the right one, and waits until all are ready
}
