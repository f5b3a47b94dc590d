package testcluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/quorate/quorate/api"
)

// A history that is right, and every way to spoil it that a bug in the cluster would.
func TestJudgeBites(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // for the pictures
	event := func(position, version uint64, stream, id string) api.Event {
		return api.Event{Position: position, Version: version, Stream: stream, ID: id, Type: "T"}
	}
	type world struct {
		history []Operation
		final   map[string][]api.Event
	}
	right := func() *world {
		events := func() []api.Event {
			return []api.Event{event(1, 0, "s", "a"), event(2, 0, "t", "b"), event(3, 1, "s", "c"), event(4, 2, "s", "u")}
		}
		return &world{
			history: []Operation{
				{Client: 1, Stream: "s", ID: "a", Call: 0, Return: 10, Version: 0, Position: 1},
				{Client: 2, Stream: "t", ID: "b", Call: 5, Return: 20, Version: 0, Position: 2},
				{Client: 1, Stream: "s", ID: "c", Call: 30, Return: 40, Version: 1, Position: 3},
				{Client: 2, Stream: "s", ID: "u", Call: 45, Return: Never, Outcome: Unknown},
				{Client: 2, Stream: "s", ID: "never", Call: 46, Return: Never, Outcome: Unknown},
				{Client: 1, Stream: "s", Kind: Read, ID: "c", Call: 50, Return: 60, Version: 1},
				{Client: 1, Stream: "s", ID: "no", Call: 61, Return: 62, Outcome: Refused, Version: notSaid, Refusal: "no_leader"},
				{Client: 1, Stream: "s", Kind: Read, ID: "u", Call: 65, Return: 70, Version: 2},
				{Client: 2, Stream: "s", ID: "late", Call: 71, Return: 72, Outcome: Refused, Version: 2, Refusal: "wrong_expected_version"},
				{Client: 3, Stream: "t", Kind: Read, ID: "", Call: 0, Return: 6, Version: -1},
			},
			final: map[string][]api.Event{"n1": events(), "n2": events(), "n3": events()[:3]},
		}
	}
	if wrong := right(); len(Judge(wrong.history, wrong.final)) > 0 {
		t.Fatalf("the right history: %v", Judge(wrong.history, wrong.final))
	}
	everywhere := func(w *world, change func([]api.Event) []api.Event) {
		for name, events := range w.final {
			w.final[name] = change(events)
		}
	}
	for _, row := range []struct {
		name  string
		spoil func(*world)
		want  string
	}{
		{"an acknowledged event is lost", func(w *world) {
			w.history = append(w.history, Operation{Stream: "v", ID: "z", Call: 80, Return: 90, Version: 0, Position: 5})
		}, "is lost"},
		{"it is lost on one node", func(w *world) { w.final["n2"] = w.final["n2"][:2] }, "n2: event c in s is lost"},
		{"an event is doubled", func(w *world) {
			everywhere(w, func(es []api.Event) []api.Event { return append(es, event(uint64(len(es)+1), 1, "t", "b")) })
		}, "is there twice"},
		{"nobody tried it", func(w *world) {
			everywhere(w, func(es []api.Event) []api.Event { return append(es, event(uint64(len(es)+1), 1, "t", "x")) })
		}, "was never tried"},
		{"what was refused is there", func(w *world) {
			everywhere(w, func(es []api.Event) []api.Event { return append(es, event(uint64(len(es)+1), 1, "t", "no")) })
		}, "was refused"},
		{"a position is left out", func(w *world) {
			everywhere(w, func(es []api.Event) []api.Event { es[2].Position = 7; return es })
		}, "where 3 belongs"},
		{"a version is left out", func(w *world) {
			everywhere(w, func(es []api.Event) []api.Event { es[2].Version = 4; return es })
		}, "where 1 belongs"},
		{"it is elsewhere than was said", func(w *world) { w.history[0].Position = 2 }, "was acknowledged at version 0, position 2"},
		{"replicas differ", func(w *world) { w.final["n2"][1].Data = []byte(`{"other":1}`) }, "another node has"},
		{"positions against real time", func(w *world) {
			w.history[1].Call, w.history[1].Return, w.history[2].Call, w.history[2].Return = 35, 38, 11, 30
		}, "before event b began"},
		{"a stale read", func(w *world) {
			w.history[7].Version, w.history[7].ID, w.history[7].Call, w.history[7].Return = 1, "c", 100, 110
		}, "no order explains"},
		{"a read before the event was tried", func(w *world) { w.history[9].Version, w.history[9].ID, w.history[9].Return = 0, "b", 4 }, "no order explains"},
		{"a read saw what is not there", func(w *world) { w.history[5].ID = "q" }, `a read saw event "q"`},
		{"a refusal that lies", func(w *world) { w.history[8].Version = 9 }, "no order explains"},
	} {
		w := right()
		row.spoil(w)
		wrong := Judge(w.history, w.final)
		if !slices.ContainsFunc(wrong, func(err error) bool { return strings.Contains(err.Error(), row.want) }) {
			t.Errorf("%s: the judge says %v, wanted %q", row.name, fmt.Sprint(wrong), row.want)
		}
	}
}
