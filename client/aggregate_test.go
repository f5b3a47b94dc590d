package client_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type tally struct {
	Sum  int      `json:"sum"`
	Seen []uint64 `json:"seen"`
	Last int64    `json:"last"` // time of the last event
}

func tallies(st *client.Store) *client.Aggregates[tally] {
	return &client.Aggregates[tally]{
		Store: st, SnapshotEvery: 4, SnapshotType: "tally/1",
		Evolve: func(s tally, e api.Event) (tally, error) {
			n, err := client.Data[int](e)
			s.Sum, s.Seen, s.Last = s.Sum+n, append(s.Seen[:len(s.Seen):len(s.Seen)], e.Version), e.Time.UnixNano()
			return s, err
		},
	}
}

// TestAggregates: a state is the same whether it was made of events alone, of a snapshot and events, or of what was saved.
func TestAggregates(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "aggregates")
	kind := tallies(st)
	g, err := kind.Load(ctx, "a")
	if err != nil || g.Version != client.NoStream {
		t.Fatalf("got %+v, %v", g, err)
	}
	sum := 0
	for i := range 10 {
		if _, err := kind.Save(ctx, g, client.Event("Added", i), client.Event("Added", 1)); err != nil {
			t.Fatal(err)
		}
		sum += i + 1
		fromEvents := *kind
		fromEvents.SnapshotEvery = 0
		for name, k := range map[string]*client.Aggregates[tally]{"with snapshots": kind, "of events": &fromEvents} {
			loaded, err := k.Load(ctx, "a")
			if err != nil || loaded.State.Sum != sum || loaded.Version != int64(2*i+1) || len(loaded.State.Seen) != 2*i+2 {
				t.Fatalf("%s: got %+v, %v; want the sum %d at version %d", name, loaded, err, sum, 2*i+1)
			}
		}
		if g.State.Sum != sum || g.Version != int64(2*i+1) {
			t.Fatalf("saved: got %+v", g)
		}
	}
	snaps, err := st.Snapshots(ctx, "a")
	if err != nil || len(snaps) != 2 || snaps[0].Version != 19 || snaps[1].Version != 15 || snaps[0].Type != "tally/1" {
		t.Errorf("snapshots %+v, %v; want those of versions 19 and 15", snaps, err)
	}
	// A snapshot holds what the cluster says of its events.
	var last api.Event
	for e, err := range st.ReadStream(ctx, "a", client.ReadOptions{Backward: true, FromEnd: true, Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		last = e
	}
	snap, err := st.Snapshot(ctx, "a")
	if err != nil || string(snap.Data) != fmt.Sprintf(`{"sum":%d,"seen":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19],"last":%d}`, sum, last.Time.UnixNano()) {
		t.Errorf("got %s, %v", snap.Data, err)
	}

	// Another format: the snapshot is not used, and that is told.
	var told error
	next := tallies(st)
	next.SnapshotType, next.SnapshotFailed = "tally/2", func(_ string, err error) { told = err }
	if loaded, err := next.Load(ctx, "a"); err != nil || told == nil || loaded.State.Sum != sum || loaded.Version != 19 {
		t.Errorf("got %+v, %v; told %v", loaded, err, told)
	}
	// Who was elsewhere is refused, and keeps what it had.
	stale := &client.Aggregate[tally]{Stream: "a", Version: 3}
	if _, err := kind.Save(ctx, stale, client.Event("Added", 1)); !errors.Is(err, api.ErrWrongVersion) || stale.Version != 3 {
		t.Errorf("got %v, %+v", err, stale)
	}
	if _, err := kind.SaveIf(ctx, g, []api.Condition{client.StreamAt("gate", client.Exists)}, client.Event("Added", 1)); !errors.Is(err, api.ErrCondition) {
		t.Errorf("got %v", err)
	}
	// What cannot be evolved is an error that names the event.
	bad := tallies(st)
	if _, err := st.Append(ctx, "b", []api.NewEvent{{Type: "Added", Data: []byte(`"x"`)}}, client.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := bad.Load(ctx, "b"); err == nil {
		t.Error("an event that is no number was taken")
	}
	if n, err := st.DeleteSnapshots(ctx, "a", api.SnapshotDeleteRequest{}); n != 2 || err != nil {
		t.Errorf("%d snapshots deleted, %v", n, err)
	}
	if _, err := st.Snapshot(ctx, "a"); !errors.Is(err, api.ErrSnapshotNotFound) {
		t.Errorf("got %v", err)
	}
}

// TestUpdate: updates of one aggregate at the same time all take place, one after the other; a refusal writes nothing.
func TestUpdate(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "updates")
	kind := tallies(st)
	var wg sync.WaitGroup
	const writers, each = 6, 5
	for range writers {
		wg.Go(func() { // ends after its updates
			for range each {
				if _, err := kind.Update(ctx, "a", func(s tally) ([]api.NewEvent, error) { return []api.NewEvent{client.Event("Added", s.Sum+1)}, nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	refused := errors.New("no")
	g, err := kind.Update(ctx, "a", func(tally) ([]api.NewEvent, error) { return nil, refused })
	if err != refused || g.Version != writers*each-1 || g.State.Sum != 1<<(writers*each)-1 { // every event adds what was there, and one
		t.Errorf("got %+v, %v", g, err)
	}
	kind.Attempts = 2
	_, err = kind.Update(ctx, "a", func(tally) ([]api.NewEvent, error) {
		_, err := st.Append(ctx, "a", []api.NewEvent{client.Event("Added", 1)}, client.Any) // somebody is always faster
		return []api.NewEvent{client.Event("Added", 1)}, err
	})
	if !errors.Is(err, api.ErrWrongVersion) {
		t.Errorf("got %v", err)
	}
}

// TestDecide: what was read before is not read again, what came meanwhile is; it is tried so often and no more.
func TestDecide(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "decisions")
	seen, decided := 0, 0
	d := client.Decision[int]{
		Query: client.Select(api.QueryItem{Types: []string{"Added"}}), Stream: "a",
		Evolve: func(n int, e api.Event) (int, error) { seen++; return n + 1, nil },
		Decide: func(n int) ([]api.NewEvent, error) {
			if decided++; decided < 3 { // somebody is faster twice
				if _, err := st.Append(ctx, "b", []api.NewEvent{client.Event("Added", 1)}, client.Any); err != nil {
					return nil, err
				}
			}
			return []api.NewEvent{client.Event("Added", n), {Type: "Told", Stream: "log"}}, nil
		},
	}
	if _, err := st.Append(ctx, "b", numbered(0, 3), client.Any); err != nil { // what the query does not select is no matter
		t.Fatal(err)
	}
	n, res, err := client.Decide(ctx, st, d)
	if err != nil || n != 2 || seen != 2 || decided != 3 || len(res.Results) != 2 || res.Results[0].Stream != "a" || res.Results[1].Stream != "log" {
		t.Errorf("got %d, %+v, %v; %d seen, %d decided", n, res, err, seen, decided)
	}
	seen, decided, d.Attempts = 0, 0, 2
	if _, _, err = client.Decide(ctx, st, d); !errors.Is(err, api.ErrCondition) || decided != 2 {
		t.Errorf("got %v after %d decisions", err, decided)
	}
	d.Decide = func(int) ([]api.NewEvent, error) { return nil, nil }
	if n, res, err := client.Decide(ctx, st, d); res != nil || err != nil || n != 5 {
		t.Errorf("got %d, %+v, %v", n, res, err)
	}
}
