package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestThousandStores creates 1,000 stores, uses them, kills a node that leads its share of them, uses them on, kills all nodes and starts them again: every
// store has all that was acknowledged, every store is writable, and readiness says meanwhile how far it is.
func TestThousandStores(t *testing.T) {
	const n = 1000
	c := testcluster.Start(t, 3)
	cl := c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	names := make([]string, n)
	acked := make([][]*api.AppendResponse, n) // by store, in order
	// each does something to every store, 16 at once.
	each := func(what string, do func(i int) error) {
		t.Helper()
		began := time.Now()
		var wg sync.WaitGroup
		next := make(chan int)
		for range 16 {
			wg.Go(func() { // ends when next is closed
				for i := range next {
					if err := do(i); err != nil {
						t.Errorf("%s: store %s: %v", what, names[i], err)
					}
				}
			})
		}
		for i := range n {
			next <- i
		}
		close(next)
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		t.Logf("%s: %d stores in %v", what, n, time.Since(began).Round(time.Millisecond))
	}
	write := func(cl *client.Client, i int) error {
		k := len(acked[i])
		res, err := cl.Store(names[i]).Append(ctx, "s", []api.NewEvent{{ID: fmt.Sprintf("%s-%d", names[i], k), Type: "Counted"}}, int64(k-1))
		if err == nil {
			acked[i] = append(acked[i], res)
		}
		return err
	}
	each("create", func(i int) error {
		names[i] = fmt.Sprintf("store-%04d", i)
		_, err := cl.CreateStore(ctx, names[i], api.ConfigPutRequest{})
		return err
	})
	each("write", func(i int) error { return write(cl, i) })
	readAtOnce(t, ctx, c, names)

	leads := make(map[string]int)
	leaders, err := cl.Leaders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leaders.Stores {
		leads[l.Leader]++
	}
	t.Logf("leaders: %v", leads)
	dead := c.Nodes[0]
	if leads[dead.Name] < n/6 {
		t.Errorf("%s leads %d of %d stores: its end will show little", dead.Name, leads[dead.Name], n)
	}
	survivors := client.New(c.Nodes[1].Connect(), client.WithTryTimeout(3*time.Second))
	dead.Kill()
	killed := time.Now()
	took := make([]time.Duration, n)
	each("write after a node was killed", func(i int) error {
		err := write(survivors, i)
		took[i] = time.Since(killed)
		return err
	})
	slices.Sort(took)
	t.Logf("99 of 100 stores were written to %v after the kill, all after %v", took[n*99/100].Round(time.Millisecond), took[n-1].Round(time.Millisecond))
	each("write on", func(i int) error { return write(survivors, i) })

	for _, node := range c.Nodes {
		node.Kill()
	}
	began := time.Now()
	for _, node := range c.Nodes {
		node.Start()
	}
	told := make(map[int]bool) // how many stores readiness said were open
	for _, node := range c.Nodes {
		testcluster.Eventually(t, node.Name+" is ready", func() error {
			h, err := node.Health()
			if err == nil && !h.Ready {
				if m := howFar.FindStringSubmatch(h.Reason); m != nil {
					done, _ := strconv.Atoi(m[1])
					told[done] = true
					if m[2] != fmt.Sprint(n) {
						t.Errorf("%s: %q; there are %d stores", node.Name, h.Reason, n)
					}
				}
				err = errors.New(h.Reason)
			}
			return err
		})
	}
	t.Logf("all nodes were ready %v after they were started; on the way they gave %d different counts of open stores", time.Since(began).Round(time.Millisecond), len(told))
	if len(told) == 0 {
		t.Error("no node said how many of its stores were open")
	}
	each("write after all were killed", func(i int) error { return write(cl, i) })
	t.Logf("all stores were written to %v after the start", time.Since(began).Round(time.Millisecond))
	for _, node := range c.Nodes {
		at := client.New(node.Connect(), client.WithTryTimeout(3*time.Second))
		each("read at "+node.Name, func(i int) error {
			k := 0
			for e, err := range at.Store(names[i]).ReadAll(ctx, client.ReadOptions{}) {
				if err != nil {
					return err
				}
				if k < len(acked[i]) && (e.Position != acked[i][k].Position || e.Version != acked[i][k].Version || e.ID != fmt.Sprintf("%s-%d", names[i], k)) {
					return fmt.Errorf("event %d is %+v, acknowledged was %+v", k, e, acked[i][k])
				}
				k++
			}
			if k != len(acked[i]) {
				return fmt.Errorf("%d events, %d were acknowledged", k, len(acked[i]))
			}
			return nil
		})
	}
}

var howFar = regexp.MustCompile(`(\d+) of (\d+) are done`)

// readAtOnce has every store read at every node, linearizably, all at once. Reads that waited for their leader's round once kept the workers that the round itself needed, and probes too: no read was
// answered, and every store lost its leader.
func readAtOnce(t *testing.T, ctx context.Context, c *testcluster.Cluster, names []string) {
	t.Helper()
	before := terms(t, ctx, c.Nodes[0])
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	var wg sync.WaitGroup
	for _, node := range c.Nodes {
		cl := client.New(node.Connect())
		for _, name := range names {
			wg.Go(func() {
				events := 0
				for _, err := range cl.Store(name).ReadStream(ctx, "s", client.ReadOptions{}) {
					if err != nil {
						t.Errorf("read of %s at %s, of all at once: %v", name, node.Name, err)
						return
					}
					events++
				}
				if events != 1 {
					t.Errorf("read of %s at %s, of all at once: %d events, want 1", name, node.Name, events)
				}
			})
		}
	}
	wg.Wait()
	t.Logf("read of all stores at all nodes at once: %v", time.Since(began).Round(time.Millisecond))
	if after := terms(t, ctx, c.Nodes[0]); !maps.Equal(after, before) {
		t.Errorf("there were elections while all stores were read at once: the terms were %v, and are %v", before, after)
	}
}

// terms returns the term of every store, as one node sees it once it knows every leader.
func terms(t *testing.T, ctx context.Context, node *testcluster.Node) map[string]uint64 {
	t.Helper()
	cl, all := client.New(node.Connect()), make(map[string]uint64)
	testcluster.Eventually(t, "a node knows who leads each store", func() error {
		leaders, err := cl.Leaders(ctx)
		if err != nil {
			return err
		}
		for _, l := range leaders.Stores {
			if l.Leader == "" {
				return fmt.Errorf("not of %s", l.Store)
			}
			all[l.Store] = l.Term
		}
		return nil
	})
	return all
}
