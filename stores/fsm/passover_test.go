package fsm

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// TestReadsPassOverWhatIsGone: pages end early, also without events, and always get on.
func TestReadsPassOverWhatIsGone(t *testing.T) {
	f := openNew(t)
	const n = 3*passOver + 10
	for i := 0; i < n; i += 10_000 {
		c := Append{Time: testTime, Stream: "a", Expected: api.ExpectAny}
		for j := i; j < min(i+10_000, n); j++ {
			c.Events = append(c.Events, EventRecord{ID: fmt.Sprint(j), Type: "t"})
		}
		mustApply(t, f, c)
	}
	last := Append{Time: later(100), Stream: "a", Expected: api.ExpectAny, Events: evs("last")}
	mustApply(t, f, last)
	changeStream(t, f, &StreamChange{Op: StreamMetadata, Stream: "a", Expected: api.ExpectAny, MaxAge: 10})
	for _, cut := range []bool{false, true} {
		if cut {
			for rounds := 0; ; rounds++ {
				names, _, err := f.Expirable(later(50), 10)
				if err != nil {
					t.Fatal(err)
				}
				if len(names) == 0 {
					if rounds != (n+expireStep-1)/expireStep {
						t.Errorf("%d expiries", rounds)
					}
					break
				}
				changeStream(t, f, &StreamChange{Op: StreamExpire, Stream: names[0], Expected: api.ExpectAny, Time: later(50)})
			}
			if events, _ := scavenge(t, f); events != n {
				t.Errorf("%d records were scavenged, want %d", events, n)
			}
		}
		for _, backward := range []bool{false, true} {
			pages, got := 0, 0
			for q := (AllQuery{Limit: 10, MaxBytes: noLimit, Backward: backward, FromEnd: backward, Now: later(50)}); ; pages++ {
				page, err := f.ReadAll(q)
				if err != nil || !page.End && page.Next == q.After && !q.FromEnd {
					t.Fatalf("after %d: %+v, %v", q.After, page, err)
				}
				if got += len(page.Events); page.End {
					break
				}
				q.After, q.FromEnd = page.Next, false
			}
			if got != 1 || pages < 3 {
				t.Errorf("cut %v, backward %v: all: %d events in %d pages", cut, backward, got, pages)
			}
			pages, got = 0, 0
			for q := (StreamQuery{Limit: 10, MaxBytes: noLimit, Backward: backward, FromEnd: backward, Now: later(50)}); ; pages++ {
				page, err := f.ReadStream("a", q)
				if err != nil || !page.End && page.Next == q.From && !q.FromEnd {
					t.Fatalf("from %d: %+v, %v", q.From, page, err)
				}
				if got += len(page.Events); page.End {
					break
				}
				q.From, q.FromEnd = page.Next, false
			}
			if got != 1 || !cut && pages < 3 || cut && pages > 0 {
				t.Errorf("cut %v, backward %v: stream: %d events in %d pages", cut, backward, got, pages)
			}
		}
	}
}

// TestTendingLetsMachinesRest: a machine with nothing to scavenge, to give back or to expire is not touched, so it may rest; what is cut later is found.
func TestTendingLetsMachinesRest(t *testing.T) {
	f := openNew(t)
	mustApply(t, f, bigEvents("a", 0, 100, 4000), bigEvents("old", 0, 1, 10))
	truncate(t, f, "a", 90)
	changeStream(t, f, &StreamChange{Op: StreamMetadata, Stream: "old", Expected: api.ExpectAny, MaxAge: 100})
	tend := func(now uint64) (events int, old []string) {
		t.Helper()
		events, _ = scavenge(t, f)
		old, _, err := f.Expirable(later(now), 10)
		if err != nil {
			t.Fatal(err)
		}
		return events, old
	}
	if events, old := tend(0); events != 90 || len(old) != 0 {
		t.Fatalf("%d records were scavenged, %q are too old", events, old)
	}
	if _, err := f.Rest(); err != nil {
		t.Fatal(err)
	}
	uses := f.Uses()
	for now := range uint64(100) {
		if events, old := tend(now); events != 0 || len(old) != 0 {
			t.Fatalf("%d records were scavenged, %q are too old", events, old)
		}
	}
	if !f.Resting() || f.Uses() != uses {
		t.Errorf("it was used %d times", f.Uses()-uses)
	}
	if _, old := tend(101); len(old) != 1 || old[0] != "old" {
		t.Errorf("%q are too old, want old", old)
	}
	changeStream(t, f, &StreamChange{Op: StreamExpire, Stream: "old", Expected: api.ExpectAny, Time: later(101)})
	truncate(t, f, "a", 95)
	if events, _ := tend(101); events != 6 {
		t.Errorf("%d records were scavenged, want 6", events)
	}
}

// TestStreamsPassesOverDeletedOnes: listing gets on, also where all are deleted.
func TestStreamsPassesOverDeletedOnes(t *testing.T) {
	f := openNew(t)
	const n = 2*passStreams + 10
	applied := uint64(0)
	for i := 0; i < n; i += 100 {
		var bodies []Body
		for j := i; j < min(i+100, n); j++ {
			c := cmd(fmt.Sprintf("s%06d", j), -1, fmt.Sprint("id", j))
			bodies = append(bodies, c.Body())
			if j < n-2 {
				bodies = append(bodies, ChangeBody(&StreamChange{Op: StreamDelete, Stream: c.Stream, Expected: 0}))
			}
		}
		applied++
		f.Apply(&raft.Log{Index: applied, Term: 1, Type: raft.LogCommand, Data: EncodeBodies(bodies)})
	}
	after, pages, found := "", 0, 0
	for end := false; !end; pages++ {
		page, next, last, err := f.Streams("s", after, 10)
		if err != nil || !last && next <= after {
			t.Fatalf("after %s: next %s, %v", after, next, err)
		}
		found, after, end = found+len(page), next, last
	}
	if found != 2 || pages != 3 {
		t.Errorf("%d streams in %d pages, want 2 in 3", found, pages)
	}
}
