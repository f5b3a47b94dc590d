package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// serviceNames: a store may have the name that the nodes have as a micro service; NATS makes one group of queue subscriptions of one name, and the store's leader
// must not share its group with them.
func serviceNames(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, name := range []string{"quorate", "nodes"} {
		if _, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put."+name, ``); failed != nil {
			t.Fatal(failed)
		}
		for i := range 12 { // every one is answered
			res, failed := request[api.AppendResponse](t, nc, "es."+name+".write.append.s", fmt.Sprintf(`{"events":[{"id":"%d","type":"A"}]}`, i))
			if failed != nil || res.Version != uint64(i) {
				t.Errorf("append %d to store %s: %v %+v", i, name, failed, res)
			}
		}
	}
}

// micro answers PING, INFO and STATS wherever the asker says: what it says must not reach a subject to which the asker may not publish, nor be carried out as a request.
func serviceReplies(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.srv", `{"events":[{"type":"A"}]}`); failed != nil {
		t.Fatal(failed)
	}
	events, err := nc.SubscribeSync("es.orders.event.srv")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		for _, reply := range []string{"es.orders.event.srv", "es.orders.write.append.srv"} {
			if err := nc.PublishRequest("$SRV."+verb+".quorate", reply, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := nc.Request("$SRV."+verb+".quorate", nil, requestTimeout); err != nil { // an inbox is answered, after the others were looked at
			t.Errorf("%s: %v", verb, err)
		}
	}
	res, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.srv", `{"events":[{"id":"last","type":"A"}]}`)
	if failed != nil || res.Version != 1 {
		t.Errorf("the append after them: %v %+v", failed, res)
	}
	m, err := events.NextMsg(testcluster.Patience)
	if err != nil || m.Header.Get("ce-id") != "last" {
		t.Errorf("the first live event: %v %v %s", err, m.Header, m.Data)
	}
}

// TestListenerOfEverything: somebody who listens to everything is taken for nobody's leader: writes are answered while he does, also when there is none.
func TestListenerOfEverything(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	leader := c.Node(c.CreateStore(cl, "orders").Leader)
	at := c.Nodes[0]
	if at == leader {
		at = c.Nodes[1]
	}
	nc := at.Connect()
	if _, err := nc.Subscribe(">", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, failed := request[api.AppendResponse](t, nc, "es.nosuch.write.append.s", `{"events":[{"type":"A"}]}`); wantError(failed, api.ErrStoreNotFound) != nil {
		t.Errorf("an unknown store: %v", failed)
	}
	leader.Kill()
	other := slices.IndexFunc(c.Nodes, func(n *testcluster.Node) bool { return n != at && n != leader })
	c.Nodes[other].Kill() // nobody can be elected
	subject, body := "es.orders.write.append.s", `{"events":[{"id":"1","type":"A"}]}`
	// The first one may be handed to a dead node, before this server has read that the connection is gone (subjects.md: no answer at all).
	if _, err := nc.Request(subject, []byte(body), time.Second); err != nil && !errors.Is(err, nats.ErrTimeout) {
		t.Fatal(err)
	}
	for range 2 { // these are answered: request fails the test otherwise
		if _, failed := request[api.AppendResponse](t, nc, subject, body); failed == nil {
			t.Fatal("an append is acknowledged without a majority")
		}
	}
	c.Nodes[other].Start()
	for asked := time.Now(); ; {
		_, failed := request[api.AppendResponse](t, nc, subject, body)
		if failed == nil {
			break
		}
		if time.Since(asked) > testcluster.Patience {
			t.Fatalf("no write was taken: %v", failed)
		}
	}
}
