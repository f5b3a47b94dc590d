package stores

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// fill appends n events to one stream.
func (w *world) fill(n int, tags ...string) {
	a := fsm.Append{Stream: "s", Expected: api.ExpectAny}
	for range n {
		w.events++
		a.Events = append(a.Events, fsm.EventRecord{ID: fmt.Sprint(w.events), Type: "T", Tags: tags})
	}
	w.apply(a.Body())
	w.d.end = false
}

// take fetches, and returns what it gets.
func (w *world) take(limit int) (got []api.DeliveredEvent) {
	w.t.Helper()
	w.d.fetch(&fetch{limit: limit, until: w.now, done: func(events []api.DeliveredEvent, _ uint64, _ *api.Error) { got = events }})
	w.turn()
	return got
}

// takeAll fetches until there is nothing more, and returns the positions.
func (w *world) takeAll() (positions []uint64) {
	w.t.Helper()
	for got := w.take(1000); len(got) > 0; got = w.take(1000) {
		for i := range got {
			positions = append(positions, got[i].Position)
		}
	}
	return positions
}

// work fetches and acknowledges until there is nothing more, all but the stuck ones, which stay in flight.
func (w *world) work(stuck ...uint64) {
	w.t.Helper()
	for got := w.take(1000); len(got) > 0; got = w.take(1000) {
		var r api.SubscriptionAckRequest
		for i := range got {
			if !slices.Contains(stuck, got[i].Position) {
				r.Positions = append(r.Positions, got[i].Position)
			}
		}
		if len(r.Positions) > 0 {
			w.acknowledge(&r)
		}
	}
}

// What was acknowledged is not delivered again, however much the leader that is gone had delivered, and however much of it is done.
func TestNextLeaderTakesEveryAcknowledgement(t *testing.T) {
	t.Run("many are in flight", func(t *testing.T) {
		w := newWorld(t, api.SubscriptionConfig{MaxInFlight: api.MaxInFlight})
		w.fill(api.MaxInFlight)
		got := w.takeAll()
		want(t, "in flight", len(got), api.MaxInFlight)
		w.fail()
		for page := range slices.Chunk(got, api.MaxFetch) {
			want(t, "acknowledged", w.ack(page...), len(page))
		}
		want(t, "delivered again", len(w.takeAll()), 0)
		w.pass(lazyAfter)
		want(t, "floor", w.state().Floor, api.MaxInFlight)
	})
	t.Run("one is stuck", func(t *testing.T) {
		w := newWorld(t, api.SubscriptionConfig{MaxInFlight: 10, MaxAttempts: -1})
		w.fill(lookAhead + 5)
		w.work(1, lookAhead+4, lookAhead+5)
		want(t, "done", len(w.state().Done), lookAhead+2)
		w.fail()
		want(t, "acknowledged", w.ack(lookAhead+4, lookAhead+5), 2)
		want(t, "delivered again", fmt.Sprint(w.takeAll()), "[1]")
	})
}

// A stuck event holds up what lies too far behind it, and nothing nearer: not at the next leader either, which finds all of it done but for what is in flight.
func TestStuckEventHoldsUpNothingNearer(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxInFlight: 10, MaxAttempts: -1})
	const room = 10 + lookAhead
	w.fill(2 * room)
	for range 3 {
		w.work(1, 3000)
		want(t, "looked at", w.d.scanned, room)
		want(t, "done above the floor", len(w.state().Done), room-2)
		w.fail()
		want(t, "delivered again", fmt.Sprint(w.takeAll()), "[1 3000]")
		w.fail()
	}
}

// What is done and then gone from the store still counts in the replicated state: it is not forgotten before the floor is above it, and not kept for longer.
func TestDoneEventsThatAreGone(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{MaxInFlight: 10, MaxAttempts: -1})
	w.append("a", "s", "a")
	w.fill(2 * lookAhead)
	w.work(1, 2, 3)
	want(t, "done", len(w.state().Done), 10+lookAhead-3)
	w.apply(fsm.ChangeBody(&fsm.StreamChange{Op: fsm.StreamDelete, Stream: "s", Expected: api.ExpectAny}))
	for range 2 {
		w.fail()
		want(t, "delivered again", fmt.Sprint(w.takeAll()), "[1 3]")
		want(t, "kept of what was looked at", len(w.d.skip), 0)
		want(t, "counted", len(w.d.order), 10+lookAhead-1) // the second was not done, and is gone
	}
	want(t, "acknowledged", w.ack(1, 3), 2)
	w.turn()
	w.pass(lazyAfter)
	want(t, "in order", len(w.d.order), 0)
	want(t, "done above the floor", len(w.state().Done), 0)
}

// Acknowledgements of what nobody delivered are refused when they would fill the state, and say so.
func TestAcknowledgementsAheadAreBounded(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{})
	w.fill(10_000)
	w.fill(10_000)
	w.fill(14_000)
	var refused *api.Error
	acked := 0
	for position := uint64(1); refused == nil; position += api.MaxFetch {
		r := api.SubscriptionAckRequest{}
		for i := range uint64(api.MaxFetch) {
			r.Positions = append(r.Positions, position+i)
		}
		if err := w.d.ack(&r, func(n int, _ uint64, err *api.Error) { acked, refused = acked+n, err }); err != nil {
			t.Fatal(err)
		}
		w.turn()
	}
	if !errors.Is(refused, api.ErrOverloaded) {
		t.Errorf("refused with %v", refused)
	}
	want(t, "acknowledged", acked, fsm.MaxDone/api.MaxFetch*api.MaxFetch)
	want(t, "in the state", len(w.state().Done), acked)
	want(t, "it goes on with what is left", w.fetch(1), fmt.Sprintf("%d/1 ", acked+1))
}

// The lag of a fetch is that of the moment, also when its events were read before.
func TestLagIsOfNow(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{})
	lag := func() (l uint64) {
		w.d.fetch(&fetch{limit: 1, until: w.now, done: func(_ []api.DeliveredEvent, n uint64, _ *api.Error) { l = n }})
		w.turn()
		return l
	}
	w.fill(300)
	want(t, "lag", lag(), 300)
	w.fill(500)
	want(t, "lag", lag(), 800)
}

// Events that come back are no more on a page than events that are read: with their tags, also such as take twice the bytes on it.
func TestPageCountsTags(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{AckWaitMS: 1000})
	tags := make([]string, api.MaxTags)
	for i := range tags {
		tags[i] = strings.Repeat(`"`, api.MaxTag)
	}
	w.fill(300, tags...)
	want(t, "delivered", len(w.takeAll()), 300)
	w.pass(time.Second)
	for left := 300; left > 0; {
		got := w.take(1000)
		if len(got) == 0 {
			t.Fatalf("%d do not come again", left)
		}
		left -= len(got)
		page, err := api.Marshal(&api.SubscriptionFetchResponse{Events: got})
		if err != nil || len(page) > 5*api.MaxPageBytes/2 {
			t.Fatalf("a page of %d events has %d bytes, %v", len(got), len(page), err)
		}
	}
}
