package node_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/node"
	"github.com/quorate/quorate/internal/testcluster"
)

// conn connects to one node, and to no other.
func (c *cluster) conn(i int, opts ...nats.Option) *nats.Conn {
	c.t.Helper()
	nc, err := nats.Connect("nats://"+c.cfgs[i].Listen, append(opts, nats.IgnoreDiscoveredServers())...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// ask returns the answer to a request that must succeed.
func ask(t *testing.T, nc *nats.Conn, subject, data string) string {
	t.Helper()
	m, err := nc.Request(subject, []byte(data), testcluster.Patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	if strings.Contains(string(m.Data), `"error":`) {
		t.Fatalf("%s: %s", subject, m.Data)
	}
	return string(m.Data)
}

// Clients may watch requests in queue groups of theirs, whatever they name them and however wide their subjects are. Each group gets each request once, and the cluster answers all of them. With permissions that
// denied clients the cluster's subjects, two clients on the two nodes that do not lead had the servers send requests to and fro for ever, and those of a group named as the store were lost.
func TestClientsInQueueGroups(t *testing.T) {
	c := start(t, 3)
	ask(t, c.conn(0), "es.config.write.put.orders", "")
	leader := c.leads("orders")
	groups := []struct{ subject, name string }{{"es.orders.>", "orders"}, {"*.orders.write.>", "w"}, {">", "all"}, {">", "quorate.nodes"}}
	type seen struct {
		probes, writes, reads atomic.Int64
	}
	got := make([]seen, len(groups))
	for g := range groups {
		for _, i := range []int{(leader + 1) % 3, (leader + 2) % 3} {
			nc := c.conn(i)
			if _, err := nc.QueueSubscribe(groups[g].subject, groups[g].name, func(m *nats.Msg) {
				switch {
				case strings.HasSuffix(m.Subject, ".probe"):
					got[g].probes.Add(1)
				case strings.HasPrefix(m.Subject, "es.orders.write.append."):
					got[g].writes.Add(1)
				case strings.Contains(m.Subject, "es.orders.read.stream."):
					got[g].reads.Add(1)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var conns []*nats.Conn
	for i := range 3 {
		nc := c.conn(i)
		conns = append(conns, nc)
		for g := range groups { // until every server knows every group
			testcluster.Eventually(t, fmt.Sprintf("node %d reaches group %s", i, groups[g].name), func() error {
				before := got[g].probes.Load()
				if err := nc.Publish("es.orders.write.probe", nil); err != nil {
					return err
				}
				if err := nc.Flush(); err != nil {
					return err
				}
				if got[g].probes.Load() == before {
					return fmt.Errorf("group %s has seen %d probes", groups[g].name, before)
				}
				return nil
			})
		}
	}
	const each = 40
	var wg sync.WaitGroup
	for _, nc := range conns {
		for n := range each {
			for _, r := range []struct{ subject, data string }{
				{fmt.Sprintf("es.orders.write.append.s%d", n), `{"events":[{"type":"A"}]}`}, {fmt.Sprintf("es.orders.read.stream.s%d", n), "{}"},
			} {
				wg.Go(func() { // ends with the answer
					if m, err := nc.Request(r.subject, []byte(r.data), testcluster.Patience); err != nil || !json.Valid(m.Data) {
						t.Errorf("%s: %v", r.subject, err)
					}
				})
			}
		}
	}
	wg.Wait()
	for g := range groups {
		reads := int64(0)
		if groups[g].subject == ">" { // a node's reads travel under another subject
			reads = 3 * each
		}
		testcluster.Eventually(t, "group "+groups[g].name+" has seen all", func() error {
			if w, r := got[g].writes.Load(), got[g].reads.Load(); w != 3*each || r != reads {
				return fmt.Errorf("%d of %d writes, %d of %d reads", w, 3*each, r, reads)
			}
			return nil
		})
	}
}

// What a node is told that inboxes begin with is what clients are told.
func TestInboxPrefix(t *testing.T) {
	c := start(t, 1, func(cfg *node.Config) { cfg.Inboxes = []string{"ACME"} })
	nc := c.conn(0, nats.CustomInboxPrefix("ACME"))
	ask(t, nc, "es.config.write.put.orders", "")
	var info api.StoreInfoResponse
	if err := json.Unmarshal([]byte(ask(t, nc, "es.orders.read.info", "")), &info); err != nil || info.Store != "orders" {
		t.Errorf("%+v, %v", info, err)
	}
}
