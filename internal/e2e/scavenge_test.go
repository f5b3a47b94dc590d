package e2e

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestScavenging: the space of events that are gone comes back on every node while events are appended, also on one that was killed in the middle of it; all nodes answer the same,
// and ids of what is gone are remembered.
func TestScavenging(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	s := cl.Store("orders")
	ctx, cancel := context.WithTimeout(t.Context(), 2*testcluster.Patience)
	defer cancel()
	big := []byte(fmt.Sprintf("%q", strings.Repeat("x", 10_000)))
	event := func(id string) api.NewEvent {
		return api.NewEvent{ID: id, Type: "Big", Tags: []string{"big"}, Data: big}
	}
	for i := 0; i < 2000; i += 100 {
		var events []api.NewEvent
		for j := range 100 {
			events = append(events, event(fmt.Sprint("gone-", i+j)))
		}
		if _, err := s.Append(ctx, "gone", events, client.Any); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.SetStreamMetadata(ctx, "ring", api.StreamMetadataRequest{MaxCount: 20}); err != nil {
		t.Fatal(err)
	}
	conns := make(map[*testcluster.Node]*nats.Conn)
	for _, n := range c.Nodes {
		conns[n] = n.Connect()
	}
	disk := func(n *testcluster.Node) int64 {
		var info *api.StoreInfoResponse
		testcluster.Eventually(t, "info of "+n.Name, func() (err error) {
			info, err = localInfo(n, conns[n])
			return err
		})
		return info.DiskBytes
	}
	testcluster.Eventually(t, "all events are in the state files", func() error {
		for _, n := range c.Nodes {
			if got := disk(n); got < 18<<20 {
				return fmt.Errorf("%s has %d bytes", n.Name, got)
			}
		}
		return nil
	})
	last := int64(1999)
	if _, err := s.DeleteStream(ctx, "gone", api.DeleteStreamRequest{ExpectedVersion: &last}); err != nil {
		t.Fatal(err)
	}
	// Writers go on to the end. What they write to is bounded, so the disk must not grow with it.
	var written atomic.Int64
	writing, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { // ends when it is stopped, or with an error
		for writing.Err() == nil {
			n := written.Load()
			if _, err := s.Append(ctx, "ring", []api.NewEvent{event(fmt.Sprint("ring-", n))}, n-1); err != nil {
				done <- err
				return
			}
			written.Add(1)
		}
		done <- nil
	}()
	victim := c.Nodes[2]
	testcluster.Eventually(t, "a node has begun to give space back", func() error {
		if got := disk(victim); got > 16<<20 {
			return fmt.Errorf("%d bytes", got)
		}
		return nil
	})
	victim.Kill()
	victim.Start()
	c.WaitReady()
	testcluster.Eventually(t, "the writers have written much", func() error {
		if n := written.Load(); n < 500 && len(done) == 0 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		testcluster.Eventually(t, "space came back on "+n.Name, func() error {
			if got := disk(n); got > 6<<20 {
				return fmt.Errorf("%d bytes are used, after %d further events of 10,000", got, written.Load())
			}
			return nil
		})
	}
	c.WaitSame("orders")
	var want []api.Event
	for _, n := range c.Nodes {
		var got []api.Event
		for e, err := range client.New(conns[n]).Store("orders").ReadAll(ctx, client.ReadOptions{Consistency: api.Local}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		if want == nil {
			want = got
		}
		if len(got) != 20 || got[19].Version != uint64(written.Load()-1) || !reflect.DeepEqual(got, want) {
			t.Errorf("%s has %d events, the last at version %d; want 20 up to %d, the same everywhere", n.Name, len(got), got[len(got)-1].Version, written.Load()-1)
		}
		// The one that was killed may find what it freed used again, and nothing worth giving back; that it takes little is seen above.
		if n != victim && !strings.Contains(n.Log(), "was given back") {
			t.Errorf("%s does not say that space was given back", n.Name)
		}
	}
	if r, err := s.Append(ctx, "gone", []api.NewEvent{event("gone-7")}, client.Any); err != nil || !r.Duplicate || r.Version != 7 {
		t.Errorf("a retry of what is gone: %+v, %v", r, err)
	}
	if r, err := s.Append(ctx, "gone", []api.NewEvent{event("new")}, client.NoStream); err != nil || r.Version != 2000 {
		t.Errorf("the stream comes back: %+v, %v", r, err)
	}
}

// localInfo asks the node for its own replica.
func localInfo(n *testcluster.Node, nc *nats.Conn) (*api.StoreInfoResponse, error) {
	var info api.StoreInfoResponse
	m, err := nc.Request("es.orders.read.info", []byte(`{"consistency":"local"}`), requestTimeout)
	if err != nil {
		return nil, err
	}
	if err := api.Unmarshal(m.Data, &info); err != nil {
		return nil, err
	}
	if info.Error != nil {
		return nil, info.Error
	}
	if info.Node != n.Name {
		return nil, fmt.Errorf("node %s answered", info.Node)
	}
	return &info, nil
}
