package stores

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

// TestDeliveryModel does random things to a subscription and holds what is delivered against what must hold whatever happens.
func TestDeliveryModel(t *testing.T) {
	dir, runs := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		w := openWorld(t, filepath.Join(dir, fmt.Sprint(runs)))
		w.t = rt
		defer w.machine.Close()
		config := api.SubscriptionConfig{
			MaxInFlight: rapid.IntRange(1, 6).Draw(rt, "in flight"), MaxAttempts: rapid.SampledFrom([]int{-1, 1, 3}).Draw(rt, "attempts"), AckWaitMS: 1000,
			Ordered: rapid.Bool().Draw(rt, "ordered"),
		}
		if rapid.Bool().Draw(rt, "filter") {
			config.Query = &api.Query{Items: []api.QueryItem{{StreamPrefixes: []string{"a", "b"}}}}
		}
		w.subscribe(config)
		m := &deliveryModel{world: w, config: config, flying: map[uint64]time.Time{}, done: map[uint64]bool{}, stream: map[uint64]string{}}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			m.step(rt)
			m.check(rt)
		}
		for range 200 { // drain
			m.fetch(rt, 10)
			for position := range m.flying {
				m.ack(position)
			}
			m.pass(time.Second)
		}
		m.pass(lazyAfter)
		m.check(rt)
		for position, stream := range m.stream {
			if m.selected(stream) && !m.done[position] && !m.parked[position] {
				rt.Fatalf("event %d was never done", position)
			}
		}
		if floor := w.state().Floor; floor != uint64(w.events) {
			rt.Fatalf("at the end the floor is %d of %d", floor, w.events)
		}
	})
}

// deliveryModel is what the consumers know.
type deliveryModel struct {
	*world
	config api.SubscriptionConfig
	stream map[uint64]string
	flying map[uint64]time.Time // until when; of this leader
	done   map[uint64]bool      // acknowledged
	parked map[uint64]bool
	floor  uint64
}

func (m *deliveryModel) selected(stream string) bool {
	return m.config.Query == nil || m.config.Query.Matches("T", nil, stream)
}

func (m *deliveryModel) step(t *rapid.T) {
	switch rapid.SampledFrom([]string{"append", "append", "fetch", "fetch", "ack", "ack", "nack", "pass", "fail", "replay", "late"}).Draw(t, "step") {
	case "append":
		stream := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "stream")
		m.append(stream)
		m.stream[uint64(m.events)] = stream
	case "fetch":
		m.fetch(t, rapid.IntRange(1, 5).Draw(t, "limit"))
	case "ack":
		if position := m.draw(t); position > 0 {
			m.ack(position)
		}
	case "nack":
		if position := m.draw(t); position > 0 {
			m.nack(api.SubscriptionNackRequest{Positions: []uint64{position}, DelayMS: rapid.SampledFrom([]int{0, 300}).Draw(t, "delay"), Park: rapid.Bool().Draw(t, "park")})
			delete(m.flying, position)
		}
	case "late": // of any event that was ever there: an earlier leader may have delivered it
		if m.events > 0 {
			m.ack(rapid.Uint64Range(1, uint64(m.events)).Draw(t, "position"))
		}
	case "pass":
		m.pass(time.Duration(rapid.SampledFrom([]int{100, 500, 1000, 5000}).Draw(t, "ms")) * time.Millisecond)
	case "fail":
		m.fail()
		clear(m.flying)
	case "replay":
		m.replay()
		m.turn()
	}
}

// draw chooses one of the events in flight.
func (m *deliveryModel) draw(t *rapid.T) uint64 {
	var list []uint64
	for position := range m.flying {
		list = append(list, position)
	}
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return rapid.SampledFrom(list).Draw(t, "position")
}

func (m *deliveryModel) ack(position uint64) {
	n := m.world.ack(position)
	if n < 0 {
		m.t.Fatalf("the ack of %d was not answered", position)
	}
	if _, flies := m.flying[position]; flies && n != 1 {
		m.t.Fatalf("the ack of %d, which is in flight, did nothing", position)
	}
	if n == 1 {
		if m.done[position] {
			m.t.Fatalf("event %d was acknowledged twice", position)
		}
		m.done[position] = true
	}
	delete(m.flying, position)
}

func (m *deliveryModel) pass(d time.Duration) {
	m.world.pass(d)
	for position, until := range m.flying {
		if !until.After(m.now) {
			delete(m.flying, position)
		}
	}
}

func (m *deliveryModel) fetch(t *rapid.T, limit int) {
	m.look()
	m.d.fetch(&fetch{limit: limit, until: m.now, done: func(events []api.DeliveredEvent, _ uint64, err *api.Error) {
		if err != nil || len(events) > limit {
			t.Fatalf("a fetch of %d: %d events, %v", limit, len(events), err)
		}
		for _, e := range events {
			_, flies := m.flying[e.Position]
			switch {
			case m.done[e.Position]:
				t.Fatalf("event %d is delivered again: it was acknowledged", e.Position)
			case m.parked[e.Position]:
				t.Fatalf("event %d is delivered again: it is parked", e.Position)
			case flies:
				t.Fatalf("event %d is in flight twice", e.Position)
			case !m.selected(e.Stream):
				t.Fatalf("event %d is not selected", e.Position)
			case m.config.MaxAttempts > 0 && e.Attempt > m.config.MaxAttempts:
				t.Fatalf("event %d is delivered for the %dth time", e.Position, e.Attempt)
			}
			if m.config.Ordered {
				m.inOrder(t, e.Position)
			}
			m.flying[e.Position] = m.now.Add(time.Second)
			if len(m.flying) > m.config.MaxInFlight {
				t.Fatalf("%d are in flight", len(m.flying))
			}
		}
	}})
	m.turn()
}

// inOrder wants everything before the event in its stream to be done or parked, and nothing of it to be in flight.
func (m *deliveryModel) inOrder(t *rapid.T, position uint64) {
	for other, stream := range m.stream {
		if stream != m.stream[position] {
			continue
		}
		if _, flies := m.flying[other]; flies || other < position && !m.done[other] && !m.parked[other] {
			t.Fatalf("event %d is delivered while event %d of the same stream is not done", position, other)
		}
	}
}

// look takes over what was parked.
func (m *deliveryModel) look() {
	list, _, _, err := m.machine.Parked("sub", 0, 1000)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	m.parked = map[uint64]bool{}
	for _, p := range list {
		m.parked[p.Position] = true
	}
}

// check holds the replicated state against what the consumers know.
func (m *deliveryModel) check(t *rapid.T) {
	m.look()
	s := m.state()
	if s.Floor < m.floor {
		t.Fatalf("the floor went back from %d to %d", m.floor, s.Floor)
	}
	m.floor = s.Floor
	for position := uint64(1); position <= s.Floor; position++ {
		if m.selected(m.stream[position]) && !m.done[position] && !m.parked[position] && !slices.Contains(s.Again, position) {
			t.Fatalf("the floor is %d and event %d is not done", s.Floor, position)
		}
	}
	acked := uint64(len(m.done))
	if s.Acked != acked {
		t.Fatalf("%d events were acknowledged, the state says %d", acked, s.Acked)
	}
	if int(s.Parked) != len(m.parked) {
		t.Fatalf("%d are parked, the state says %d", len(m.parked), s.Parked)
	}
	if m.d.flying != len(m.flying) {
		t.Fatalf("%d are in flight, the delivery says %d", len(m.flying), m.d.flying)
	}
}
