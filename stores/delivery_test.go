package stores

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// world is a state machine and the delivery of one of its subscriptions, with a clock that the test moves.
type world struct {
	t interface {
		Helper()
		Fatalf(string, ...any)
	}
	machine *fsm.FSM
	index   uint64
	now     time.Time
	d       *delivery
	events  int
}

func newWorld(t *testing.T, config api.SubscriptionConfig) *world {
	t.Helper()
	w := openWorld(t, filepath.Join(t.TempDir(), "store.db"))
	t.Cleanup(func() { w.machine.Close() })
	w.t = t
	w.subscribe(config)
	return w
}

func openWorld(t *testing.T, path string) *world {
	f, err := fsm.Open(fsm.Config{Path: path, Store: 1, Incarnation: 1, OnDirty: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	return &world{machine: f, now: time.UnixMilli(1_700_000_000_000)}
}

func (w *world) subscribe(config api.SubscriptionConfig) {
	w.t.Helper()
	if err := config.Complete(""); err != nil {
		w.t.Fatalf("%v", err)
	}
	raw, _ := api.Marshal(config)
	w.apply(fsm.ChangeBody(&fsm.SubscriptionCreate{Name: "sub", Config: raw}))
	w.fail()
}

// fail loses the leader: what it remembered is gone, and the next one begins with what is committed.
func (w *world) fail() {
	w.t.Helper()
	w.d = newDelivery(w.state(), w)
	if err := w.d.again(w.state()); err != nil {
		w.t.Fatalf("%v", err)
	}
}

func (w *world) state() *fsm.Subscription {
	w.t.Helper()
	sub, _, err := w.machine.Subscription("sub")
	if err != nil || sub == nil {
		w.t.Fatalf("the subscription: %v %v", sub, err)
	}
	return sub
}

func (w *world) page(after, upTo uint64, limit int, q *api.Query) (fsm.AllPage, error) {
	return w.machine.ReadAll(fsm.AllQuery{After: after, UpTo: upTo, Limit: limit, MaxBytes: 1 << 20, Query: q})
}

func (w *world) last() uint64 { return w.machine.LastPosition() }

func (w *world) apply(b fsm.Body) any {
	w.t.Helper()
	w.index++
	r := w.machine.Apply(&raft.Log{Index: w.index, Term: 1, Type: raft.LogCommand, Data: fsm.EncodeBodies([]fsm.Body{b})}).(fsm.Result).Append[0]
	if r.Err != nil {
		w.t.Fatalf("apply: %v", r.Err)
	}
	return r.Value
}

// append appends an event to each of the streams, in this order.
func (w *world) append(streams ...string) {
	for _, stream := range streams {
		w.events++
		a := fsm.Append{Stream: stream, Expected: api.ExpectAny, Events: []fsm.EventRecord{{ID: fmt.Sprint(w.events), Type: "T"}}}
		w.apply(a.Body())
	}
	w.d.end = false
}

// turn does what a consumer does when it has something to do.
func (w *world) turn() {
	w.t.Helper()
	w.d.tick(w.now)
	for w.d.hungry() && !w.d.end {
		if err := w.d.read(); err != nil {
			w.t.Fatalf("%v", err)
		}
	}
	if err := w.d.serve(w.now); err != nil {
		w.t.Fatalf("%v", err)
	}
	w.d.expire(w.now)
	w.commit()
}

func (w *world) commit() {
	for p := w.d.next(); p != nil; p = w.d.next() {
		w.d.committed(w.apply(fsm.ChangeBody(p)).(uint64))
	}
}

// fetch returns what a fetch that does not wait gets, as position/attempt.
func (w *world) fetch(limit int) string {
	w.t.Helper()
	c := w.wait(limit, 0)
	w.turn()
	return *c
}

// wait begins a fetch. Its answer is there once it is answered; before it is "waits".
func (w *world) wait(limit int, wait time.Duration) *string {
	answer := "waits"
	w.d.fetch(&fetch{limit: limit, until: w.now.Add(wait), done: func(events []api.DeliveredEvent, _ uint64, err *api.Error) {
		if answer = ""; err != nil {
			answer = err.Name
		}
		for _, e := range events {
			answer += fmt.Sprintf("%d/%d ", e.Position, e.Attempt)
		}
	}})
	return &answer
}

func (w *world) ack(positions ...uint64) int {
	w.t.Helper()
	return w.acknowledge(&api.SubscriptionAckRequest{Positions: positions})
}

func (w *world) acknowledge(r *api.SubscriptionAckRequest) (n int) {
	w.t.Helper()
	n = -1
	if err := w.d.ack(r, func(done int, _ uint64, _ *api.Error) { n = done }); err != nil {
		w.t.Fatalf("%v", err)
	}
	w.turn()
	return n
}

func (w *world) nack(r api.SubscriptionNackRequest) (n int) {
	w.t.Helper()
	n = -1
	w.d.nack(w.now, &r, func(done int, _ uint64, _ *api.Error) { n = done })
	w.turn()
	return n
}

func (w *world) pass(d time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	w.turn()
}

func (w *world) replay(positions ...uint64) {
	w.t.Helper()
	w.apply(fsm.ChangeBody(&fsm.SubscriptionReplay{Name: "sub", Positions: positions}))
	if err := w.d.again(w.state()); err != nil {
		w.t.Fatalf("%v", err)
	}
}

func (w *world) parked() (list []string) {
	w.t.Helper()
	parked, _, _, err := w.machine.Parked("sub", 0, 100)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	for _, p := range parked {
		list = append(list, fmt.Sprintf("%d/%d %s", p.Position, p.N, p.Reason))
	}
	return list
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func TestDeliveryGoesOnBehindWhatIsInFlight(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxInFlight: 4})
	w.append("a", "b", "a", "b", "a", "b")
	want(t, "two", w.fetch(2), "1/1 2/1 ")
	want(t, "two more: four may be in flight", w.fetch(3), "3/1 4/1 ")
	want(t, "none", w.fetch(3), "")
	want(t, "ack the second", w.ack(2), 1)
	want(t, "floor", w.state().Floor, 0)
	want(t, "one more", w.fetch(3), "5/1 ")
	want(t, "ack the first", w.ack(1), 1)
	want(t, "floor", w.state().Floor, 2)
	want(t, "ack them again, and one that was not delivered", w.ack(1, 2, 6), 1)
	want(t, "ack up to four", w.acknowledge(&api.SubscriptionAckRequest{UpTo: 4}), 2)
	want(t, "floor", w.state().Floor, 4)
	want(t, "nothing: the sixth is acknowledged", w.fetch(3), "")
	want(t, "ack the last", w.ack(5), 1)
	want(t, "floor", w.state().Floor, 6)
	want(t, "acked", w.state().Acked, 6)
}

func TestFetchesShare(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{})
	first, second, third := w.wait(2, time.Minute), w.wait(1, time.Second), w.wait(5, time.Minute)
	w.turn()
	want(t, "no event yet", *first+*second+*third, "waitswaitswaits")
	w.pass(time.Second)
	want(t, "the second has waited long enough", *first+*second+*third, "waitswaits")
	w.append("a", "b", "c")
	w.turn()
	want(t, "the first", *first, "1/1 2/1 ")
	want(t, "the third gets the rest and does not wait for more", *third, "3/1 ")
}

func TestNotAcknowledgedIsDeliveredAgain(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{AckWaitMS: 1000, MaxAttempts: 3})
	w.append("a", "a")
	want(t, "first", w.fetch(1), "1/1 ")
	w.pass(999 * time.Millisecond)
	want(t, "nothing but the next", w.fetch(9), "2/1 ")
	w.pass(time.Millisecond)
	want(t, "again", w.fetch(9), "1/2 ")
	want(t, "nack it with a delay", w.nack(api.SubscriptionNackRequest{Positions: []uint64{1, 7}, DelayMS: 500}), 1)
	want(t, "not yet", w.fetch(9), "")
	want(t, "the delay", w.d.wake().Sub(w.now), 500*time.Millisecond)
	w.pass(500 * time.Millisecond)
	want(t, "for the last time", w.fetch(1), "1/3 ")
	want(t, "late acknowledgement", w.ack(2), 1)
	w.pass(time.Second)
	want(t, "parked", fmt.Sprint(w.parked()), "[1/3 not acknowledged in time]")
	want(t, "nothing is left", w.fetch(9), "")
	want(t, "floor", w.state().Floor, 2)
	w.replay()
	want(t, "replayed", w.fetch(9), "1/1 ")
	w.fail()
	want(t, "replayed, at the next leader too", w.fetch(9), "1/1 ")
	want(t, "park it", w.nack(api.SubscriptionNackRequest{Positions: []uint64{1}, Park: true, Reason: "no"}), 1)
	want(t, "parked again", fmt.Sprint(w.parked()), "[1/1 no]")
	w.replay(1)
	w.fetch(1)
	want(t, "ack", w.ack(1), 1)
	w.fail()
	want(t, "it is done", w.fetch(9), "")
	want(t, "acked", w.state().Acked, 2)
}

func TestExtend(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{AckWaitMS: 1000})
	w.append("a")
	w.fetch(1)
	w.pass(900 * time.Millisecond)
	want(t, "extended", w.d.extend(w.now, 1), 1)
	want(t, "not delivered", w.d.extend(w.now, 2), 0)
	w.pass(999 * time.Millisecond)
	want(t, "still in flight", w.fetch(1), "")
	w.pass(time.Millisecond)
	want(t, "again", w.fetch(1), "1/2 ")
}

// When no more events can be parked, those that should be are tried again later.
// Events that a consumer gives back without a look are delivered again as if they had not been: however often, nothing is parked.
func TestUnseenIsNoAttempt(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxAttempts: 2})
	w.append("s", "s")
	for range 5 {
		want(t, "fetch", w.fetch(10), "1/1 2/1 ")
		want(t, "given back", w.nack(api.SubscriptionNackRequest{Positions: []uint64{1, 2}, Unseen: true}), 2)
	}
	want(t, "parked", len(w.parked()), 0)
	want(t, "fetch", w.fetch(10), "1/1 2/1 ")
	want(t, "acknowledged", w.ack(1, 2), 2)
}

// A nack that says of which delivery it is does nothing to a later one.
func TestNackOfAnEarlierDelivery(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxAttempts: 2})
	w.append("s")
	late := api.SubscriptionNackRequest{Positions: []uint64{1}, Attempts: []int{1}}
	want(t, "fetch", w.fetch(10), "1/1 ")
	want(t, "nacked", w.nack(late), 1)
	want(t, "fetch again", w.fetch(10), "1/2 ")
	want(t, "nacked once more", w.nack(late), 0)
	want(t, "parked", len(w.parked()), 0)
	want(t, "acknowledged", w.ack(1), 1)
}

// A fetch whose consumer has gone is answered without events, and the next one gets them.
func TestFetchOfWhoHasGone(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{})
	var told []api.DeliveredEvent
	answered := false
	w.d.fetch(&fetch{limit: 1, until: w.now.Add(time.Minute), gone: func() bool { return true }, done: func(events []api.DeliveredEvent, _ uint64, err *api.Error) {
		told, answered = events, err == nil
	}})
	stays := w.wait(1, time.Minute)
	w.turn()
	want(t, "answered before there are events", answered, false)
	w.append("s")
	w.turn()
	want(t, "who has gone is told", fmt.Sprint(answered, len(told)), "true 0")
	want(t, "who stays got", *stays, "1/1 ")
}

func TestParkedIsBounded(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxAttempts: 1})
	w.append("a", "a")
	w.d.parked = api.MaxParked - 1
	w.fetch(2)
	want(t, "nack both", w.nack(api.SubscriptionNackRequest{Positions: []uint64{1, 2}}), 2)
	want(t, "parked", fmt.Sprint(w.parked()), "[1/1 not acknowledged]")
	want(t, "not yet", w.fetch(2), "")
	w.pass(fullDelay)
	want(t, "again", w.fetch(2), "2/2 ")
}

// Events that are gone from the store count as done, wherever they are on their way.
func TestGoneEventsAreDone(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{AckWaitMS: 1000, Ordered: true})
	w.append("a", "b", "a", "b", "a", "b")
	want(t, "the first of each stream", w.fetch(9), "1/1 2/1 ")
	w.nack(api.SubscriptionNackRequest{Positions: []uint64{2}, Park: true})
	w.apply(fsm.ChangeBody(&fsm.StreamChange{Op: fsm.StreamTombstone, Stream: "a", Expected: api.ExpectAny}))
	w.fail()
	want(t, "only b is left", w.fetch(9), "4/1 ")
	w.apply(fsm.ChangeBody(&fsm.StreamChange{Op: fsm.StreamTruncate, Stream: "b", Expected: api.ExpectAny, Before: 2}))
	w.pass(time.Second)
	want(t, "what was in flight is gone", w.fetch(9), "")
	want(t, "the next", w.fetch(9), "6/1 ")
	w.replay()
	want(t, "what was parked is gone too", w.fetch(9), "")
	want(t, "ack", w.ack(6), 1)
	want(t, "floor", w.state().Floor, 6)
	if s := w.state(); len(s.Again) > 0 || s.Parked > 0 {
		t.Errorf("something is left: %+v", s)
	}
}

func TestNextLeaderKnowsAttempts(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{AckWaitMS: 1000})
	w.append("a", "a", "a")
	w.fetch(3)
	w.nack(api.SubscriptionNackRequest{Positions: []uint64{2}})
	want(t, "ack", w.ack(1), 1)
	w.fail()
	want(t, "one tried in vain, one in flight", w.fetch(3), "2/2 3/1 ")
	w.pass(time.Second) // time-outs are written a little later
	w.pass(lazyAfter)
	w.fail()
	want(t, "both were in vain", w.fetch(3), "2/3 3/2 ")
	w.fail()
	want(t, "acknowledged before the new leader looked", w.ack(3, 9), 1)
	want(t, "only the other one", w.fetch(3), "2/3 ")
}

func TestOrderedWaitsForTheStream(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{Ordered: true, MaxAttempts: 2, AckWaitMS: 1000})
	w.append("a", "a", "b", "a", "b")
	want(t, "the first of each stream", w.fetch(9), "1/1 3/1 ")
	want(t, "nothing more", w.fetch(9), "")
	want(t, "ack", w.ack(3), 1)
	want(t, "the next of b", w.fetch(9), "5/1 ")
	w.nack(api.SubscriptionNackRequest{Positions: []uint64{1}, DelayMS: 100})
	want(t, "a is delayed", w.fetch(9), "")
	w.pass(100 * time.Millisecond)
	want(t, "a again", w.fetch(9), "1/2 ")
	w.pass(time.Second)
	want(t, "a is parked, b came again", w.fetch(9), "2/1 5/2 ")
	w.replay()
	want(t, "the replayed one waits for the one in flight", w.fetch(9), "")
	want(t, "ack", w.ack(2), 1)
	want(t, "the earlier one first", w.fetch(9), "1/1 ")
	want(t, "ack", w.ack(1), 1)
	want(t, "the last", w.fetch(9), "4/1 ")
}

func TestAckNoneCountsUntilCommitted(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{Ack: api.AckNone, MaxInFlight: 2})
	w.append("a", "a", "a")
	w.wait(9, 0)
	for w.d.hungry() && !w.d.end {
		if err := w.d.read(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.d.serve(w.now); err != nil {
		t.Fatal(err)
	}
	want(t, "in flight", w.d.flying, 2)
	want(t, "floor", w.state().Floor, 0)
	w.commit()
	want(t, "in flight", w.d.flying, 0)
	want(t, "floor", w.state().Floor, 2)
	want(t, "the rest", w.fetch(9), "3/1 ")
	w.fail()
	want(t, "all is done", w.fetch(9), "")
}

// A filter that selects nothing still lets the cursor follow.
func TestCursorFollowsWhatIsNotSelected(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{Query: &api.Query{Items: []api.QueryItem{{Types: []string{"X"}}}}})
	w.append("a", "a", "a")
	w.wait(1, time.Minute)
	w.turn()
	want(t, "floor", w.state().Floor, 0)
	w.pass(lazyAfter)
	want(t, "floor", w.state().Floor, 3)
	w.fail()
	if !w.d.idle() {
		t.Error("a new delivery is not idle")
	}
}

// One event that is never acknowledged lets the others go on only so far, also over many leaders.
func TestOneStuckEventBoundsTheRest(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxInFlight: 1000, MaxAttempts: -1})
	for range 3 {
		w.fill(4 * lookAhead / 3)
	}
	for range 3 {
		w.fail()
		w.work(1)
		want(t, "done above the floor", len(w.state().Done), 1000+lookAhead-1)
	}
	want(t, "floor", w.state().Floor, 0)
	want(t, "the stuck one is acknowledged at last", w.ack(1), 1)
	acked := w.state().Acked
	want(t, "it goes on behind them", w.fetch(1), fmt.Sprintf("%d/1 ", acked+1))
	want(t, "ack", w.ack(acked+1), 1)
	want(t, "floor", w.state().Floor, acked+1)
}

// Who waits for the change under way is not told that nothing was written: that is not known yet.
func TestFailAnswersEverybodyElse(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{})
	w.append("a", "a")
	w.fetch(2)
	fetching := w.wait(1, time.Minute)
	refused := make([]*api.Error, 2)
	for position := range uint64(2) {
		if err := w.d.ack(&api.SubscriptionAckRequest{Positions: []uint64{position + 1}}, func(_ int, _ uint64, err *api.Error) { refused[position] = err }); err != nil {
			t.Fatal(err)
		}
		if position == 0 && w.d.next() == nil {
			t.Fatal("there is nothing to commit")
		}
	}
	underway := w.d.underway
	w.d.fail(api.ErrNotLeader)
	want(t, "the fetch", *fetching, "not_leader")
	if refused[0] != nil || !errors.Is(refused[1], api.ErrNotLeader) {
		t.Errorf("the acks: %v", refused)
	}
	underway.answer(0, api.ErrOutcomeUnknown)
	if !errors.Is(refused[0], api.ErrOutcomeUnknown) {
		t.Errorf("the ack under way: %v", refused[0])
	}
}
