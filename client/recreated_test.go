package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// recreate drops the store and creates it again, with other events in the stream a.
func recreate(ctx context.Context, st *client.Store, events []api.NewEvent) error {
	nc, err := nats.Connect(serverURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	admin := client.New(nc)
	if _, err := admin.DeleteStore(ctx, st.Name(), api.ConfigDeleteRequest{}); err != nil {
		return err
	}
	if _, err := admin.CreateStore(ctx, st.Name(), api.ConfigPutRequest{}); err != nil {
		return err
	}
	_, err = st.Append(ctx, "a", events, client.NoStream)
	return err
}

// TestRecreated: reading that goes on over pages does not go on in the middle of another store of the same name.
func TestRecreated(t *testing.T) {
	for _, row := range []struct {
		name string
		read func(ctx context.Context, st *client.Store) func(func(api.Event, error) bool)
	}{
		{"all", func(ctx context.Context, st *client.Store) func(func(api.Event, error) bool) {
			return st.ReadAll(ctx, client.ReadOptions{PageSize: 2})
		}},
		{"all, follow", func(ctx context.Context, st *client.Store) func(func(api.Event, error) bool) {
			return st.ReadAll(ctx, client.ReadOptions{Follow: true})
		}},
		{"stream, follow", func(ctx context.Context, st *client.Store) func(func(api.Event, error) bool) {
			return st.ReadStream(ctx, "a", client.ReadOptions{Follow: true})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, st := ctxFor(t), newStore(t, "recreated")
			if _, err := st.Append(ctx, "a", numbered(0, 5), client.Any); err != nil {
				t.Fatal(err)
			}
			slow := betweenPages(t, st, func() error { return recreate(ctx, st, numbered(100, 9)) })
			for e, err := range row.read(ctx, slow) {
				if n, _ := client.Data[int](e); err == nil && n < 100 {
					continue
				}
				if !errors.Is(err, client.ErrStoreRecreated) {
					t.Errorf("got %+v, %v", e, err)
				}
				break
			}
		})
	}
}

// TestRecreatedShorter: a store that was created again may never get to the position that the first page knew of. That is told too, and not waited for.
func TestRecreatedShorter(t *testing.T) {
	for _, follow := range []bool{false, true} {
		cl := answered(t, fmt.Sprintf("shorter-%t", follow), func(_ *nats.Conn, m *nats.Msg) []byte {
			var r api.ReadAllRequest
			if err := api.Unmarshal(m.Data, &r); err != nil {
				t.Error(err)
			}
			first := &api.ReadResponse{
				Reply: api.Reply{Type: api.TypeRead}, Incarnation: 1, Events: []api.Event{{Position: 1, Stream: "a", ID: "x", Type: "Counted"}}, Next: 1, LastPosition: 5,
			}
			switch {
			case *r.After == 0:
				return reply(t, first)
			case r.MinPosition > 0:
				if follow {
					t.Errorf("a follower asks for a position: %s", m.Data)
				}
				return refusal(t, api.ErrPositionAhead)
			}
			return reply(t, &api.ReadResponse{Reply: api.Reply{Type: api.TypeRead}, Incarnation: 2, Events: []api.Event{}, Next: 1, End: true})
		})
		var err error
		for _, err = range cl.Store("s").ReadAll(ctxFor(t), client.ReadOptions{Follow: follow}) {
		}
		if !errors.Is(err, client.ErrStoreRecreated) {
			t.Errorf("follow %t: %v", follow, err)
		}
	}
}

// TestNodeOfAnOlderStore: a node that came back answers for a while from the store that was dropped. It is asked again, and its events are not taken.
func TestNodeOfAnOlderStore(t *testing.T) {
	var behind atomic.Int64
	cl := answered(t, "older-store", func(_ *nats.Conn, m *nats.Msg) []byte {
		var r api.ReadAllRequest
		if err := api.Unmarshal(m.Data, &r); err != nil {
			t.Error(err)
		}
		page := &api.ReadResponse{
			Reply: api.Reply{Type: api.TypeRead}, Incarnation: 2, Events: []api.Event{{Position: *r.After + 1, Stream: "new", ID: "x", Type: "Counted"}},
			Next: *r.After + 1, End: *r.After == 1, LastPosition: 2,
		}
		if *r.After == 1 && behind.Add(1) < 3 {
			page.Incarnation, page.Events[0].Stream = 1, "old"
		}
		return reply(t, page)
	})
	got := ""
	for e, err := range cl.Store("s").ReadAll(ctxFor(t), client.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprint(e.Stream, e.Position, " ")
	}
	if got != "new1 new2 " {
		t.Errorf("read %s", got)
	}
}

// TestNodeBehind: a page that a node has not got far enough for is asked of the leader, and the end is not told before all is there that the first page knew of.
func TestNodeBehind(t *testing.T) {
	cl := answered(t, "behind", func(_ *nats.Conn, m *nats.Msg) []byte {
		var r api.ReadAllRequest
		if err := api.Unmarshal(m.Data, &r); err != nil {
			t.Error(err)
		}
		if r.Consistency == api.Local && r.MinPosition == 3 {
			return refusal(t, api.ErrPositionAhead)
		}
		if r.Consistency == api.Local {
			t.Errorf("a page behind the first was asked of the node without what it needs: %s", m.Data)
		}
		e := api.Event{Position: *r.After + 1, Stream: "a", ID: "x", Type: "Counted"}
		return reply(t, &api.ReadResponse{Reply: api.Reply{Type: api.TypeRead}, Incarnation: 1, Events: []api.Event{e}, Next: e.Position, End: e.Position == 3, LastPosition: 3})
	})
	var got []uint64
	for e, err := range cl.Store("s").ReadAll(ctxFor(t), client.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Position)
	}
	if fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("got %v", got)
	}
}
