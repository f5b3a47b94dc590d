package fsm

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

func TestChunkRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chunk{hash: rapid.Uint64().Draw(t, "hash")}
		at := uint64(0)
		for range rapid.IntRange(1, chunkPostings).Draw(t, "postings") {
			at += rapid.Uint64Range(1, rapid.SampledFrom([]uint64{1, 300, 1 << 50}).Draw(t, "far")).Draw(t, "step")
			c.positions = append(c.positions, at)
		}
		hash, positions, err := decodeChunk(c.key(), c.encode(), nil)
		if err != nil || hash != c.hash || !slices.Equal(positions, c.positions) {
			t.Fatalf("got %d of %x, %v; want %d of %x", positions, hash, err, c.positions, c.hash)
		}
	})
}

func TestPostingKeysSortAsPositions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) uint64 {
			return rapid.Uint64().Draw(t, name) >> rapid.IntRange(0, 63).Draw(t, "shift")
		}
		a, b := draw("a"), draw("b")
		if got, want := string(postingKey(7, a)) < string(postingKey(7, b)), a < b; got != want {
			t.Fatalf("the key of %d sorts before that of %d: %v", a, b, got)
		}
	})
}

func FuzzChunk(f *testing.F) {
	c := chunk{1, []uint64{3, 4, 900}}
	f.Add(c.key(), c.encode())
	f.Add([]byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		hash, positions, err := decodeChunk(key, value, nil)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("unexpected kind of error: %v", err)
			}
			return
		}
		again := chunk{hash, positions}
		if _, got, err := decodeChunk(again.key(), again.encode(), nil); err != nil || !slices.Equal(got, positions) || !slices.IsSorted(positions) {
			t.Errorf("%d became %d, %v", positions, got, err)
		}
	})
}

// TestUndoneBatchLeavesNoPosting: what a batch adds before it meets damage is gone from the index, and what was published before is there.
func TestUndoneBatchLeavesNoPosting(t *testing.T) {
	var fatal error
	cfg := testConfig(filepath.Join(t.TempDir(), "state.db"))
	cfg.OnFatal, cfg.OnDirty = func(err error) { fatal = err }, func() {}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tagged := func(stream, id string, tags ...string) Append {
		c := cmd(stream, -2, id)
		c.Events[0].Tags, c.Events[0].Type = tags, "type of "+id
		return c
	}
	mustApply(t, f, tagged("old", "flushed"))
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketEvents).Delete(u64(1)) }); err != nil {
		t.Fatal(err)
	}
	mustApply(t, f, tagged("a", "kept", "x", "y"))
	before := map[uint64][]uint64{}
	for hash, p := range f.active.terms.byHash {
		before[hash] = slices.Clone(p.positions)
	}
	types := slices.Clone(f.active.terms.types)
	applied, _ := f.Applied()
	f.Apply(entry(applied+1, tagged("a", "lost", "x", "z"), tagged("b", "lost too", "x"), tagged("old", "flushed")))
	if !errors.Is(fatal, ErrDamaged) {
		t.Fatalf("OnFatal: %v, want %v", fatal, ErrDamaged)
	}
	after := map[uint64][]uint64{}
	for hash, p := range f.active.terms.byHash {
		after[hash] = p.positions
	}
	if !maps.EqualFunc(before, after, slices.Equal[[]uint64]) || !slices.Equal(types, f.active.terms.types) {
		t.Errorf("postings %v of types %q, want %v of %q", after, f.active.terms.types, before, types)
	}
	for _, backward := range []bool{false, true} {
		page, err := f.ReadAll(AllQuery{FromEnd: true, Backward: backward, Limit: 9, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{{Tags: []string{"x"}}}}})
		if err != nil || len(page.Events) != 1 || page.Events[0].ID != "kept" {
			t.Errorf("backward %v: %+v, %v; want the one event", backward, page.Events, err)
		}
	}
}

// TestConditionCost: what a condition looks at depends on what lies behind after, not on how much there is before.
func TestConditionCost(t *testing.T) {
	type cost struct{ steps, chunks int }
	fill := func(events int) *FSM {
		f, err := Open(testConfig(filepath.Join(t.TempDir(), "state.db")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		for i := 0; i < events; {
			c := Append{Time: testTime, Stream: fmt.Sprint("s", i%100), Expected: api.ExpectAny}
			for range 500 {
				tags := []string{fmt.Sprint("course:", i%20), fmt.Sprint("student:", i%33)}
				c.Events, i = append(c.Events, EventRecord{ID: fmt.Sprint(i), Type: fmt.Sprint("T", i%3), Tags: tags}), i+1
			}
			mustApply(t, f, c)
		}
		return f
	}
	look := func(f *FSM, back uint64, items ...api.QueryItem) (c cost, position uint64) {
		w, types := &work{left: conditionWork}, maxTypes
		if err := f.view(func(v *view) (err error) {
			position, err = v.last(&api.Query{Items: items}, v.st.position-back, testTime, w, &types)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return cost{conditionWork - w.left, w.chunks}, position
	}
	none := api.QueryItem{Types: []string{"T0", "T1", "T2"}, Tags: []string{"course:1", "student:none"}}
	both := api.QueryItem{Tags: []string{"course:1", "student:2"}}
	small, large := fill(2_000), fill(100_000)
	for name, row := range map[string]struct {
		items []api.QueryItem
		back  uint64
		most  cost
	}{
		"nothing new":                {[]api.QueryItem{none}, 5, cost{5, 8}},
		"a tag that is nowhere":      {[]api.QueryItem{none}, math.MaxUint64, cost{3, 1}},
		"few new ones, no match":     {[]api.QueryItem{both}, 100, cost{20, 12}},
		"a type and a tag":           {[]api.QueryItem{{Types: []string{"T1"}, Tags: []string{"course:7"}}}, 50, cost{12, 8}},
		"a prefix that stands for 3": {[]api.QueryItem{{TypePrefixes: []string{"T"}, Tags: []string{"student:4"}}}, 60, cost{8, 8}},
	} {
		for size, f := range map[string]*FSM{"small": small, "large": large} {
			back := row.back
			if back == math.MaxUint64 {
				info, err := f.Info()
				if err != nil {
					t.Fatal(err)
				}
				back = info.LastPosition
			}
			got, _ := look(f, back, row.items...)
			if got.steps > row.most.steps || got.chunks > row.most.chunks {
				t.Errorf("%s, %s store: %+v, want at most %+v", name, size, got, row.most)
			}
		}
	}
	if _, position := look(large, 1000, both); position == 0 {
		t.Error("the condition that costs little finds nothing where there is something")
	}
}

// TestPrefixesOfManyTypes: a condition that asks for more types than it may is refused, the same at whatever flush; a read goes through the events instead.
func TestPrefixesOfManyTypes(t *testing.T) {
	f := openNew(t)
	c := Append{Time: testTime, Stream: "s", Expected: api.ExpectAny}
	for i := range maxTypes {
		c.Events = append(c.Events, EventRecord{ID: fmt.Sprint(i), Type: fmt.Sprint("many.", i)})
	}
	mustApply(t, f, c)
	q := &api.Query{Items: []api.QueryItem{{TypePrefixes: []string{"many."}, Tags: []string{"x"}}}}
	guarded := cmd("s", -2, "g1")
	guarded.Conditions = []api.Condition{{Query: q}}
	mustApply(t, f, guarded)
	mustApply(t, f, Append{Time: testTime, Stream: "s", Expected: api.ExpectAny, Events: []EventRecord{{ID: "more", Type: "many.more", Tags: []string{"x"}}}})
	guarded.Events = evs("g2")
	if r := apply(t, f, guarded)[0]; !refusedAs(r.Err, api.ErrBadRequest) {
		t.Errorf("got %+v, want bad_request", r)
	}
	for _, item := range []api.QueryItem{q.Items[0], {TypePrefixes: []string{"many.m"}}, {TypePrefixes: []string{"many."}, StreamPrefixes: []string{"s"}, Tags: []string{"x"}}} {
		page, err := f.ReadAll(AllQuery{Limit: 9, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{item}}})
		if err != nil || len(page.Events) != 1 || page.Events[0].ID != "more" {
			t.Errorf("%+v: %+v, %v; want the one event", item, page.Events, err)
		}
	}
	page, err := f.ReadAll(AllQuery{Limit: 1000, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{{TypePrefixes: []string{"many."}}}}})
	if err != nil || len(page.Events) != maxTypes+1 || !page.End {
		t.Errorf("%d events of more types than are looked for one by one, %v; want %d", len(page.Events), err, maxTypes+1)
	}
}

// TestTermsOfOneHash: terms whose hashes meet do not make one another's events match.
func TestTermsOfOneHash(t *testing.T) {
	o := newOverlay(state{})
	e := ev("a")
	o.terms.add(1, &e)
	o.terms.byHash[hashTerm(kindType, "other")] = o.terms.byHash[hashTerm(kindType, "t")]
	e.Type = "other"
	o.terms.add(2, &e)
	if got := slices.Sorted(slices.Values(o.terms.types)); !reflect.DeepEqual(got, []string{"other", "t"}) {
		t.Errorf("types %q: one hides the other", got)
	}
	rec := record{event: EventRecord{Type: "t", Tags: []string{"x"}}}
	s := search{item: &api.QueryItem{Tags: []string{"y"}}}
	if err := s.explain(1, &rec); !errors.Is(err, ErrDamaged) {
		t.Errorf("an event that the index lists under a tag that it does not have: %v, want %v", err, ErrDamaged)
	}
}
