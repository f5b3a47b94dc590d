package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

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

// TestDuplicates: a command that is carried out twice, with the event id that belongs to it, is in the state once, and the state is the stream's at its version.
func TestDuplicates(t *testing.T) {
	ctx := ctxFor(t)
	command := func() api.NewEvent {
		e := client.Event("Added", 5)
		e.ID = "command-1"
		return e
	}
	other := client.Event("Added", 100)
	for _, row := range []struct {
		name string
		run  func(st *client.Store, kind *client.Aggregates[tally]) (*client.Aggregate[tally], error)
	}{
		{"delivered again", func(st *client.Store, kind *client.Aggregates[tally]) (*client.Aggregate[tally], error) {
			if _, err := st.Append(ctx, "a", []api.NewEvent{command(), other}, client.NoStream); err != nil {
				return nil, err
			}
			return kind.Update(ctx, "a", func(tally) ([]api.NewEvent, error) { return []api.NewEvent{command()}, nil })
		}},
		{"another worker was faster", func(st *client.Store, kind *client.Aggregates[tally]) (*client.Aggregate[tally], error) {
			if _, err := st.Append(ctx, "a", numbered(0, 1), client.NoStream); err != nil {
				return nil, err
			}
			slow, err := kind.Load(ctx, "a")
			if err != nil {
				return nil, err
			}
			if _, err := st.Append(ctx, "a", []api.NewEvent{command()}, 0); err != nil {
				return nil, err
			}
			_, err = kind.Save(ctx, slow, command())
			return slow, err
		}},
		{"and somebody else between", func(st *client.Store, kind *client.Aggregates[tally]) (*client.Aggregate[tally], error) {
			slow, err := kind.Load(ctx, "a")
			if err != nil {
				return nil, err
			}
			if _, err := st.Append(ctx, "a", []api.NewEvent{other, command()}, client.NoStream); err != nil {
				return nil, err
			}
			if _, err := st.Append(ctx, "a", []api.NewEvent{client.Event("Added", 1)}, 1); err != nil {
				return nil, err
			}
			_, err = kind.Save(ctx, slow, command())
			return slow, err
		}},
		{"the stream was deleted since", func(st *client.Store, kind *client.Aggregates[tally]) (*client.Aggregate[tally], error) {
			if _, err := st.Append(ctx, "a", []api.NewEvent{command()}, client.NoStream); err != nil {
				return nil, err
			}
			if _, err := st.DeleteStream(ctx, "a", api.DeleteStreamRequest{}); err != nil {
				return nil, err
			}
			return kind.Update(ctx, "a", func(tally) ([]api.NewEvent, error) { return []api.NewEvent{command()}, nil })
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			st := newStore(t, "duplicates")
			kind := tallies(st)
			kind.SnapshotEvery = 0
			got, err := row.run(st, kind)
			if err != nil {
				t.Fatal(err)
			}
			want, err := kind.Load(ctx, "a")
			if err != nil || got.Version != want.Version || got.State.Sum != want.State.Sum {
				t.Errorf("got version %d with the sum %d; the stream has version %d with the sum %d (%v)", got.Version, got.State.Sum, want.Version, want.State.Sum, err)
			}
		})
	}
}

// TestLoadIsOneState: what is cut off or deleted while an aggregate is loaded page by page is not mixed with what comes later.
func TestLoadIsOneState(t *testing.T) {
	big := func(n int) (events []api.NewEvent) { // one of them fills more than half a page
		for range n {
			events = append(events, client.Event("Counted", strings.Repeat("x", 600<<10)))
		}
		return events
	}
	for _, row := range []struct {
		name   string
		change func(ctx context.Context, st *client.Store) error // between the first page and the second
		want   int                                               // a thousand for each event that was there before, and one for each that came
	}{
		{"deleted and back", func(ctx context.Context, st *client.Store) error {
			_, err := st.DeleteStream(ctx, "a", api.DeleteStreamRequest{})
			if err == nil {
				_, err = st.Append(ctx, "a", numbered(0, 1), client.NoStream)
			}
			return err
		}, 1},
		{"deleted", func(ctx context.Context, st *client.Store) error {
			_, err := st.DeleteStream(ctx, "a", api.DeleteStreamRequest{})
			return err
		}, 0},
		{"cut off", func(ctx context.Context, st *client.Store) error {
			_, err := st.TruncateStream(ctx, "a", api.TruncateStreamRequest{Before: 3})
			return err
		}, 0},
		{"cut off where the page ended", func(ctx context.Context, st *client.Store) error {
			_, err := st.TruncateStream(ctx, "a", api.TruncateStreamRequest{Before: 1})
			return err
		}, 3000},
		{"of another store", func(ctx context.Context, st *client.Store) error { return recreate(ctx, st, numbered(0, 5)) }, 5},
		{"appended to", func(ctx context.Context, st *client.Store) error {
			_, err := st.Append(ctx, "a", numbered(0, 1), 2)
			return err
		}, 3001},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, st := ctxFor(t), newStore(t, "one-state")
			for _, e := range big(3) {
				if _, err := st.Append(ctx, "a", []api.NewEvent{e}, client.Any); err != nil {
					t.Fatal(err)
				}
			}
			slow := betweenPages(t, st, func() error { return row.change(ctx, st) })
			count := func(n int, e api.Event) (int, error) {
				if len(e.Data) > 100 {
					return n + 1000, nil
				}
				return n + 1, nil
			}
			got, err := (&client.Aggregates[int]{Store: slow, Evolve: count}).Load(ctx, "a")
			if err != nil {
				t.Fatal(err)
			}
			now, err := (&client.Aggregates[int]{Store: st, Evolve: count}).Load(ctx, "a")
			if err != nil || got.Version != now.Version || got.State != row.want {
				t.Errorf("loaded the state %d at version %d, want %d at %d (%v)", got.State, got.Version, row.want, now.Version, err)
			}
		})
	}
}

// TestLoadGivesUp: a stream that is cut again and again is an error, not a state of events that do not follow one another.
func TestLoadGivesUp(t *testing.T) {
	cl := answered(t, "cut-again", func(_ *nats.Conn, m *nats.Msg) []byte {
		var r api.ReadStreamRequest
		if err := api.Unmarshal(m.Data, &r); err != nil {
			t.Error(err)
		}
		last, e := int64(9), api.Event{Stream: "a", ID: "x", Type: "Counted"}
		if r.From != nil {
			e.Version = *r.From + 1 // the one that was asked for is gone
		}
		return reply(t, &api.ReadResponse{Reply: api.Reply{Type: api.TypeRead}, Incarnation: 1, Stream: "a", Events: []api.Event{e}, Next: e.Version + 1, LastVersion: &last})
	})
	kind := &client.Aggregates[int]{Store: cl.Store("s"), Evolve: func(n int, _ api.Event) (int, error) { return n + 1, nil }}
	if g, err := kind.Load(ctxFor(t), "a"); err == nil || !strings.Contains(err.Error(), "cut off or deleted") {
		t.Errorf("got %+v, %v", g, err)
	}
}

// TestSnapshotBehindACut: a snapshot that the events do not follow any more is not used, which is told; one that was kept before the cut is.
func TestSnapshotBehindACut(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "behind-a-cut")
	kind := tallies(st)
	var told error
	kind.SnapshotFailed = func(_ string, err error) { told = err }
	for i, row := range []struct {
		version uint64 // of the snapshot
		before  uint64 // what is cut
		sum     int
		told    bool
	}{{0, 1, 114, false}, {0, 2, 12, true}, {1, 2, 112, false}, {1, 4, 0, true}, {3, 4, 100, false}} {
		stream := fmt.Sprint("a", i)
		if _, err := st.Append(ctx, stream, []api.NewEvent{client.Event("Added", 1), client.Event("Added", 2), client.Event("Added", 4), client.Event("Added", 8)}, client.NoStream); err != nil {
			t.Fatal(err)
		}
		if _, err := st.PutSnapshot(ctx, stream, api.SnapshotPutRequest{Version: row.version, Type: kind.SnapshotType, Data: []byte(fmt.Sprintf(`{"sum":%d}`, 100))}); err != nil {
			t.Fatal(err)
		}
		if _, err := st.TruncateStream(ctx, stream, api.TruncateStreamRequest{Before: row.before}); err != nil {
			t.Fatal(err)
		}
		told = nil
		g, err := kind.Load(ctx, stream)
		if err != nil || g.State.Sum != row.sum || g.Version != 3 || (told != nil) != row.told {
			t.Errorf("a snapshot of version %d and events from %d: got %+v, %v; told %v", row.version, row.before, g, err, told)
		}
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

// TestDecideRecreated: what was read of a store is not taken for what another one of the name holds.
func TestDecideRecreated(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "decisions-anew")
	if _, err := st.Append(ctx, "a", numbered(0, 2), client.Any); err != nil {
		t.Fatal(err)
	}
	decided := 0
	_, _, err := client.Decide(ctx, st, client.Decision[int]{
		Query: client.Select(api.QueryItem{Types: []string{"Counted"}}), Stream: "b",
		Evolve: func(n int, e api.Event) (int, error) { return n + 1, nil },
		Decide: func(n int) ([]api.NewEvent, error) {
			if decided++; decided > 1 {
				t.Errorf("decided on %d events of two stores", n)
				return nil, nil
			}
			return numbered(0, 1), recreate(ctx, st, numbered(100, 5))
		},
	})
	if !errors.Is(err, client.ErrStoreRecreated) {
		t.Errorf("got %v", err)
	}
}
