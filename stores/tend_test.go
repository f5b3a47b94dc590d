package stores

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
)

// TestTend: events that are too old are gone for readers at once, then for good by the leader's expiry, and then their space is given back; what is not too old stays.
func TestTend(t *testing.T) {
	var clock atomic.Int64
	clock.Store(1_800_000_000)
	_, s := openLone(t, Config{Now: func() time.Time { return time.Unix(clock.Load(), 0) }})
	set := func(stream string, r api.StreamMetadataRequest) {
		t.Helper()
		setMetadata(t, s, stream, r)
	}
	set("a", api.StreamMetadataRequest{MaxAge: 60})
	for i := range 40 { // so many streams that their expiries take several rounds
		set(fmt.Sprint("b", i), api.StreamMetadataRequest{MaxAge: 60})
		if _, err := s.Append(&Append{Stream: fmt.Sprint("b", i), Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T"}}}); err != nil {
			t.Fatal(err)
		}
	}
	big := api.NewEvent{Type: "Big", DataBase64: []byte(strings.Repeat("x", 4000))}
	add := func(n int) {
		t.Helper()
		a := &Append{Stream: "a", Expected: api.ExpectAny}
		for range n {
			a.Events = append(a.Events, big)
		}
		if _, err := s.Append(a); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		add(500)
	}
	clock.Add(50)
	add(3)
	info := func() *api.StoreInfoResponse {
		t.Helper()
		i, err := s.Info(t.Context(), api.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	count := func() int {
		t.Helper()
		r, err := s.ReadStream(t.Context(), "a", api.ReadStreamRequest{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Events)
	}
	s.tend(nil)
	if events, bytes := s.Scavenged(); events != 0 || bytes != 0 || count() != 10 {
		t.Fatalf("nothing is too old, and %d events were scavenged, %d bytes given back", events, bytes)
	}
	before := info().DiskBytes
	clock.Add(15)
	if n := count(); n != 3 {
		t.Fatalf("a reader sees %d events that are not too old, want 3", n)
	}
	s.tend(nil)
	state, err := s.StreamState(t.Context(), "a", api.StreamStateRequest{})
	if err != nil || state.FirstVersion != 2500 {
		t.Errorf("the first version is %+v, %v; want 2500", state, err)
	}
	events, bytes := s.Scavenged()
	if events != 2540 || bytes < 5<<20 || info().DiskBytes > before/2 {
		t.Errorf("%d events were scavenged, %d bytes given back; the disk holds %d of %d", events, bytes, info().DiskBytes, before)
	}
	set("a", api.StreamMetadataRequest{MaxAge: 1_000_000})
	if n := count(); n != 3 {
		t.Errorf("with a higher age there are %d events, want 3", n)
	}
	if r, err := s.ReadAll(t.Context(), api.ReadAllRequest{}); err != nil || len(r.Events) != 3 || r.Events[0].Position != 2541 {
		t.Errorf("the store has %d events, the first at %d, %v", len(r.Events), r.Events[0].Position, err)
	}
}

func setMetadata(t *testing.T, s *Store, stream string, r api.StreamMetadataRequest) {
	t.Helper()
	done := make(chan *api.Error, 1)
	if err := s.PutStreamMetadata(stream, r, func(_ any, err *api.Error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestLiveEventsAreThoseAppended: what an append itself makes gone, by a maximal count, is published all the same, each event once.
func TestLiveEventsAreThoseAppended(t *testing.T) {
	published := make(chan api.Event, 100)
	_, s := openLone(t, Config{OnCommitted: func(_ *Store, events []api.Event) {
		for _, e := range events {
			published <- e
		}
	}})
	setMetadata(t, s, "last", api.StreamMetadataRequest{MaxCount: 1})
	const n = 30
	for i := 0; i < n; i += 3 {
		if _, err := s.Append(&Append{Stream: "last", Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "A"}, {Type: "B"}, {Type: "C"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(n) {
		select {
		case e := <-published:
			if e.Version != i {
				t.Fatalf("version %d was published, want %d", e.Version, i)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d events were published", i, n)
		}
	}
	if r, err := s.ReadStream(t.Context(), "last", api.ReadStreamRequest{}); err != nil || len(r.Events) != 1 || r.Events[0].Version != n-1 {
		t.Errorf("%+v, %v; want only version %d", r, err, n-1)
	}
	if len(published) > 0 {
		t.Errorf("%d events too many were published", len(published))
	}
}
