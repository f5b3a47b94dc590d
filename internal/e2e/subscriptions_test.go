package e2e

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// subscriptions: what a subscription's requests answer and refuse, and an event's way from delivery to acknowledged or parked and back.
func subscriptions(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, row := range []struct {
		name, subject, payload string
		want                   *api.Error
	}{
		{"no name", "es.orders.write.subscription.create", `{}`, api.ErrBadName},
		{"name with a dot", "es.orders.write.subscription.create.a.b", `{}`, api.ErrBadName},
		{"unknown verb", "es.orders.write.subscription.drop.a", `{}`, api.ErrUnknownVerb},
		{"half a verb", "es.orders.write.subscription", `{}`, api.ErrUnknownVerb},
		{"unknown field", "es.orders.write.subscription.create.a", `{"limit":1}`, api.ErrBadRequest},
		{"begins twice", "es.orders.write.subscription.create.a", `{"after":1,"from_end":true}`, api.ErrBadRequest},
		{"begins in the future", "es.orders.write.subscription.create.a", `{"after":1000000000}`, api.ErrBadRequest},
		{"empty query", "es.orders.write.subscription.create.a", `{"query":{"items":[]}}`, api.ErrBadRequest},
		{"too many in flight", "es.orders.write.subscription.create.a", `{"max_in_flight":10001}`, api.ErrBadRequest},
		{"delivers to the cluster", "es.orders.write.subscription.create.a", `{"deliver_subject":"es.orders.write.append.x"}`, api.ErrBadRequest},
		{"delivers to the server", "es.orders.write.subscription.create.a", `{"deliver_subject":"$SYS.x"}`, api.ErrBadRequest},
		{"delivers to an inbox", "es.orders.write.subscription.create.a", `{"deliver_subject":"_INBOX.x"}`, api.ErrBadRequest},
		{"delivers to a wildcard", "es.orders.write.subscription.create.a", `{"deliver_subject":"mail.*"}`, api.ErrBadRequest},
		{"fetch of none", "es.orders.write.subscription.fetch.none", ``, api.ErrSubscriptionNotFound},
		{"ack of none", "es.orders.write.subscription.ack.none", `{"positions":[1]}`, api.ErrSubscriptionNotFound},
		{"ack of nothing", "es.orders.write.subscription.ack.none", ``, api.ErrBadRequest},
		{"nack of nothing", "es.orders.write.subscription.nack.none", ``, api.ErrBadRequest},
		{"replay of none", "es.orders.write.subscription.replay.none", ``, api.ErrSubscriptionNotFound},
		{"fetch too many", "es.orders.write.subscription.fetch.none", `{"limit":1001}`, api.ErrBadRequest},
		{"wait too long", "es.orders.write.subscription.fetch.none", `{"wait_ms":60001}`, api.ErrBadRequest},
		{"read none", "es.orders.read.subscription.none", ``, api.ErrSubscriptionNotFound},
		{"read without a name", "es.orders.read.subscription", ``, api.ErrBadName},
		{"parked of none", "es.orders.read.parked.none", ``, api.ErrSubscriptionNotFound},
	} {
		if _, failed := request[api.Reply](t, nc, row.subject, row.payload); wantError(failed, row.want) != nil {
			t.Errorf("%s: %v", row.name, wantError(failed, row.want))
		}
	}
	sub := subscription{t: t, nc: nc, store: "orders", name: "mail"}
	config := `{"query":{"items":[{"stream_prefixes":["sub-"]}]},"max_in_flight":4,"max_attempts":2}`
	if got := sub.create(config); !got.Created || got.Name != "mail" || got.Config.AckWaitMS != 30_000 || got.Store != "orders" {
		t.Errorf("create: %+v", got)
	}
	if got := sub.create(config); got.Created {
		t.Errorf("create again: %+v", got)
	}
	if _, failed := request[api.Reply](t, nc, "es.orders.write.subscription.create.mail", `{}`); wantError(failed, api.ErrSubscriptionExists) != nil {
		t.Errorf("create with another config: %v", failed)
	}
	var at []uint64
	for i := range 6 {
		got, failed := request[api.AppendResponse](t, nc, fmt.Sprintf("es.orders.write.append.sub-%d", i%2), fmt.Sprintf(`{"events":[{"type":"T","data":%d}]}`, i))
		if failed != nil {
			t.Fatal(failed)
		}
		at = append(at, got.Position)
	}
	got := sub.fetch(`{"limit":3}`)
	if len(got) != 3 || got[0].Position != at[0] || got[2].Position != at[2] || got[0].Attempt != 1 || string(got[1].Data) != "1" || got[1].Stream != "sub-1" {
		t.Fatalf("fetch 3: %+v", got)
	}
	if got := sub.fetch(`{"limit":3}`); len(got) != 1 || got[0].Position != at[3] {
		t.Fatalf("four may be in flight: %+v", got)
	}
	if got := sub.fetch(`{"wait_ms":50}`); len(got) != 0 {
		t.Fatalf("five in flight: %+v", got)
	}
	if got := sub.ack(`{"positions":[%d,%d]}`, at[1], at[1]); got.Done != 1 || got.Cursor >= at[0] {
		t.Errorf("ack one: %+v", got)
	}
	if got := sub.ack(`{"positions":[%d,1000000]}`, at[1]); got.Done != 0 {
		t.Errorf("ack one again: %+v", got)
	}
	if got := sub.ack(`{"up_to":%d}`, at[2]); got.Done != 2 || got.Cursor < at[2] || got.Cursor >= at[3] {
		t.Errorf("ack up to the third: %+v", got)
	}
	if got := sub.nack(`{"positions":[%d]}`, at[3]); got.Done != 1 {
		t.Errorf("nack: %+v", got)
	}
	if got := sub.fetch(`{"limit":1}`); len(got) != 1 || got[0].Position != at[3] || got[0].Attempt != 2 {
		t.Fatalf("again: %+v", got)
	}
	if got := sub.nack(`{"positions":[%d],"reason":"no such address"}`, at[3]); got.Done != 1 {
		t.Errorf("nack for the last time: %+v", got)
	}
	for _, node := range c.Nodes {
		at3 := node.Connect()
		parked, failed := request[api.ParkedResponse](t, at3, "es.orders.read.parked.mail", ``)
		if failed != nil || len(parked.Events) != 1 || parked.Events[0].Position != at[3] || parked.Events[0].Attempts != 2 || parked.Events[0].Reason != "no such address" || string(parked.Events[0].Data) != "3" || !parked.End {
			t.Errorf("%s: parked: %v %+v", node.Name, failed, parked)
		}
		info, failed := request[api.SubscriptionResponse](t, at3, "es.orders.read.subscription.mail", ``)
		if failed != nil || info.Acked != 3 || info.Parked != 1 || info.Cursor < at[3] || info.Cursor >= at[4] || info.Lag < 2 {
			t.Errorf("%s: info: %v %+v", node.Name, failed, info)
		}
		list, failed := request[api.SubscriptionsResponse](t, at3, "es.orders.read.subscriptions", ``)
		if failed != nil || len(list.Subscriptions) < 1 {
			t.Errorf("%s: list: %v %+v", node.Name, failed, list)
		}
	}
	if got := sub.fetch(`{"limit":10}`); len(got) != 2 || got[0].Position != at[4] {
		t.Fatalf("the rest: %+v", got)
	}
	if got := sub.nack(`{"positions":[%d],"park":true}`, at[4]); got.Done != 1 {
		t.Errorf("park: %+v", got)
	}
	if replayed := sub.do("replay", ``); replayed.Done != 2 {
		t.Errorf("replay: %+v", replayed)
	}
	if got := sub.fetch(`{"limit":10}`); len(got) != 2 || got[0].Position != at[3] || got[0].Attempt != 1 || got[1].Position != at[4] {
		t.Fatalf("replayed: %+v", got)
	}
	if got := sub.ack(`{"positions":[%d,%d,%d]}`, at[5], at[4], at[3]); got.Done != 3 || got.Cursor < at[5] {
		t.Errorf("ack all: %+v", got)
	}
	// A fetch that waits is answered by the event that comes.
	waits := make(chan []byte, 1)
	inbox := nats.NewInbox()
	s, err := nc.Subscribe(inbox, func(m *nats.Msg) { waits <- m.Data })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Unsubscribe()
	if err := nc.PublishRequest("es.orders.write.subscription.fetch.mail", inbox, []byte(`{"wait_ms":30000}`)); err != nil {
		t.Fatal(err)
	}
	testcluster.Eventually(t, "a fetch waits", func() error {
		for _, node := range c.Nodes {
			info, failed := request[api.SubscriptionResponse](t, node.Connect(), "es.orders.read.subscription.mail", `{"consistency":"local"}`)
			if failed == nil && info.Waiting != nil && *info.Waiting == 1 {
				return nil
			}
		}
		return fmt.Errorf("nobody says so")
	})
	if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.sub-9", `{"events":[{"type":"T"}]}`); failed != nil {
		t.Fatal(failed)
	}
	var answer api.SubscriptionFetchResponse
	if err := json.Unmarshal(<-waits, &answer); err != nil || len(answer.Events) != 1 || answer.Events[0].Stream != "sub-9" {
		t.Errorf("the fetch that waited: %v %+v", err, answer)
	}
	deleted, failed := request[api.SubscriptionDeleteResponse](t, nc, "es.orders.write.subscription.delete.mail", ``)
	if failed != nil || !deleted.Deleted {
		t.Errorf("delete: %v %+v", failed, deleted)
	}
	if _, failed := request[api.Reply](t, nc, "es.orders.write.subscription.fetch.mail", ``); wantError(failed, api.ErrSubscriptionNotFound) != nil {
		t.Errorf("fetch of one that was deleted: %v", failed)
	}
	if got := sub.create(`{"from_end":true}`); !got.Created || got.Lag != 0 && got.Cursor == 0 {
		t.Errorf("create anew: %+v", got)
	}
}

// subscription sends the requests of one. A refusal ends the test.
type subscription struct {
	t           testing.TB
	nc          *nats.Conn
	store, name string
}

func (s subscription) subject(verb string) string {
	return "es." + s.store + ".write.subscription." + verb + "." + s.name
}

func (s subscription) create(config string) *api.SubscriptionCreateResponse {
	s.t.Helper()
	got, failed := request[api.SubscriptionCreateResponse](s.t, s.nc, s.subject("create"), config)
	if failed != nil {
		s.t.Fatalf("create %s: %v", config, failed)
	}
	return got
}

func (s subscription) fetch(payload string) []api.DeliveredEvent {
	s.t.Helper()
	got, failed := request[api.SubscriptionFetchResponse](s.t, s.nc, s.subject("fetch"), payload)
	if failed != nil {
		s.t.Fatalf("fetch %s: %v", payload, failed)
	}
	return got.Events
}

func (s subscription) do(verb, payload string) *api.SubscriptionAckResponse {
	s.t.Helper()
	got, failed := request[api.SubscriptionAckResponse](s.t, s.nc, s.subject(verb), payload)
	if failed != nil {
		s.t.Fatalf("%s %s: %v", verb, payload, failed)
	}
	return got
}

func (s subscription) ack(format string, args ...any) *api.SubscriptionAckResponse {
	s.t.Helper()
	return s.do("ack", fmt.Sprintf(format, args...))
}

func (s subscription) nack(format string, args ...any) *api.SubscriptionAckResponse {
	s.t.Helper()
	return s.do("nack", fmt.Sprintf(format, args...))
}

// consumers process a subscription's events from several connections and remember what must hold: an event whose ack was answered is not in the answer to a fetch that
// was sent afterwards.
type consumers struct {
	subject func(verb string) string
	stop    chan struct{}
	wg      sync.WaitGroup

	mu        sync.Mutex
	delivered map[uint64]int
	asked     map[uint64]bool      // to be acknowledged
	acked     map[uint64]time.Time // when the answer came
	wrong     []string
	refused   int
	next      map[string]uint64 // of an ordered subscription: by stream, the version that may come next
	rounds    int
}

func startConsumers(c *testcluster.Cluster, store, name string, n int, ordered bool) *consumers {
	k := &consumers{
		subject:   subscription{store: store, name: name}.subject,
		stop:      make(chan struct{}),
		delivered: make(map[uint64]int), asked: make(map[uint64]bool), acked: make(map[uint64]time.Time),
	}
	if ordered {
		k.next = make(map[string]uint64)
	}
	for range n {
		nc := c.Connect()
		k.wg.Go(func() { k.run(nc) }) // ends with stop
	}
	return k
}

func (k *consumers) run(nc *nats.Conn) {
	for {
		select {
		case <-k.stop:
			return
		default:
		}
		sent := time.Now()
		var page api.SubscriptionFetchResponse
		if !k.ask(nc, k.subject("fetch"), `{"limit":7,"wait_ms":500}`, &page) || len(page.Events) == 0 {
			continue
		}
		var positions, refuse []uint64
		k.mu.Lock()
		for _, e := range page.Events {
			k.delivered[e.Position]++
			if at, acked := k.acked[e.Position]; acked && at.Before(sent) {
				k.wrong = append(k.wrong, fmt.Sprintf("event %d was acknowledged %v before the fetch that got it as attempt %d", e.Position, sent.Sub(at), e.Attempt))
			}
			if k.next != nil {
				if e.Version > k.next[e.Stream] {
					k.wrong = append(k.wrong, fmt.Sprintf("version %d of %s was delivered before %d was acknowledged", e.Version, e.Stream, k.next[e.Stream]))
				}
				if k.rounds++; k.rounds%20 == 0 { // not processed
					refuse = append(refuse, e.Position)
					continue
				}
				k.next[e.Stream] = max(k.next[e.Stream], e.Version+1)
			}
			k.asked[e.Position] = true
			positions = append(positions, e.Position)
		}
		k.mu.Unlock()
		if len(refuse) > 0 {
			payload, _ := json.Marshal(api.SubscriptionNackRequest{Positions: refuse})
			k.ask(nc, k.subject("nack"), string(payload), new(api.SubscriptionAckResponse))
		}
		if len(positions) == 0 {
			continue
		}
		payload, _ := json.Marshal(api.SubscriptionAckRequest{Positions: positions})
		var ack api.SubscriptionAckResponse
		if k.ask(nc, k.subject("ack"), string(payload), &ack) {
			k.mu.Lock()
			for _, p := range positions {
				if _, before := k.acked[p]; !before {
					k.acked[p] = time.Now()
				}
			}
			k.mu.Unlock()
		}
	}
}

// ask reports whether the request was carried out; consumers go on when it was not.
func (k *consumers) ask(nc *nats.Conn, subject, payload string, into any) bool {
	m, err := nc.Request(subject, []byte(payload), 3*time.Second)
	var head api.Reply
	if err == nil {
		err = json.Unmarshal(m.Data, &head)
	}
	if err != nil || head.Error != nil {
		k.mu.Lock()
		k.refused++
		if head.Error != nil && !head.Error.Retryable() {
			k.wrong = append(k.wrong, fmt.Sprintf("%s: %v", subject, head.Error))
		}
		k.mu.Unlock()
		return false
	}
	return json.Unmarshal(m.Data, into) == nil
}

func (k *consumers) ackedSoFar() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.acked)
}

// TestKillLeaderUnderConsumers: however often the leader dies, every event is processed at least once, nothing is delivered again whose ack was answered, and the cursor
// neither goes back nor runs ahead of the acks. An ordered subscription beside it delivers no version before those below it are acknowledged.
func TestKillLeaderUnderConsumers(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	nc := c.Connect()
	sub := subscription{t: t, nc: nc, store: "orders", name: "work"}
	sub.create(`{"max_in_flight":200,"ack_wait_ms":60000}`)
	load := testcluster.StartLoad(clients(c, 2), "orders", 4)
	k := startConsumers(c, "orders", "work", 4, false)
	subscription{t: t, nc: nc, store: "orders", name: "line"}.create(`{"ordered":true,"ack_wait_ms":2000,"max_attempts":-1}`)
	inLine := startConsumers(c, "orders", "line", 2, true)
	var cursor uint64
	look := func() *api.SubscriptionInfo {
		var info api.SubscriptionResponse
		if !k.ask(nc, "es.orders.read.subscription.work", ``, &info) {
			return nil
		}
		if info.Cursor < cursor {
			t.Errorf("the cursor went back from %d to %d", cursor, info.Cursor)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		for p := cursor + 1; p <= info.Cursor; p++ {
			if !k.asked[p] {
				t.Errorf("the cursor is at %d, and nobody acknowledged %d", info.Cursor, p)
			}
		}
		cursor = info.Cursor
		return &info.SubscriptionInfo
	}
	waitAcked := func(more int) {
		t.Helper()
		want := k.ackedSoFar() + more
		testcluster.Eventually(t, fmt.Sprintf("%d more events are acknowledged", more), func() error {
			look()
			if n := k.ackedSoFar(); n < want {
				return fmt.Errorf("%d of %d", n, want)
			}
			return nil
		})
	}
	const kills = 3
	waitAcked(200)
	for range kills {
		n := c.Node(c.Leader(cl, "orders").Leader)
		n.Kill()
		waitAcked(200)
		n.Start()
		c.WaitReady()
		waitAcked(100)
	}
	load.Stop(t)
	c.WaitSame("orders")
	testcluster.Eventually(t, "everything is acknowledged", func() error {
		if info := look(); info == nil || info.Lag > 0 || info.Acked != info.Cursor {
			return fmt.Errorf("%+v", info)
		}
		return nil
	})
	testcluster.Eventually(t, "everything is acknowledged in order", func() error {
		info, failed := request[api.SubscriptionResponse](t, nc, "es.orders.read.subscription.line", ``)
		if failed != nil || info.Lag > 0 || info.Acked != cursor {
			return fmt.Errorf("%v %+v", failed, info)
		}
		return nil
	})
	for _, k := range []*consumers{k, inLine} {
		close(k.stop)
		k.wg.Wait()
		for _, wrong := range k.wrong {
			t.Error(wrong)
		}
	}
	again := 0
	for p := uint64(1); p <= cursor; p++ {
		if k.delivered[p] == 0 {
			t.Errorf("event %d was never delivered", p)
		}
		again += k.delivered[p] - 1
	}
	t.Logf("%d events, %d deliveries beyond the first, %d requests that had to be repeated", cursor, again, k.refused)
	if cursor < kills*300 || k.refused == 0 {
		t.Errorf("the test has seen too little: %d events, %d refusals", cursor, k.refused)
	}
}
