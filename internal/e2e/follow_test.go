package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestFollow: followers get every event once and in order while the nodes they are connected to die and come back, one after the other, and leaders with them.
func TestFollow(t *testing.T) {
	c := testcluster.Start(t, 3)
	admin := c.Client()
	c.CreateStore(admin, "orders")
	load := testcluster.StartLoad([]*client.Client{c.Client(), c.Client(), c.Client()}, "orders", 3)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	type follower struct {
		got     atomic.Uint64
		longest time.Duration // without an event
		err     error
		ended   chan struct{}
	}
	var followers []*follower
	var first *nats.Conn // the first follower's
	for i := range 3 {
		f := &follower{ended: make(chan struct{})}
		followers = append(followers, f)
		nc := c.Connect()
		if i == 0 {
			first = nc
		}
		st := client.New(nc).Store("orders") // with the default time for a try: five seconds must not be waited for
		o := client.ReadOptions{Follow: true, PageSize: 50}
		go func() { // ends with ctx, or the first error
			defer close(f.ended)
			last := time.Now()
			for e, err := range st.ReadAll(ctx, o) {
				if err != nil {
					f.err = err
					return
				}
				if e.Position != f.got.Load()+1 {
					t.Errorf("position %d comes behind %d", e.Position, f.got.Load())
				}
				f.longest = max(f.longest, time.Since(last))
				last = time.Now()
				f.got.Store(e.Position)
			}
		}()
	}
	for range 3 {
		load.WaitAcks(t, 50)
		var victim *testcluster.Node // the one that the first follower is connected to
		for _, n := range c.Nodes {
			if strings.HasSuffix(first.ConnectedAddr(), n.NATS[strings.LastIndex(n.NATS, ":"):]) {
				victim = n
			}
		}
		if victim == nil {
			t.Fatalf("connected to %q", first.ConnectedAddr())
		}
		victim.Kill()
		load.WaitAcks(t, 50)
		victim.Start()
		c.WaitReady()
	}
	load.Stop(t)
	info, err := admin.Store("orders").Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range followers {
		testcluster.Eventually(t, fmt.Sprintf("follower %d has everything", i), func() error {
			if got := f.got.Load(); got < info.LastPosition {
				return fmt.Errorf("it is at %d of %d", got, info.LastPosition)
			}
			return nil
		})
	}
	cancel()
	for i, f := range followers {
		<-f.ended
		t.Logf("follower %d: %d events, the longest pause was %v", i, f.got.Load(), f.longest)
		if f.got.Load() != info.LastPosition {
			t.Errorf("follower %d got %d events, there are %d", i, f.got.Load(), info.LastPosition)
		}
		if f.longest > 4*time.Second {
			t.Errorf("follower %d got nothing for %v", i, f.longest)
		}
	}
	load.Check(t, admin, "")
}
