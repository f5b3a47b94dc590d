package stores

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
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
					return s.FetchSubscription("work", api.SubscriptionFetchRequest{Limit: 5}, time.Now().Add(20*time.Millisecond), nil, done)
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
				return s.FetchSubscription("other", api.SubscriptionFetchRequest{Limit: 5}, time.Now(), nil, done)
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
	if err := s.FetchSubscription("work", api.SubscriptionFetchRequest{}, time.Now().Add(time.Hour), nil, func(_ any, err *api.Error) { waits <- err }); err != nil {
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

func (p *pushed) Push(_ *Store, _ string, _ uint64, _ *api.SubscriptionConfig, e *api.DeliveredEvent) error {
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

// lateLook has the next consumer of a subscription stop when it has looked for the subscription and before it does anything about it, until the test calls goOn.
func lateLook(s *Store) (looked <-chan struct{}, goOn func()) {
	x, is, on := &s.subscriptions, make(chan struct{}), make(chan struct{})
	var once sync.Once
	x.mu.Lock()
	x.looked = func() {
		once.Do(func() {
			close(is)
			<-on
		})
	}
	x.mu.Unlock()
	return is, func() { close(on) }
}

// createSubscription creates the subscription mail.
func createSubscription(t *testing.T, s *Store, config api.SubscriptionConfig) *api.SubscriptionCreateResponse {
	t.Helper()
	if err := config.Complete(""); err != nil {
		t.Fatal(err)
	}
	var a answers
	res, err := ask[api.SubscriptionCreateResponse](&a, func(done Done) *api.Error { return s.CreateSubscription("mail", config, done) })
	if err != nil || !res.Created {
		t.Fatalf("create: %+v, %v", res, err)
	}
	return res
}

// fetchAll returns what a fetch that does not wait gets.
func fetchAll(s *Store) (*api.SubscriptionFetchResponse, *api.Error) {
	var a answers
	return ask[api.SubscriptionFetchResponse](&a, func(done Done) *api.Error {
		return s.FetchSubscription("mail", api.SubscriptionFetchRequest{Limit: 10}, time.Now(), nil, done)
	})
}

// A consumer that found no subscription refuses what came before it looked. What comes later may come behind the create's answer, and finds the subscription.
func TestRequestBehindACreateFindsTheSubscription(t *testing.T) {
	_, s := openLone(t, Config{})
	looked, goOn := lateLook(s)
	results := make(chan *api.Error, 2)
	fetch := func() {
		if err := s.FetchSubscription("mail", api.SubscriptionFetchRequest{Limit: 1}, time.Now(), nil, func(_ any, err *api.Error) { results <- err }); err != nil {
			t.Fatal(err)
		}
	}
	fetch()
	<-looked
	createSubscription(t, s, api.SubscriptionConfig{})
	fetch()
	goOn()
	if err := <-results; !errors.Is(err, api.ErrSubscriptionNotFound) {
		t.Errorf("the fetch before the create: %v", err)
	}
	if err := <-results; err != nil {
		t.Errorf("the fetch behind the create: %v", err)
	}
}

// The same of a subscription that pushes: nobody asks for its events, so what has it begin must not be lost. A late acknowledgement of a deleted one of its name has begun the consumer.
func TestPushBeginsBehindACreate(t *testing.T) {
	p := &pushed{events: make(chan api.DeliveredEvent, 10)}
	p.listens.Store(true)
	_, s := openLone(t, Config{Push: p})
	if err := appendTo(s, "a", "", 1); err != nil {
		t.Fatal(err)
	}
	looked, goOn := lateLook(s)
	if err := s.AckSubscription("mail", api.SubscriptionAckRequest{Positions: []uint64{1}}, func(any, *api.Error) {}); err != nil {
		t.Fatal(err)
	}
	<-looked
	createSubscription(t, s, api.SubscriptionConfig{DeliverSubject: "mail", Ack: api.AckNone})
	goOn()
	select {
	case <-p.events:
	case <-time.After(10 * time.Second):
		t.Error("somebody listens, and nothing is pushed")
	}
}

// The same once a backup is restored: a consumer may have looked just before the restore ended, and the subscription begins with it.
func TestPushBeginsBehindARestore(t *testing.T) {
	_, from := openLone(t, Config{})
	if err := appendTo(from, "a", "", 1); err != nil {
		t.Fatal(err)
	}
	createSubscription(t, from, api.SubscriptionConfig{DeliverSubject: "mail", Ack: api.AckNone})
	events, err := from.BackupEvents(t.Context(), api.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := from.BackupKeys(t.Context(), api.BackupKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	end := api.RestoreRequest{Step: api.RestoreEnd, Events: 1, Keys: keys.Keys}
	var d api.Digester
	list, derr := api.DecodeBackupEvents(events.Page)
	_, pairs, kerr := api.DecodeBackupKeys(keys.Page)
	if derr != nil || kerr != nil || len(list) != 1 {
		t.Fatal(derr, kerr, list)
	}
	end.EventsDigest = d.Event(end.EventsDigest, &list[0])
	for i := range pairs {
		end.KeysDigest = d.Key(end.KeysDigest, &pairs[i])
	}

	p := &pushed{events: make(chan api.DeliveredEvent, 10)}
	p.listens.Store(true)
	_, s := openLone(t, Config{Push: p})
	var a answers
	step := func(r api.RestoreRequest) {
		t.Helper()
		r.Restore = "r"
		if _, err := ask[api.RestoreResponse](&a, func(done Done) *api.Error { return s.Restore(r, done) }); err != nil {
			t.Fatal(r.Step, err)
		}
	}
	looked, goOn := lateLook(s)
	step(api.RestoreRequest{Step: api.RestoreBegin})
	if err := s.AckSubscription("mail", api.SubscriptionAckRequest{Positions: []uint64{1}}, func(any, *api.Error) {}); err != nil {
		t.Fatal(err)
	}
	<-looked
	c, _ := s.subscriptions.find("mail")
	step(api.RestoreRequest{Step: api.RestoreEvents, Page: events.Page})
	step(api.RestoreRequest{Step: api.RestoreKeys, Page: keys.Page})
	step(end)
	for told := 0; told == 0; runtime.Gosched() { // to begin
		c.mu.Lock()
		told = len(c.inbox)
		c.mu.Unlock()
	}
	goOn()
	select {
	case <-p.events:
	case <-time.After(10 * time.Second):
		t.Error("somebody listens, and nothing is pushed")
	}
}

// An acknowledgement that says which subscription it is meant for does nothing to another one of the name.
func TestAckNamesItsSubscription(t *testing.T) {
	_, s := openLone(t, Config{})
	var a answers
	for range 3 {
		if err := appendTo(s, "a", "", 1); err != nil {
			t.Fatal(err)
		}
	}
	created := createSubscription(t, s, api.SubscriptionConfig{})
	old, err := fetchAll(s)
	if err != nil || len(old.Events) != 3 || old.ID != created.ID || old.ID == 0 {
		t.Fatalf("%+v of %d, %v", old, created.ID, err)
	}
	if _, err := ask[api.SubscriptionDeleteResponse](&a, func(done Done) *api.Error { return s.DeleteSubscription("mail", done) }); err != nil {
		t.Fatal(err)
	}
	createSubscription(t, s, api.SubscriptionConfig{})
	ack := func(id uint64) (*api.SubscriptionAckResponse, *api.Error) {
		return ask[api.SubscriptionAckResponse](&a, func(done Done) *api.Error {
			return s.AckSubscription("mail", api.SubscriptionAckRequest{ID: id, Positions: []uint64{2}}, done)
		})
	}
	if res, err := ack(old.ID); !errors.Is(err, api.ErrSubscriptionNotFound) {
		t.Errorf("the ack meant for the deleted one, before anything is delivered: %+v, %v", res, err)
	}
	fresh, err := fetchAll(s)
	if err != nil || len(fresh.Events) != 3 {
		t.Fatalf("the new one delivers %+v, %v", fresh, err)
	}
	if res, err := ack(old.ID); !errors.Is(err, api.ErrSubscriptionNotFound) {
		t.Errorf("the ack meant for the deleted one, of what is in flight: %+v, %v", res, err)
	}
	if res, err := ask[api.SubscriptionAckResponse](&a, func(done Done) *api.Error {
		return s.NackSubscription("mail", api.SubscriptionNackRequest{ID: old.ID, Positions: []uint64{1}, Park: true}, done)
	}); !errors.Is(err, api.ErrSubscriptionNotFound) {
		t.Errorf("a nack meant for the deleted one: %+v, %v", res, err)
	}
	if res, err := ack(fresh.ID); err != nil || res.Done != 1 {
		t.Errorf("the ack meant for the new one: %+v, %v", res, err)
	}
}

// lateEntry is an entry whose outcome is known when the test says so.
type lateEntry struct {
	proposal
	known chan error // nil: what comes of it
}

func (e *lateEntry) Wait() (any, error) {
	result, err := e.proposal.Wait()
	if told := <-e.known; told != nil {
		return nil, told
	}
	return result, err
}

// An acknowledgement whose change is in the log when the term ends is answered with what comes of the change, and not that nothing was written.
func TestAckUnderWayIsAnsweredWithItsOutcome(t *testing.T) {
	for _, r := range []struct {
		name      string
		told      error
		want      *api.Error
		wantAcked uint64
	}{
		{"committed", nil, nil, 1},
		{"unknown", raftnode.ErrOutcomeUnknown, api.ErrOutcomeUnknown, 1}, // here it was written
	} {
		t.Run(r.name, func(t *testing.T) {
			_, s := openLone(t, Config{})
			if err := appendTo(s, "a", "", 1); err != nil {
				t.Fatal(err)
			}
			createSubscription(t, s, api.SubscriptionConfig{})
			if _, err := fetchAll(s); err != nil {
				t.Fatal(err)
			}
			known, proposed := make(chan error), make(chan struct{})
			s.door = newDoor(s, func(entry []byte) (proposal, error) {
				p, err := s.group.Propose(entry)
				close(proposed)
				return &lateEntry{p, known}, err
			})
			answer := make(chan *api.Error, 1)
			if err := s.AckSubscription("mail", api.SubscriptionAckRequest{Positions: []uint64{1}}, func(_ any, err *api.Error) { answer <- err }); err != nil {
				t.Fatal(err)
			}
			<-proposed
			s.subscriptions.close() // the term ends
			select {
			case err := <-answer:
				t.Fatalf("answered before anything is known: %v", err)
			default:
			}
			known <- r.told
			if err := <-answer; (err != nil || r.want != nil) && !errors.Is(err, r.want) {
				t.Errorf("answered %v, want %v", err, r.want)
			}
			if sub, _, err := s.machine.Subscription("mail"); err != nil || sub.Acked != r.wantAcked {
				t.Errorf("%+v, %v", sub, err)
			}
		})
	}
}
