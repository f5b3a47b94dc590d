package stores

import (
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// slowly is a source of which each look sees one event.
type slowly struct{ *world }

func (s slowly) page(after, _ uint64, limit int, q *api.Query) (fsm.AllPage, error) {
	page, err := s.world.page(after, after+1, limit, q)
	page.Next, page.End = after+1, after+1 >= s.last()
	return page, err
}

// A consumer that asks now and then and does not wait gets to an event that is rare: each time it is looked at what lies behind the last look, also by a new delivery, since how far it was is
// written although the end was not reached. Nothing is idle until it is.
func TestEachLookGoesOnBehindTheLast(t *testing.T) {
	w := newWorld(t, api.SubscriptionConfig{Query: &api.Query{Items: []api.QueryItem{{StreamPrefixes: []string{"rare-"}}}}})
	w.append("a", "a", "a", "rare-1")
	poll := func() (answer string) { // as long as a fetch is given that does not want to wait, which here is time for one look
		t.Helper()
		w.fail()
		w.d.events = slowly{w}
		got := w.wait(1, 0)
		if err := w.d.read(); err != nil {
			t.Fatal(err)
		}
		if err := w.d.serve(w.now); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(lookGrace)
		w.d.expire(w.now)
		w.commit()
		if len(w.d.fetches) > 0 || w.d.idle() {
			t.Fatalf("%d fetches wait, and what was looked at is lost with an idle delivery: %v", len(w.d.fetches), w.d.idle())
		}
		w.now = w.now.Add(lazyAfter)
		w.d.tick(w.now)
		w.commit()
		return *got
	}
	for n := range uint64(3) {
		want(t, "a look", poll(), "")
		want(t, "floor", w.state().Floor, n+1)
		if !w.d.idle() {
			t.Error("it is written, and the delivery is not idle")
		}
	}
	want(t, "the rare one", poll(), "4/1 ")
}
