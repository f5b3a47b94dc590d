package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// pushes: events are published to a subscription's deliver_subject while somebody listens, and whoever responds acknowledges.
func pushes(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, node := range c.Nodes { // a leader and its followers route alike
		name := "push-" + node.Name
		sub := subscription{t: t, nc: nc, store: "orders", name: name}
		stream := "pushed-" + node.Name
		info := func() *api.SubscriptionResponse {
			got, failed := request[api.SubscriptionResponse](t, nc, "es.orders.read.subscription."+name, ``)
			if failed != nil {
				t.Fatal(failed)
			}
			return got
		}
		if _, failed := request[api.Reply](t, nc, "es.orders.write.append."+stream, `{"events":[{"type":"T","data":0,"tags":["x"]},{"type":"T","data":1},{"type":"T","data":2},{"type":"T","data":3}]}`); failed != nil {
			t.Fatal(failed)
		}
		sub.create(`{"deliver_subject":"` + name + `","max_in_flight":2,"query":{"items":[{"stream_prefixes":["` + stream + `"]}]}}`)
		listen := node.Connect()
		events, err := listen.SubscribeSync(name)
		if err != nil {
			t.Fatal(err)
		}
		next := func() *nats.Msg {
			t.Helper()
			m, err := events.NextMsg(testcluster.Patience)
			if err != nil {
				t.Fatalf("%s: no event: %v", name, err)
			}
			return m
		}
		respond := func(m *nats.Msg, text string) {
			t.Helper()
			if got, failed := request[api.SubscriptionAckResponse](t, listen, m.Reply, text); failed != nil || got.Done != 1 {
				t.Errorf("%s: %s: %v %+v", name, text, failed, got)
			}
		}
		first, second := next(), next()
		if string(first.Data) != "0" || first.Header.Get("ce-subject") != stream || first.Header.Get("ce-tags") != "x" || first.Header.Get("Quorate-Attempt") != "1" || string(second.Data) != "1" {
			t.Errorf("%s: %+v %+v", name, first, second)
		}
		if got := info(); got.Acked != 0 {
			t.Errorf("%s: nothing is acknowledged yet: %+v", name, got)
		}
		if err := first.Respond(nil); err != nil {
			t.Fatal(err)
		}
		third := next() // only now: two may be in flight
		if string(third.Data) != "2" {
			t.Errorf("%s: third: %s", name, third.Data)
		}
		respond(third, `+WPI`)
		respond(third, `-NAK`)
		if again := next(); string(again.Data) != "2" || again.Header.Get("Quorate-Attempt") != "2" {
			t.Errorf("%s: again: %s %v", name, again.Data, again.Header)
		}
		respond(third, `+ACK`)
		respond(second, `+TERM broken`)
		m := nats.NewMsg(next().Reply)
		m.Header.Set(api.HeaderErrorCode, "500") // what a micro service answers when it fails
		m.Header.Set(api.HeaderError, "no")
		if err := listen.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		last := next()
		if string(last.Data) != "3" || last.Header.Get("Quorate-Attempt") != "2" {
			t.Errorf("%s: after an error: %s %v", name, last.Data, last.Header)
		}
		if err := last.Ack(); err != nil { // as a consumer of JetStream does
			t.Fatal(err)
		}
		testcluster.Eventually(t, "all is done", func() error {
			if got := info(); got.Acked != 3 || got.Parked != 1 || got.Lag > 0 && got.Cursor == 0 {
				return fmt.Errorf("%+v", got)
			}
			return nil
		})
		// Nobody listens: nothing is in flight, and the event waits for the next who does.
		if err := events.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		if err := listen.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, failed := request[api.Reply](t, nc, "es.orders.write.append."+stream, `{"events":[{"type":"T","data":4}]}`); failed != nil {
			t.Fatal(failed)
		}
		if events, err = listen.SubscribeSync(name); err != nil {
			t.Fatal(err)
		}
		later := next()
		if m := later; string(m.Data) != "4" || m.Header.Get("Quorate-Attempt") != "1" && m.Header.Get("Quorate-Attempt") != "2" {
			t.Errorf("%s: who comes later: %s %v", name, m.Data, m.Header)
		}
		if _, failed := request[api.Reply](t, nc, "es.orders.write.subscription.ack."+name+".x", ``); wantError(failed, api.ErrBadSubject) != nil {
			t.Errorf("ack of no position: %v", failed)
		}
		// Who answers late for a subscription that was deleted does nothing to the one that has its name now.
		if _, failed := request[api.SubscriptionDeleteResponse](t, nc, sub.subject("delete"), ``); failed != nil {
			t.Fatal(failed)
		}
		sub.create(`{"deliver_subject":"` + name + `","query":{"items":[{"stream_prefixes":["` + stream + `"]}]}}`)
		for _, text := range []string{`+ACK`, `-NAK`, `+WPI`} {
			if _, failed := request[api.Reply](t, listen, later.Reply, text); wantError(failed, api.ErrSubscriptionNotFound) != nil {
				t.Errorf("%s: %s for the subscription before: %v", name, text, failed)
			}
		}
	}
}

// TestStockConsumers: the nats CLI is a consumer, with acknowledgements and without.
func TestStockConsumers(t *testing.T) {
	cli := natsCLI(t)
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	nc := c.Connect()
	for i := range 3 {
		if _, failed := request[api.Reply](t, nc, "es.orders.write.append.s", fmt.Sprintf(`{"events":[{"type":"T","data":"event %d"}]}`, i)); failed != nil {
			t.Fatal(failed)
		}
	}
	for _, row := range []struct{ name, config, args string }{
		{"replies", `{"deliver_subject":"mail.out","max_in_flight":1}`, "reply mail.out done"},
		{"listens", `{"deliver_subject":"mail.log","ack":"none"}`, "sub mail.log"},
	} {
		t.Run(row.name, func(t *testing.T) {
			sub := subscription{t: t, nc: nc, store: "orders", name: row.name}
			sub.create(row.config)
			ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, cli, strings.Fields(row.args)...)
			cmd.Env = append(cmd.Environ(), "NATS_URL="+c.Nodes[0].URL(), "HOME="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err == nil {
				cmd.Stderr = cmd.Stdout
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			seen, text := 0, ""
			for lines := bufio.NewScanner(out); seen < 3 && lines.Scan(); {
				text += lines.Text() + "\n"
				if strings.Contains(lines.Text(), fmt.Sprintf("event %d", seen)) {
					seen++
				}
			}
			if seen < 3 {
				t.Errorf("it saw %d events:\n%s", seen, text)
			}
			testcluster.Eventually(t, "all is acknowledged", func() error {
				got, failed := request[api.SubscriptionResponse](t, nc, "es.orders.read.subscription."+row.name, ``)
				if failed != nil || got.Acked != 3 || got.Lag != 0 {
					return fmt.Errorf("%v %+v", failed, got)
				}
				return nil
			})
			cancel()
			cmd.Wait() // it was killed
		})
	}
}

// TestPushOverLeaders: whoever leads pushes; every event is pushed at least once, and acknowledgements find the leader.
func TestPushOverLeaders(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	nc := c.Connect()
	sub := subscription{t: t, nc: nc, store: "orders", name: "work"}
	sub.create(`{"deliver_subject":"work.queue","max_in_flight":50,"ack_wait_ms":3000,"max_attempts":-1}`)
	var mu sync.Mutex
	seen := map[string]int{}
	for range 3 {
		if _, err := c.Connect().QueueSubscribe("work.queue", "workers", func(m *nats.Msg) {
			mu.Lock()
			seen[m.Header.Get("ce-position")]++
			mu.Unlock()
			m.Respond(nil)
		}); err != nil {
			t.Fatal(err)
		}
	}
	load := testcluster.StartLoad(clients(c, 2), "orders", 4)
	waitSeen := func(more int) {
		t.Helper()
		mu.Lock()
		want := len(seen) + more
		mu.Unlock()
		testcluster.Eventually(t, fmt.Sprintf("%d more events are pushed", more), func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(seen) < want {
				return fmt.Errorf("%d of %d", len(seen), want)
			}
			return nil
		})
	}
	waitSeen(200)
	for range 2 {
		n := c.Node(c.Leader(cl, "orders").Leader)
		n.Kill()
		waitSeen(200)
		n.Start()
		c.WaitReady()
		waitSeen(100)
	}
	load.Stop(t)
	var info *api.SubscriptionResponse
	testcluster.Eventually(t, "everything is acknowledged", func() error {
		var failed *api.Error
		if info, failed = request[api.SubscriptionResponse](t, nc, "es.orders.read.subscription.work", ``); failed != nil || info.Lag > 0 {
			return fmt.Errorf("%v %+v", failed, info)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	if info.Acked != info.Cursor || uint64(len(seen)) != info.Cursor {
		t.Errorf("%d events, %d were pushed, %d acknowledged", info.Cursor, len(seen), info.Acked)
	}
	again := 0
	for _, n := range seen {
		again += n - 1
	}
	t.Logf("%d events, %d pushed again", info.Cursor, again)
}
