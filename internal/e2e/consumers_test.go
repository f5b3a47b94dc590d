package e2e

import (
	"context"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestConsumers: consumers of a durable subscription, in the client's loop, work every event in while leaders die; in its stream's order, since the subscription is ordered, and again
// only what was not acknowledged when a leader died.
func TestConsumers(t *testing.T) {
	c := testcluster.Start(t, 3)
	admin := c.Client()
	c.CreateStore(admin, "orders")
	ctx, cancel := context.WithTimeout(context.Background(), 2*testcluster.Patience)
	defer cancel()
	sub := admin.Store("orders").Subscription("work")
	if _, err := sub.Create(ctx, api.SubscriptionConfig{Ordered: true, MaxInFlight: 200, AckWaitMS: 2000}); err != nil {
		t.Fatal(err)
	}
	load := testcluster.StartLoad([]*client.Client{c.Client(), c.Client()}, "orders", 6)

	var mu sync.Mutex // guards what is below
	worked := map[uint64]int{}
	streams := map[string]uint64{} // the next version of each stream that was never worked in
	deliveries := 0
	run, stop := context.WithCancel(ctx)
	var consumers sync.WaitGroup
	for i := range 3 {
		st := c.Client().Store("orders")
		consumers.Go(func() { // ends with run
			for m, err := range st.Subscription("work").Messages(run, client.ConsumeOptions{Batch: 20}) {
				if err != nil {
					if run.Err() == nil {
						t.Errorf("consumer %d: %v", i, err)
					}
					return
				}
				mu.Lock()
				deliveries++
				worked[m.Position]++
				switch next := streams[m.Stream]; {
				case m.Version == next:
					streams[m.Stream]++
				case m.Version > next:
					t.Errorf("%s: version %d was delivered before %d", m.Stream, m.Version, next)
				}
				mu.Unlock()
				if err := m.Ack(); err != nil {
					t.Errorf("consumer %d: %v", i, err)
				}
			}
		})
	}
	for range 2 {
		load.WaitAcks(t, 100)
		leader := c.Node(c.Leader(admin, "orders").Leader)
		leader.Kill()
		load.WaitAcks(t, 100)
		leader.Start()
		c.WaitReady()
	}
	load.Stop(t)
	info, err := admin.Store("orders").Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Eventually(t, "everything is acknowledged", func() error {
		s, err := sub.Info(ctx)
		if err == nil && s.Cursor < info.LastPosition {
			err = context.DeadlineExceeded
		}
		return err
	})
	stop()
	consumers.Wait()
	for p := uint64(1); p <= info.LastPosition; p++ {
		if worked[p] == 0 {
			t.Errorf("position %d was never delivered", p)
		}
	}
	if s, err := sub.Info(ctx); err != nil || s.Parked != 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	t.Logf("%d events, %d deliveries", info.LastPosition, deliveries)
	if uint64(deliveries) > 2*info.LastPosition {
		t.Errorf("%d deliveries of %d events", deliveries, info.LastPosition)
	}
}
