package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

func leadership(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	cl := client.New(nc)
	events, err := nc.SubscribeSync("es.cluster.event.leader.moving")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	first := c.CreateStore(cl, "moving").Leader
	next := func(kind, node string) api.LeaderEvent {
		t.Helper()
		m, err := events.NextMsg(requestTimeout)
		if err != nil {
			t.Fatalf("%s by %s: %v", kind, node, err)
		}
		var e api.LeaderEvent
		if err := json.Unmarshal(m.Data, &e); err != nil || e.Kind != kind || e.Node != node || e.Store != "moving" || e.Type != api.TypeLeaderEvent || e.ID == "" || e.Term == 0 {
			t.Errorf("leader event: %v %+v, wanted %s by %s", err, e, kind, node)
		}
		return e
	}
	elected := next(api.LeaderElected, first)
	to := "n1"
	if first == "n1" {
		to = "n2"
	}
	res, failed := request[api.TransferResponse](t, nc, "es.cluster.write.transfer.moving", fmt.Sprintf(`{"to":%q}`, to))
	if failed != nil || res.Leader != to || res.From != first {
		t.Fatalf("transfer: %v %+v", failed, res)
	}
	seen := map[string]api.LeaderEvent{}
	for range 2 { // by two nodes: either may come first
		m, err := events.NextMsg(requestTimeout)
		if err != nil {
			t.Fatal(err)
		}
		var e api.LeaderEvent
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		seen[e.Kind] = e
	}
	if e := seen[api.LeaderLost]; e.Node != first || e.Reason != "transfer" || e.Term != elected.Term {
		t.Errorf("lost: %+v", e)
	}
	if e := seen[api.LeaderElected]; e.Node != to || e.Previous != first || e.Term <= elected.Term {
		t.Errorf("elected: %+v", e)
	}
	// Moving it to where it is changes nothing.
	if res, failed := request[api.TransferResponse](t, nc, "es.cluster.write.transfer.moving", fmt.Sprintf(`{"to":%q}`, to)); failed != nil || res.Leader != to {
		t.Errorf("transfer to the leader: %v %+v", failed, res)
	}
	for _, n := range c.Nodes {
		testcluster.Eventually(t, n.Name+" sees the leader", func() error {
			leaders, failed := request[api.LeadersResponse](t, n.Connect(), "es.cluster.read.leaders", "")
			if failed != nil {
				return failed
			}
			for _, s := range leaders.Stores {
				if s.Store == "moving" && s.Leader == to && len(s.Members) == 3 && len(leaders.Nodes) == 3 {
					return nil
				}
			}
			return fmt.Errorf("%+v", leaders)
		})
	}
}

func discovery(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for verb, into := range map[string]func() (any, func() (name, node string)){
		"PING": func() (any, func() (string, string)) {
			v := &micro.Ping{}
			return v, func() (string, string) { return v.Name, v.Metadata["node"] }
		},
		"INFO": func() (any, func() (string, string)) {
			v := &micro.Info{}
			return v, func() (string, string) { return v.Name, v.Metadata["node"] }
		},
		"STATS": func() (any, func() (string, string)) {
			v := &micro.Stats{}
			return v, func() (string, string) { return v.Name, v.Metadata["node"] }
		},
	} {
		inbox := nc.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("$SRV."+verb, inbox, nil); err != nil {
			t.Fatal(err)
		}
		nodes := map[string]bool{}
		for range 3 {
			m, err := sub.NextMsg(requestTimeout)
			if err != nil {
				t.Fatalf("%s: %d nodes answered: %v", verb, len(nodes), err)
			}
			v, who := into()
			if err := json.Unmarshal(m.Data, v); err != nil {
				t.Fatal(err)
			}
			name, node := who()
			if name != api.ServiceName {
				t.Errorf("%s: service %q", verb, name)
			}
			nodes[node] = true
		}
		if len(nodes) != 3 {
			t.Errorf("%s: answered by %v", verb, nodes)
		}
	}
}

// replySubjects: the service may publish anywhere, its callers may not; so it must not write where a caller tells it to.
func replySubjects(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, reply := range []string{"es.orders.write.append.victim", "es.orders.event.victim", "_INBOXX.x", "elsewhere"} {
		sub, err := nc.SubscribeSync(reply)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("es.orders.write.append.attack", reply, []byte(`{"events":[{"type":"A"}]}`)); err != nil {
			t.Fatal(err)
		}
		if err := nc.PublishRequest("es.orders.read.all", reply, nil); err != nil {
			t.Fatal(err)
		}
		if _, failed := request[api.StoreInfoResponse](t, nc, "es.orders.read.info", ""); failed != nil { // behind the ones before
			t.Fatal(failed)
		}
		if n, _, _ := sub.Pending(); n > 1 { // our own publish matches the first one
			t.Errorf("the service wrote to %s", reply)
		}
		sub.Unsubscribe()
	}
	for _, stream := range []string{"attack", "victim"} {
		_, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream."+stream, "")
		if err := wantError(failed, api.ErrStreamNotFound); err != nil {
			t.Errorf("stream %s: %v", stream, err)
		}
	}
}

// impostors: a client without credentials cannot take requests away from the leader, forge the cluster's events, or pretend that somebody leads.
func impostors(t *testing.T, c *testcluster.Cluster, _ *nats.Conn) {
	denied := make(chan error, 16)
	nc, err := nats.Connect(c.Nodes[0].URL(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for what, try := range map[string]func() error{
		"join the write queue": func() error {
			_, err := nc.QueueSubscribe("es.orders.write.>", "$QUORATE.post.orders", func(*nats.Msg) {})
			return err
		},
		"join the write queue for more": func() error {
			_, err := nc.QueueSubscribe("*.>", "$QUORATE.post.orders", func(*nats.Msg) {})
			return err
		},
		"join the read queue": func() error {
			_, err := nc.QueueSubscribe("es.*.read.>", "$QUORATE.nodes", func(*nats.Msg) {})
			return err
		},
		"join a node's read queue": func() error {
			_, err := nc.QueueSubscribe("_QUORATE_READ.n1.>", "$QUORATE.nodes", func(*nats.Msg) {})
			return err
		},
		"forge an event":        func() error { return nc.Publish("es.orders.event.x", nil) },
		"forge a CloudEvent":    func() error { return nc.Publish("es.orders.cloudevent.x", nil) },
		"forge a leader":        func() error { return nc.Publish("es.cluster.event.leader.orders", nil) },
		"pretend a post exists": func() error { _, err := nc.Subscribe("$QUORATE.post.orders", func(*nats.Msg) {}); return err },
	} {
		if err := try(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-denied:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(requestTimeout):
			t.Errorf("%s: is allowed", what)
		}
	}
}
