package stores

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// TestTend: events that are too old are gone for readers at once, then for good by the leader's expiry, and then their space is given back; what is not too old stays.
func TestTend(t *testing.T) {
	var clock atomic.Int64
	clock.Store(1_800_000_000)
	s := oneStore(t, func() time.Time { return time.Unix(clock.Load(), 0) })
	set := func(stream string, r api.StreamMetadataRequest) {
		t.Helper()
		done := make(chan *api.Error, 1)
		if err := s.PutStreamMetadata(stream, r, func(_ any, err *api.Error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
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

// oneStore opens a store with one member, which leads.
func oneStore(t *testing.T, now func() time.Time) *Store {
	t.Helper()
	dir := t.TempDir()
	identity, err := raftnode.OpenIdentity(dir, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { identity.Close() })
	node, err := raftnode.Open(raftnode.Config{
		Identity: identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
		Resolve: func(string) (string, error) { return "", errors.New("there is no other member") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	m := NewManager(Config{Node: node, Dir: dir, Now: now, OnFatal: func(err error) { t.Error(err) }})
	t.Cleanup(func() { m.Close() })
	s, err := m.Open(Spec{Name: "orders", ID: 1, Incarnation: 1, Members: []string{identity.ServerID()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
		t.Fatal(err)
	}
	return s
}
