package stores

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
)

// answers counts that every request is answered once.
type answers struct{ asked, answered atomic.Int64 }

// ask begins a request and waits for its answer.
func ask[T any](a *answers, begin func(done Done) *api.Error) (reply *T, refused *api.Error) {
	type answer struct {
		reply any
		err   *api.Error
	}
	a.asked.Add(1)
	c := make(chan answer, 2)
	if err := begin(func(reply any, err *api.Error) {
		a.answered.Add(1)
		c <- answer{reply, err}
	}); err != nil {
		a.answered.Add(1)
		return nil, err
	}
	got := <-c
	reply, _ = got.reply.(*T)
	return reply, got.err
}

// Many consumers, writers, and somebody who deletes and creates another subscription: every request is answered once, and every event is acknowledged once.
func TestConsumersShareAStore(t *testing.T) {
	m, s := openLone(t, Config{})
	var a answers
	config := api.SubscriptionConfig{MaxInFlight: 20}
	if err := config.Complete(""); err != nil {
		t.Fatal(err)
	}
	create := func(name string) *api.Error {
		_, err := ask[api.SubscriptionCreateResponse](&a, func(done Done) *api.Error { return s.CreateSubscription(name, config, done) })
		return err
	}
	if err := create("work"); err != nil {
		t.Fatal(err)
	}
	const events = 400
	var acked atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range events / 4 {
				if _, err := s.Append(&Append{Stream: fmt.Sprint("s", w), Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T", ID: fmt.Sprintf("%d-%d", w, i)}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 8 {
		wg.Go(func() {
			for acked.Load() < events {
				page, err := ask[api.SubscriptionFetchResponse](&a, func(done Done) *api.Error {
					return s.FetchSubscription("work", api.SubscriptionFetchRequest{Limit: 5}, time.Now().Add(20*time.Millisecond), done)
				})
				if err != nil {
					t.Error(err)
					return
				}
				for n, e := range page.Events {
					if i == 0 && n == 0 && e.Attempt == 1 { // one of them does not succeed at once
						_, err = ask[api.SubscriptionAckResponse](&a, func(done Done) *api.Error {
							return s.NackSubscription("work", api.SubscriptionNackRequest{Positions: []uint64{e.Position}, DelayMS: 1}, done)
						})
					} else {
						var res *api.SubscriptionAckResponse
						if res, err = ask[api.SubscriptionAckResponse](&a, func(done Done) *api.Error {
							return s.AckSubscription("work", api.SubscriptionAckRequest{Positions: []uint64{e.Position}}, done)
						}); err == nil {
							acked.Add(int64(res.Done))
						}
					}
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for acked.Load() < events {
			if err := create("other"); err != nil {
				t.Error(err)
			}
			if _, err := ask[api.SubscriptionFetchResponse](&a, func(done Done) *api.Error {
				return s.FetchSubscription("other", api.SubscriptionFetchRequest{Limit: 5}, time.Now(), done)
			}); err != nil {
				t.Error(err)
			}
			if _, err := ask[api.SubscriptionDeleteResponse](&a, func(done Done) *api.Error { return s.DeleteSubscription("other", done) }); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	info, err := s.Subscription(t.Context(), "work", api.ReadOptions{})
	if err != nil || info.Acked != events || info.Cursor != events || info.Lag != 0 || *info.InFlight != 0 {
		t.Errorf("at the end: %v %+v", err, info)
	}
	// A fetch that waits when the store closes is answered as well.
	waits := make(chan *api.Error, 1)
	if err := s.FetchSubscription("work", api.SubscriptionFetchRequest{}, time.Now().Add(time.Hour), func(_ any, err *api.Error) { waits <- err }); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waits; !errors.Is(err, api.ErrNotLeader) {
		t.Errorf("the fetch that waited: %v", err)
	}
	if asked, answered := a.asked.Load(), a.answered.Load(); asked != answered {
		t.Errorf("%d requests, %d answers", asked, answered)
	}
}

// pushed is a Pusher that somebody listens to, or not.
type pushed struct {
	listens atomic.Bool
	asked   chan struct{} // whether somebody listens
	events  chan api.DeliveredEvent
}

func (p *pushed) Wanted(string) bool {
	select {
	case p.asked <- struct{}{}:
	default:
	}
	return p.listens.Load()
}

func (p *pushed) Push(_ *Store, _ string, _ *api.SubscriptionConfig, e *api.DeliveredEvent) error {
	p.events <- *e
	return nil
}

// Nothing is pushed, and so nothing tried in vain, while nobody listens; and the store can rest meanwhile.
func TestPushWaitsForSomebody(t *testing.T) {
	p := &pushed{events: make(chan api.DeliveredEvent, 10), asked: make(chan struct{})}
	_, s := openLone(t, Config{Push: p})
	var a answers
	config := api.SubscriptionConfig{DeliverSubject: "out", AckWaitMS: 1, MaxAttempts: 1}
	if err := config.Complete(""); err != nil {
		t.Fatal(err)
	}
	if _, err := ask[api.SubscriptionCreateResponse](&a, func(done Done) *api.Error { return s.CreateSubscription("work", config, done) }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(&Append{Stream: "s", Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T"}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.machine.Flush(); err != nil { // which would use the file a little later
		t.Fatal(err)
	}
	uses := s.machine.Uses()
	for range 4 { // looks later nothing has happened
		<-p.asked
	}
	if len(p.events) > 0 {
		t.Error("an event was pushed to nobody")
	}
	if now := s.machine.Uses(); now != uses {
		t.Errorf("the state file was used %d times while nobody listened", now-uses)
	}
	p.listens.Store(true)
	if e := <-p.events; e.Position != 1 || e.Attempt != 1 {
		t.Errorf("pushed: %+v", e)
	}
}
