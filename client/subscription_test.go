package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// TestSubscription: what a subscription is asked and told without a loop.
func TestSubscription(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "subscribed")
	sub := st.Subscription("mail")
	if _, err := sub.Fetch(ctx, 1, 0); !errors.Is(err, api.ErrSubscriptionNotFound) {
		t.Errorf("a subscription that is not there: %v", err)
	}
	config := api.SubscriptionConfig{Query: &api.Query{Items: []api.QueryItem{{Types: []string{"Counted"}}}}}
	for try, created := range []bool{true, false} {
		if res, err := sub.Create(ctx, config); err != nil || res.Created != created || res.Name != "mail" {
			t.Errorf("create, try %d: %+v, %v", try, res, err)
		}
	}
	if _, err := sub.Create(ctx, api.SubscriptionConfig{Ordered: true}); !errors.Is(err, api.ErrSubscriptionExists) {
		t.Errorf("another config: %v", err)
	}
	if res, err := sub.Fetch(ctx, 10, 50*time.Millisecond); err != nil || len(res.Events) != 0 {
		t.Errorf("an empty store: %+v, %v", res, err)
	}
	if _, err := st.Append(ctx, "a", append(numbered(0, 4), client.Event("Other", 1)), client.Any); err != nil {
		t.Fatal(err)
	}
	res, err := sub.Fetch(ctx, 10, time.Second)
	if err != nil || len(res.Events) != 4 || res.Events[3].Position != 4 || res.Events[0].Attempt != 1 {
		t.Fatalf("fetch: %+v, %v", res, err)
	}
	if res, err := sub.Ack(ctx, 1, 3); err != nil || res.Done != 2 {
		t.Errorf("ack: %+v, %v", res, err)
	}
	if res, err := sub.Nack(ctx, api.SubscriptionNackRequest{Positions: []uint64{2}, Park: true, Reason: "no address"}); err != nil || res.Done != 1 {
		t.Errorf("park: %+v, %v", res, err)
	}
	if res, err := sub.Nack(ctx, api.SubscriptionNackRequest{Positions: []uint64{4}}); err != nil || res.Done != 1 {
		t.Errorf("nack: %+v, %v", res, err)
	}
	parked := 0
	for e, err := range sub.Parked(ctx) {
		if parked++; err != nil || e.Position != 2 || e.Reason != "no address" {
			t.Errorf("parked: %+v, %v", e, err)
		}
	}
	if res, err := sub.Replay(ctx); err != nil || res.Done != 1 || parked != 1 {
		t.Errorf("replay: %+v of %d, %v", res, parked, err)
	}
	var again []uint64
	for len(again) < 2 {
		res, err := sub.Fetch(ctx, 10, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range res.Events {
			again = append(again, e.Position)
		}
	}
	slices.Sort(again)
	if res, err := sub.AckUpTo(ctx, 5); err != nil || res.Done != 2 || !slices.Equal(again, []uint64{2, 4}) {
		t.Errorf("ack up to: %+v, %v; got %v", res, err, again)
	}
	info, err := sub.Info(ctx)
	if err != nil || info.Acked != 4 || info.Parked != 0 || info.Cursor < 4 {
		t.Errorf("info: %+v, %v", info, err)
	}
	if all, err := st.Subscriptions(ctx); err != nil || len(all) != 1 || all[0].Name != "mail" {
		t.Errorf("list: %+v, %v", all, err)
	}
	for _, there := range []bool{true, false} {
		if res, err := sub.Delete(ctx); err != nil || res.Deleted != there {
			t.Errorf("delete: %+v, %v", res, err)
		}
	}
	for _, err := range sub.Messages(ctx, client.ConsumeOptions{}) {
		if !errors.Is(err, api.ErrSubscriptionNotFound) {
			t.Errorf("messages of what was deleted: %v", err)
		}
	}
}

// TestMessages: consumers who come and go share the events; what was not acknowledged is delivered again, and nothing is lost.
func TestMessages(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "consumed")
	sub := st.Subscription("work")
	if _, err := sub.Create(ctx, api.SubscriptionConfig{}); err != nil {
		t.Fatal(err)
	}
	const total = 300
	for i := range total / 50 {
		if _, err := st.Append(ctx, fmt.Sprintf("s-%d", i), numbered(50*i, 50), client.Any); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	acked, parked, seen := map[uint64]int{}, map[uint64]bool{}, 0
	all := make(chan struct{})
	var once sync.Once
	var consumers sync.WaitGroup
	run, stop := context.WithCancel(ctx)
	for c := range 3 {
		consumers.Go(func() { // ends with run
			for run.Err() == nil {
				n := 0
				for m, err := range sub.Messages(run, client.ConsumeOptions{Batch: 20}) {
					if err != nil {
						if run.Err() == nil {
							t.Errorf("consumer %d: %v", c, err)
						}
						break
					}
					n++
					mu.Lock()
					seen++
					switch {
					case m.Attempt == 1 && m.Position%10 == 3:
						err = m.Nack(0) // once more, please
					case m.Position%100 == 7:
						err = m.Park("seven")
						parked[m.Position] = true
					default:
						err = m.Ack()
						acked[m.Position]++
					}
					if len(acked)+len(parked) == total {
						once.Do(func() { close(all) })
					}
					mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					if n == 37 { // goes, and leaves what it has fetched to the others
						break
					}
				}
			}
		})
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Errorf("%d acknowledged, %d parked", len(acked), len(parked))
	}
	stop()
	consumers.Wait()
	info, err := sub.Info(ctx)
	if err != nil || info.Acked != total-3 || info.Parked != 3 || info.Cursor != total || info.Lag != 0 {
		t.Errorf("got %+v, %v", info, err)
	}
	for position, n := range acked {
		if n != 1 {
			t.Errorf("position %d was acknowledged %d times", position, n)
		}
	}
	t.Logf("%d deliveries of %d events", seen, total)
}

// TestMessagesEnded: a message outlives its loop, and says so.
func TestMessagesEnded(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "ended")
	sub := st.Subscription("work")
	if _, err := sub.Create(ctx, api.SubscriptionConfig{}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Append(ctx, "a", numbered(0, 3), client.Any); err != nil {
		t.Fatal(err)
	}
	var kept *client.Message
	for m, err := range sub.Messages(ctx, client.ConsumeOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		kept = m
		break
	}
	if err := kept.Ack(); !errors.Is(err, client.ErrConsumerEnded) {
		t.Errorf("got %v", err)
	}
	if res, err := sub.Ack(ctx, kept.Position); err != nil || res.Done != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	// The others went back at once: nobody waits for their time to be over.
	began := time.Now()
	var others []uint64
	for len(others) < 2 {
		res, err := sub.Fetch(ctx, 10, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range res.Events {
			others = append(others, e.Position)
		}
	}
	slices.Sort(others)
	if !slices.Equal(others, []uint64{2, 3}) || time.Since(began) > 10*time.Second {
		t.Errorf("got %v after %v", others, time.Since(began))
	}
}

// TestRefusedVerdict: what is refused holds back nothing else, and ends the loop with its error; what cannot be said is refused at once, and is not queued.
func TestRefusedVerdict(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "verdicts")
	for _, name := range []string{"loop", "end"} {
		if _, err := st.Subscription(name).Create(ctx, api.SubscriptionConfig{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.Append(ctx, "a", numbered(0, 5), client.Any); err != nil {
		t.Fatal(err)
	}
	refuses := between(t, st, func(m *nats.Msg, send func() []byte) []byte {
		if strings.Contains(m.Subject, ".nack.") {
			return refusal(t, api.ErrBadRequest.With("not this one"))
		}
		return send()
	})
	var ended error
	for m, err := range refuses.Subscription("loop").Messages(ctx, client.ConsumeOptions{}) {
		if ended = err; err != nil {
			break
		}
		if err := m.Park(strings.Repeat("why ", 100)); !errors.Is(err, api.ErrTooLarge) {
			t.Errorf("a reason that is too long: %v", err)
		}
		if err := m.Nack(2 * time.Hour); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("a delay that is too long: %v", err)
		}
		if m.Position == 1 {
			_ = m.Nack(0)
		}
	}
	if !errors.Is(ended, api.ErrBadRequest) || !strings.Contains(ended.Error(), "not this one") {
		t.Errorf("the loop ended with %v", ended)
	}
	n := 0
	for m, err := range refuses.Subscription("end").Messages(ctx, client.ConsumeOptions{AckDelay: time.Hour}) { // all is said at the end
		if err != nil {
			t.Fatal(err)
		}
		switch m.Position {
		case 1:
			err = m.Park("first")
		case 3:
			err = m.Nack(0)
		default:
			err = m.Ack()
		}
		if err != nil {
			t.Error(err)
		}
		if n++; n == 5 {
			break
		}
	}
	if info, err := st.Subscription("end").Info(ctx); err != nil || info.Acked != 3 || info.Parked != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestMessagesOfAnotherSubscription: an acknowledgement for a subscription that was deleted does nothing to the one that was created under its name.
func TestMessagesOfAnotherSubscription(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "consumed-anew")
	sub := st.Subscription("work")
	if _, err := st.Append(ctx, "a", numbered(0, 1), client.Any); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		if _, err := sub.Create(ctx, api.SubscriptionConfig{}); err != nil {
			t.Fatal(err)
		}
		for m, err := range sub.Messages(ctx, client.ConsumeOptions{}) {
			if err != nil || m.Position != 1 {
				t.Fatalf("got %+v, %v", m, err)
			}
			if round == 0 {
				if _, err := sub.Delete(ctx); err != nil {
					t.Fatal(err)
				}
				if _, err := sub.Create(ctx, api.SubscriptionConfig{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
			break // which sends the acknowledgement
		}
		if info, err := sub.Info(ctx); err != nil || info.Acked != uint64(round) {
			t.Errorf("round %d: %+v, %v", round, info, err)
		}
	}
}

// TestLoopsThatEnd: a job takes one event each time it runs, and what was fetched with it goes back without an attempt.
func TestLoopsThatEnd(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "jobs")
	sub := st.Subscription("work")
	if _, err := sub.Create(ctx, api.SubscriptionConfig{MaxAttempts: 2}); err != nil {
		t.Fatal(err)
	}
	const runs = 6
	if _, err := st.Append(ctx, "a", numbered(0, runs), client.Any); err != nil {
		t.Fatal(err)
	}
	for run := range runs {
		for m, err := range sub.Messages(ctx, client.ConsumeOptions{}) {
			if err != nil {
				t.Fatalf("run %d: %v", run, err)
			}
			if m.Attempt != 1 {
				t.Errorf("run %d: event %d at attempt %d", run, m.Position, m.Attempt)
			}
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if info, err := sub.Info(ctx); err != nil || info.Parked != 0 || info.Acked != runs {
		t.Errorf("got %+v, %v", info, err)
	}
}

// TestNackOfOneDelivery: the answer to a nack is lost, and the event is at another consumer when it is sent again. That one's delivery does not fail for it.
func TestNackOfOneDelivery(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "nacks")
	sub := st.Subscription("work")
	if _, err := sub.Create(ctx, api.SubscriptionConfig{MaxAttempts: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Append(ctx, "a", numbered(0, 1), client.Any); err != nil {
		t.Fatal(err)
	}
	nacks := 0
	first := between(t, st, func(m *nats.Msg, send func() []byte) []byte {
		answer := send()
		if !strings.Contains(m.Subject, ".nack.") {
			return answer
		}
		if nacks++; nacks > 1 {
			return answer
		}
		if res, err := sub.Fetch(ctx, 1, 3*time.Second); err != nil || len(res.Events) != 1 || res.Events[0].Attempt != 2 { // the second consumer has it
			t.Errorf("the second consumer got %+v, %v", res, err)
		}
		return refusal(t, api.ErrOutcomeUnknown.With("the answer is lost"))
	}).Subscription("work")
	res, err := first.Fetch(ctx, 1, 3*time.Second)
	if err != nil || len(res.Events) != 1 {
		t.Fatalf("got %+v, %v", res, err)
	}
	if _, err := first.Nack(ctx, api.SubscriptionNackRequest{Positions: []uint64{1}, Attempts: []int{1}}); err != nil || nacks != 2 {
		t.Errorf("sent %d times: %v", nacks, err)
	}
	if res, err := sub.Ack(ctx, 1); err != nil || res.Done != 1 {
		t.Errorf("the second consumer's ack: %+v, %v", res, err)
	}
	// Without the attempt nobody can tell which delivery is meant, so it is sent once.
	sent := 0
	lossy := answered(t, "nack-once", func(*nats.Conn, *nats.Msg) []byte {
		sent++
		return refusal(t, api.ErrOutcomeUnknown)
	})
	_, err = lossy.Store("s").Subscription("work").Nack(ctx, api.SubscriptionNackRequest{Positions: []uint64{1}})
	if !errors.Is(err, client.ErrOutcomeUnknown) || sent != 1 {
		t.Errorf("sent %d times: %v", sent, err)
	}
}
