package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

var modelTypes = []string{"t", "order.placed", "order.paid", "order", "cart", "t"}

// matches is the filter language, said again.
func matches(q *api.Query, e *api.Event) bool {
	for _, it := range q.Items {
		typed := len(it.Types)+len(it.TypePrefixes) == 0
		for _, typ := range it.Types {
			typed = typed || typ == e.Type
		}
		for _, p := range it.TypePrefixes {
			typed = typed || len(e.Type) >= len(p) && e.Type[:len(p)] == p
		}
		tagged := true
		for _, tag := range it.Tags {
			tagged = tagged && slices.Contains(e.Tags, tag)
		}
		placed := len(it.StreamPrefixes) == 0
		for _, p := range it.StreamPrefixes {
			placed = placed || strings.Index(e.Stream, p) == 0
		}
		if typed && tagged && placed {
			return true
		}
	}
	return false
}

// store adds event i of the append.
func (m *model) store(c Append, i int) {
	e, stream := c.Events[i], c.Stream
	if c.Of != nil && c.Of[i] > 0 {
		stream = c.Others[c.Of[i]-1]
	}
	stored := api.Event{
		Position: uint64(len(m.events)) + 1, Stream: stream, Version: uint64(len(m.stream(stream))), ID: e.ID, Type: e.Type,
		Time: time.UnixMicro(c.Time).UTC(), Metadata: e.Metadata, Tags: e.Tags,
	}
	if e.JSON {
		stored.Data = e.Data
	} else {
		stored.DataBase64 = e.Data
	}
	m.events = append(m.events, stored)
}

// failed returns the conditions that do not hold.
func (m *model) failed(conditions []api.Condition, now int64) (failed []api.FailedCondition) {
	for i, c := range conditions {
		if c.Query == nil {
			last := m.last(c.Stream)
			if !m.meets(c.Stream, *c.Version) {
				failed = append(failed, api.FailedCondition{Index: i, Stream: c.Stream, ExpectedVersion: c.Version, ActualVersion: &last})
			}
			continue
		}
		at := uint64(0)
		for j := range m.events {
			if e := &m.events[j]; e.Position > c.After && matches(c.Query, e) && m.shows(e, now) {
				at = e.Position
			}
		}
		if at > 0 {
			failed = append(failed, api.FailedCondition{Index: i, Position: at, After: &c.After})
		}
	}
	return failed
}

// appendSeveral is append over several streams; known are those of its events that are there.
func (m *model) appendSeveral(c Append, known []*api.Event) (want AppendResult, refused *api.Error, loose bool) {
	name := func(i int) string { return append([]string{c.Stream}, c.Others...)[c.Of[i]] }
	if len(known) > 0 && len(known) < len(c.Events) {
		return want, api.ErrEventIDConflict, false
	}
	for i, old := range known {
		e := c.Events[i]
		if old.Stream != name(i) || old.Type != e.Type || string(old.Body()) != string(e.Data) || e.JSON != (old.Data != nil) || old.Position != known[0].Position+uint64(i) {
			return want, api.ErrEventIDConflict, false
		}
	}
	first := uint64(len(m.events)) + 1
	if len(known) > 0 {
		want.Duplicate, first = true, known[0].Position
	} else {
		for i := range c.Events {
			if m.streams[name(i)].tombstoned {
				return want, api.ErrStreamDeleted, false
			}
		}
		if failed := m.failed(c.Conditions, c.Time); failed != nil {
			e := *api.ErrCondition
			e.Failed = failed
			return want, &e, false
		}
		for i := range c.Events {
			m.store(c, i)
		}
		for i := range c.Events {
			m.wrote(name(i))
		}
	}
	want.FirstPosition, want.Position = first, first+uint64(len(c.Events))-1
	for _, stream := range append([]string{c.Stream}, c.Others...) {
		r := api.StreamResult{Stream: stream}
		for _, e := range m.events[first-1 : want.Position] {
			if e.Stream != stream {
				continue
			}
			if r.FirstPosition == 0 {
				r.FirstPosition, r.FirstVersion = e.Position, e.Version
			}
			r.Position, r.Version = e.Position, e.Version
		}
		want.Streams = append(want.Streams, r)
	}
	return want, nil, false
}

func drawQuery(t *rapid.T, condition bool) *api.Query {
	q := &api.Query{}
	for range rapid.IntRange(1, 3).Draw(t, "items") {
		var it api.QueryItem
		some := func(name string, of ...string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 2, rapid.ID[string]).Draw(t, name)
		}
		it.Types, it.Tags = some("types", append(modelTypes, "none")...), some("tags", "x", "y", "n:0", "n:3", "none")
		if rapid.Bool().Draw(t, "prefixes") {
			it.TypePrefixes, it.StreamPrefixes = some("type prefixes", "order", "order.", "c", "z"), some("stream prefixes", "a", "a.", "b", "z")
		}
		if len(it.Types)+len(it.TypePrefixes)+len(it.Tags) == 0 && (condition || len(it.StreamPrefixes) == 0) {
			it.Tags = []string{"x"}
		}
		for _, texts := range []*[]string{&it.Types, &it.TypePrefixes, &it.Tags, &it.StreamPrefixes} {
			if len(*texts) == 0 {
				*texts = nil // as a decoder gives it
			}
		}
		q.Items = append(q.Items, it)
	}
	return q
}

// drawConditions makes of some appends ones over several streams, or with conditions that mostly nearly hold.
func (m *machine) drawConditions(t *rapid.T, c Append) Append {
	if rapid.IntRange(0, 2).Draw(t, "several") == 0 && len(c.Events) > 1 {
		c.Of = make([]int, len(c.Events))
		streams := []string{c.Stream}
		for i := range c.Events[1:] {
			name := rapid.SampledFrom(modelStreams).Draw(t, "event's stream")
			at := slices.Index(streams, name)
			if at < 0 {
				at, streams = len(streams), append(streams, name)
			}
			c.Of[i+1] = at
		}
		c.Expected = api.ExpectAny
		if c.Others = streams[1:]; len(c.Others) == 0 {
			c.Others, c.Of = nil, nil
		}
	}
	for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "conditions") {
		cond := api.Condition{}
		if rapid.Bool().Draw(t, "on a stream") {
			cond.Stream = rapid.SampledFrom(append(modelStreams, "none")).Draw(t, "condition's stream")
			version := int64(len(m.model.stream(cond.Stream))) - 1
			if rapid.IntRange(0, 3).Draw(t, "other version") == 0 {
				version = rapid.SampledFrom([]int64{-1, -4, 0, 3}).Draw(t, "version")
			}
			cond.Version = &version
		} else {
			n := len(m.model.events)
			cond.Query, cond.After = drawQuery(t, true), uint64(max(0, n-rapid.IntRange(0, n+2).Draw(t, "look back")))
		}
		c.Conditions = append(c.Conditions, cond)
	}
	return c
}

// Query compares all pages of a query, forward or backward.
func (m *machine) Query(t *rapid.T) {
	n := uint64(len(m.model.events))
	q := AllQuery{
		After: uint64(rapid.IntRange(0, int(n)+3).Draw(t, "after")), Limit: rapid.IntRange(1, 9).Draw(t, "limit"),
		MaxBytes: rapid.SampledFrom([]int{1, 100, noLimit}).Draw(t, "bytes"), Backward: rapid.Bool().Draw(t, "backward"), Query: drawQuery(t, false), Now: drawNow(t),
	}
	var want []api.Event
	for _, e := range m.model.events {
		if matches(q.Query, &e) && m.model.shows(&e, q.Now) && (q.Backward && e.Position < q.After || !q.Backward && e.Position > q.After) {
			want = append(want, e)
		}
	}
	if q.Backward {
		slices.Reverse(want)
	}
	var got []api.Event
	for {
		page := m.readAll(t, q)
		if len(page.Events) > q.Limit || !page.End && page.Next == q.After {
			t.Fatalf("a page of %d events with limit %d, end %v, from %d to %d", len(page.Events), q.Limit, page.End, q.After, page.Next)
		}
		got = append(got, page.Events...)
		for _, e := range want[:len(got)] { // what is given was looked at
			if q.Backward && e.Position < page.Next || !q.Backward && e.Position > page.Next {
				t.Fatalf("event %d was given, and it was looked as far as %d", e.Position, page.Next)
			}
		}
		if page.End {
			if !q.Backward && page.Next != max(q.After, n) {
				t.Fatalf("next position %d, want %d", page.Next, n)
			}
			break
		}
		q.After = page.Next
	}
	compareEvents(t, got, want)
}

// TestQueryPagesEndWhenWorkIsDone: a query that matches nearly nothing gives pages without events that get on, and finds what there is.
func TestQueryPagesEndWhenWorkIsDone(t *testing.T) {
	f := openNew(t)
	const n = 60_000
	for i := 0; i < n; {
		c := Append{Time: testTime, Stream: fmt.Sprint("s", i%7), Expected: api.ExpectAny}
		for range 5000 {
			e := EventRecord{ID: fmt.Sprint(i), Type: "t", Tags: []string{fmt.Sprint("half:", i%2), fmt.Sprint("other:", (i+1)%2)}}
			if i == 500 || i == n-500 {
				e.Tags = []string{"half:0", "other:0"}
			}
			c.Events, i = append(c.Events, e), i+1
		}
		mustApply(t, f, c)
	}
	for name, it := range map[string]api.QueryItem{
		"tags that never meet": {Tags: []string{"half:0", "other:0"}},
		"stream prefix":        {Tags: []string{"half:0", "other:0"}, StreamPrefixes: []string{"s"}},
		"of everything":        {TypePrefixes: []string{"t"}, Tags: []string{"half:0", "other:0"}, StreamPrefixes: []string{"s"}},
	} {
		for _, backward := range []bool{false, true} {
			q := AllQuery{Limit: 100, MaxBytes: noLimit, Backward: backward, FromEnd: backward, Query: &api.Query{Items: []api.QueryItem{it, {Types: []string{"none"}}}}}
			var got []uint64
			pages := 0
			for {
				page, err := f.ReadAll(q)
				if err != nil {
					t.Fatal(err)
				}
				pages++
				for _, e := range page.Events {
					got = append(got, e.Position)
				}
				if page.End {
					break
				}
				if !backward && page.Next <= q.After || backward && page.Next >= q.After && !q.FromEnd {
					t.Fatalf("%s: the page after %d ends at %d", name, q.After, page.Next)
				}
				q.After, q.FromEnd = page.Next, false
			}
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint([]uint64{501, n - 499}) || pages < 3 {
				t.Errorf("%s, backward %v: found %d in %d pages, want events 501 and %d in several", name, backward, got, pages, n-499)
			}
		}
	}
	broad := api.Condition{Query: &api.Query{Items: []api.QueryItem{{Tags: []string{"half:0", "other:0"}}}}, After: 600}
	broad.Query.Items[0].Tags = []string{"half:1", "other:1"}
	c := cmd("x", -2, "new")
	c.Conditions = []api.Condition{broad}
	if r := apply(t, f, c)[0]; !refusedAs(r.Err, api.ErrBadRequest) || !strings.Contains(r.Err.Description, "conditions[0]: too many events") {
		t.Errorf("a condition that would look at everything got %+v, want bad_request", r)
	}
	c.Conditions[0].After = n - 1000
	mustApply(t, f, c)
}
