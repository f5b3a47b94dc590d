package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestCatchUp: a reader that begins anywhere sees every position behind it once and in order, from history into what is written meanwhile, also while leaders die.
func TestCatchUp(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	load := testcluster.StartLoad(clients(c, 2), "orders", 4)
	load.WaitAcks(t, 200)
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	info, err := cl.Store("orders").Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	read, stop := context.WithCancel(context.Background())
	defer stop()
	var mu sync.Mutex
	var wg sync.WaitGroup
	starts := []uint64{0, info.LastPosition / 2, info.LastPosition}
	reached := make([]uint64, len(starts))
	for i, after := range starts {
		reached[i] = after
		reader := c.Client()
		wg.Go(func() { // ends with read
			for e, err := range reader.Store("orders").ReadAll(read, client.ReadOptions{From: after, Follow: true, Consistency: api.Local}) {
				if read.Err() != nil {
					return
				}
				if err != nil {
					t.Errorf("the reader from %d: %v", after, err)
					return
				}
				mu.Lock()
				if e.Position != reached[i]+1 {
					t.Errorf("the reader from %d got %d after %d", after, e.Position, reached[i])
				}
				reached[i] = e.Position
				mu.Unlock()
			}
		})
	}
	n := c.Node(c.Leader(cl, "orders").Leader)
	n.Kill()
	load.WaitAcks(t, 200)
	n.Start()
	c.WaitReady()
	load.WaitAcks(t, 100)
	load.Stop(t)
	if info, err = cl.Store("orders").Info(ctx); err != nil {
		t.Fatal(err)
	}
	testcluster.Eventually(t, "all readers are at the end", func() error {
		mu.Lock()
		defer mu.Unlock()
		for i := range reached {
			if reached[i] < info.LastPosition {
				return fmt.Errorf("the reader from %d is at %d of %d", starts[i], reached[i], info.LastPosition)
			}
		}
		return nil
	})
	stop()
	wg.Wait()
}

// TestPausedLeaderDeliversNothingOld: a leader that was paused, and does not know yet that another one took over, must not deliver what was acknowledged there.
func TestPausedLeaderDeliversNothingOld(t *testing.T) {
	c := testcluster.Start(t, 3)
	for try := 1; pauseLeader(t, c, fmt.Sprint("orders", try)) == 0; try++ {
		if try == 3 {
			t.Fatal("no fetch was answered: the test has seen nothing")
		}
	}
}

// pauseLeader returns how many fetches were answered by a node that was the leader before it was paused.
func pauseLeader(t *testing.T, c *testcluster.Cluster, store string) (answered int) {
	cl := c.Client()
	c.CreateStore(cl, store)
	const events = 40
	old := c.Node(c.Leader(cl, store).Leader)
	atOld := old.Connect()
	for i := range events {
		if _, failed := request[api.Reply](t, atOld, "es."+store+".write.append.s", fmt.Sprintf(`{"events":[{"type":"T","data":%d}]}`, i)); failed != nil {
			t.Fatal(failed)
		}
	}
	sub := subscription{t: t, nc: atOld, store: store, name: "work"}
	sub.create(`{}`)
	if got := sub.fetch(`{"limit":1}`); len(got) != 1 { // the others lie in its memory
		t.Fatal(got)
	}
	old.Signal(syscall.SIGSTOP)
	defer old.Signal(syscall.SIGCONT)
	var rest *nats.Conn
	for _, node := range c.Nodes {
		if node != old {
			rest = node.Connect()
		}
	}
	acked := 0
	testcluster.Eventually(t, "the next leader delivers all, and all is acknowledged", func() error {
		var page api.SubscriptionFetchResponse
		k := &consumers{}
		if !k.ask(rest, sub.subject("fetch"), `{"limit":100}`, &page) || len(page.Events) == 0 {
			return fmt.Errorf("%d are acknowledged", acked)
		}
		var r api.SubscriptionAckRequest
		for _, e := range page.Events {
			r.Positions = append(r.Positions, e.Position)
		}
		payload, _ := json.Marshal(r)
		var ack api.SubscriptionAckResponse
		if !k.ask(rest, sub.subject("ack"), string(payload), &ack) || ack.Cursor < events {
			acked += ack.Done
			return fmt.Errorf("%d are acknowledged", acked)
		}
		return nil
	})
	// These wait in the paused node's socket; it sees them the moment it goes on.
	const fetches = 20
	answers := make(chan *nats.Msg, fetches)
	inbox, err := atOld.ChanSubscribe(nats.NewInbox(), answers)
	if err != nil {
		t.Fatal(err)
	}
	for range fetches {
		if err := atOld.PublishRequest(sub.subject("fetch"), inbox.Subject, []byte(`{"limit":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	old.Signal(syscall.SIGCONT)
	for came := 0; came < fetches; came++ {
		select {
		case m := <-answers:
			if len(m.Data) == 0 && m.Header.Get("Status") == "503" { // no responders: the server meant it for a node whose route it just found broken
				continue
			}
			answered++
			var page api.SubscriptionFetchResponse
			if err := json.Unmarshal(m.Data, &page); err != nil {
				t.Fatal(err)
			}
			if len(page.Events) > 0 {
				t.Errorf("delivered again, though it is acknowledged: %s", m.Data)
			}
		case <-time.After(requestTimeout): // NATS is at most once: its routes broke while the node was paused
			return answered
		}
	}
	return answered
}

// TestWaitingFetches: a fetch that waits is not lost when leadership moves, and does not keep a node from stopping. It is answered, or goes on waiting at the new
// leader when a node that stood in for the old one has it; then the next event comes to it.
func TestWaitingFetches(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	nc := c.Node("n1").Connect()
	for _, to := range []string{"n2", "n3"} {
		sub := subscription{t: t, nc: nc, store: "orders", name: "work-" + to}
		sub.create(`{"from_end":true}`)
		answers := make(chan *nats.Msg, 1)
		inbox, err := nc.ChanSubscribe(nats.NewInbox(), answers)
		if err == nil {
			err = nc.PublishRequest(sub.subject("fetch"), inbox.Subject, []byte(`{"wait_ms":60000}`))
		}
		if err != nil {
			t.Fatal(err)
		}
		var at *testcluster.Node // the leader: only it knows of fetches, and what other nodes believe to be the leader may be a moment old
		testcluster.Eventually(t, "the fetch waits", func() error {
			for _, node := range c.Nodes {
				info, failed := request[api.SubscriptionResponse](t, node.Connect(), "es.orders.read.subscription."+sub.name, ``)
				if failed == nil && info.Waiting != nil && *info.Waiting == 1 {
					at = node
					return nil
				}
			}
			return fmt.Errorf("nobody says so")
		})
		if to == "n2" {
			leader := "n2"
			if at.Name == "n2" {
				leader = "n3"
			}
			if _, err := cl.Transfer(ctx, "orders", leader); err != nil {
				t.Fatal(err)
			}
		} else {
			begun := time.Now()
			if code := at.Stop(); code != 0 || time.Since(begun) > 15*time.Second {
				t.Errorf("the node stopped with %d after %v", code, time.Since(begun))
			}
		}
		if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.s", `{"events":[{"type":"A"}]}`); failed != nil {
			t.Errorf("an append after the change of leader: %v", failed)
		}
		select {
		case m := <-answers:
			var page api.SubscriptionFetchResponse
			if err := json.Unmarshal(m.Data, &page); err != nil || page.Error != nil || len(page.Events) > 1 {
				t.Errorf("the fetch that waited: %v %s", err, m.Data)
			}
		case <-time.After(testcluster.Patience):
			t.Fatalf("the fetch that waited was not answered (%s; the client is at n1)", to)
		}
	}
}
