package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestOneAnswerWhileAStoreIsDeleted: a request to a store that is being deleted is answered by one node. It was by two for two seconds, which could contradict each other.
func TestOneAnswerWhileAStoreIsDeleted(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	nc := c.Nodes[0].Connect()
	for round := range 3 {
		store := fmt.Sprint("orders", round)
		c.CreateStore(cl, store)
		inbox := nats.NewInbox()
		sub, err := nc.SubscribeSync(inbox + ".*")
		if err != nil {
			t.Fatal(err)
		}
		sub.SetPendingLimits(-1, -1)
		const requests, until = 800, 200
		deleted := make(chan error, 1)
		pace := time.NewTicker(time.Millisecond)
		for i := range requests {
			if i == until {
				go func() { // ends with the delete
					_, err := cl.DeleteStore(context.Background(), store, api.ConfigDeleteRequest{})
					deleted <- err
				}()
			}
			if err := nc.PublishRequest("es."+store+".write.append.a", fmt.Sprintf("%s.%d", inbox, i), []byte(`{"events":[{"type":"A"}]}`)); err != nil {
				t.Fatal(err)
			}
			<-pace.C
		}
		pace.Stop()
		if err := <-deleted; err != nil {
			t.Fatal(err)
		}
		answers := map[string][]string{}
		for { // until there was none for long enough: that nothing more comes is what this is about
			m, err := sub.NextMsg(time.Second)
			if err != nil {
				break
			}
			answers[m.Subject] = append(answers[m.Subject], string(m.Data))
		}
		twice := 0
		for subject, list := range answers {
			if len(list) > 1 {
				if twice++; twice <= 3 {
					t.Errorf("request %s has %d answers: %s", subject, len(list), strings.Join(list, "\n   "))
				}
			}
		}
		if twice > 0 {
			t.Errorf("%d of %d requests have more than one answer", twice, requests)
		}
		if len(answers) < requests*9/10 { // on the wire while a subscription goes, a request may be lost
			t.Errorf("only %d of %d requests were answered", len(answers), requests)
		}
	}
}

// TestARefusalIsTrue: what is answered "nothing was written" was not. A leader that loses both followers does not know what becomes of what it has under way, and when no other
// leader comes it must say so.
func TestARefusalIsTrue(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	leader := c.Node(c.Leader(cl, "orders").Leader)
	nc := leader.Connect()
	var mu sync.Mutex // guards answers
	answers := map[string]string{}
	var wg sync.WaitGroup
	send := func(n int) {
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for range n {
			mu.Lock()
			id := fmt.Sprint("e", len(answers))
			answers[id] = "none"
			mu.Unlock()
			wg.Go(func() {
				m, err := nc.Request("es.orders.write.append.a", []byte(`{"events":[{"id":"`+id+`","type":"A"}]}`), 2*requestTimeout)
				name := "no reply" // says nothing
				if err == nil {
					var reply api.AppendResponse
					if name = "acknowledged"; json.Unmarshal(m.Data, &reply) != nil {
						name = string(m.Data)
					} else if reply.Error != nil {
						name = reply.Error.Name
					}
				}
				mu.Lock()
				defer mu.Unlock()
				answers[id] = name
			})
			<-pace.C
		}
	}
	send(300)
	wg.Wait()
	both := make(chan struct{})
	go func() { // ends when they are dead
		defer close(both)
		for _, n := range c.Nodes {
			if n != leader {
				n.Signal(syscall.SIGKILL)
			}
		}
	}()
	send(300)
	<-both
	wg.Wait()
	for _, n := range c.Nodes {
		if n != leader {
			n.Kill() // it is dead; now it may start again
			n.Start()
		}
	}
	c.WaitReady()
	there := map[string]bool{}
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	for e, err := range cl.Store("orders").ReadStream(ctx, "a", client.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		there[e.ID] = true
	}
	counts := map[string]int{}
	for id, name := range answers {
		counts[fmt.Sprintf("%s, written: %v", name, there[id])]++
		switch {
		case name == "acknowledged" && !there[id]:
			t.Errorf("append %s was acknowledged and is not there", id)
		case name != "acknowledged" && name != api.ErrOutcomeUnknown.Name && name != "no reply" && there[id]:
			t.Errorf("append %s was refused with %s, and it is there", id, name)
		}
	}
	t.Log(counts)
	if counts["acknowledged, written: true"] < 300 || len(counts) < 2 {
		t.Error("the test has seen too little")
	}
}

// TestALeaderThatOnlyRaftReaches: the cluster port of the leader's host is closed, and its Raft port is not, so it goes on to lead. What is asked at other nodes is answered all the
// same, and they end when they are told to. They looked for the leader without a pause, and for ever.
func TestALeaderThatOnlyRaftReaches(t *testing.T) {
	nw := testcluster.NewNetwork(t, 3)
	c := testcluster.NewAt(t, nw.Places())
	for _, n := range c.Nodes {
		n.Start()
	}
	c.WaitReady()
	cl := c.Client()
	c.CreateStore(cl, "orders")
	leader := c.Leader(cl, "orders").Leader
	other := c.Nodes[0]
	if other.Name == leader {
		other = c.Nodes[1]
	}
	_, port, err := net.SplitHostPort(other.Route)
	if err != nil {
		t.Fatal(err)
	}
	nc := other.Connect()
	hostOf(nw, c, leader).Close(port)
	testcluster.Eventually(t, "the route is lost", func() error {
		m, err := nc.Request("es.orders.write.append.a", []byte(`{"events":[{"type":"A"}]}`), requestTimeout)
		if err != nil { // the request was on its way through the route
			return err
		}
		var reply api.AppendResponse
		if err := json.Unmarshal(m.Data, &reply); err != nil {
			return err
		}
		if reply.Error == nil {
			return fmt.Errorf("it is still taken: %s", m.Data)
		}
		return nil
	})
	for range 3 {
		if _, refused := request[api.AppendResponse](t, nc, "es.orders.write.append.a", `{"events":[{"type":"A"}]}`); refused == nil {
			t.Error("an append reached the leader")
		}
	}
	m, err := nc.Request("es.cluster.write.transfer.orders", fmt.Appendf(nil, `{"to":%q}`, leader), 2*requestTimeout) // it is tried for ten seconds
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(m.Data), api.ErrOutcomeUnknown.Name) {
		t.Errorf("a leader that takes no requests counts as one: %s", m.Data)
	}
	if code := other.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
