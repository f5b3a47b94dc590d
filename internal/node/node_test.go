package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/node"
	"github.com/quorate/quorate/internal/testcluster"
)

// cluster is three nodes in this process, so that the race detector sees all of them.
type cluster struct {
	t     *testing.T
	cfgs  []node.Config
	nodes []*node.Node // nil while one is down
}

// start runs n nodes, whose configuration change may change.
func start(t *testing.T, n int, change ...func(*node.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, nodes: make([]*node.Node, n)}
	ports := testcluster.FreePorts(t, 3*n)
	addr := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	dir := t.TempDir()
	for i := range n {
		cfg := node.Config{
			Name: fmt.Sprintf("n%d", i+1), Data: filepath.Join(dir, fmt.Sprint(i+1)), Listen: addr(3 * i), ClusterListen: addr(3*i + 1), RaftListen: addr(3*i + 2),
			Expect: n, OnFatal: func(err error) { t.Errorf("fatal: %v", err) },
		}
		for j := range n {
			if j != i {
				cfg.Join = append(cfg.Join, addr(3*j+1))
			}
		}
		for _, change := range change {
			change(&cfg)
		}
		c.cfgs = append(c.cfgs, cfg)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.kill(i)
		}
	})
	c.up()
	return c
}

// up starts the nodes that are down and waits until all are ready.
func (c *cluster) up() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range c.nodes {
		if c.nodes[i] != nil {
			continue
		}
		wg.Add(1)
		go func() { // ends when the node serves or ctx is done
			defer wg.Done()
			n, err := node.Start(ctx, c.cfgs[i])
			if err != nil {
				c.t.Errorf("start %s: %v", c.cfgs[i].Name, err)
				return
			}
			c.nodes[i] = n
		}()
	}
	wg.Wait()
	for _, n := range c.nodes {
		if n == nil {
			c.t.FailNow()
		}
		testcluster.Eventually(c.t, n.Name()+" is ready", func() error {
			if ready, reason := n.Ready(); !ready {
				return errors.New(reason)
			}
			return nil
		})
	}
}

func (c *cluster) kill(i int) {
	c.t.Helper()
	if c.nodes[i] == nil {
		return
	}
	if err := c.nodes[i].Kill(); err != nil {
		c.t.Errorf("kill %s: %v", c.cfgs[i].Name, err)
	}
	c.nodes[i] = nil
}

func (c *cluster) client(i int) *client.Client {
	c.t.Helper()
	urls := make([]string, len(c.cfgs))
	for j := range c.cfgs {
		urls[j] = "nats://" + c.cfgs[(i+j)%len(c.cfgs)].Listen
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.DontRandomize(), nats.IgnoreDiscoveredServers(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return client.New(nc, client.WithTryTimeout(3*time.Second))
}

// leads returns the index of the node that leads the store.
func (c *cluster) leads(store string) int {
	c.t.Helper()
	found := -1
	testcluster.Eventually(c.t, store+" is led", func() error {
		for i, n := range c.nodes {
			if n == nil {
				continue
			}
			if s, ok := n.Stores().Get(store); ok && s.Leadership().Role.String() == "serving" {
				found = i
				return nil
			}
		}
		return errors.New("it is not")
	})
	return found
}

// sameState waits until all replicas of the store have applied the same and compares their digests.
func (c *cluster) sameState(store string) {
	c.t.Helper()
	testcluster.Eventually(c.t, "the replicas of "+store+" are equal", func() error {
		var first []byte
		for _, n := range c.nodes {
			s, ok := n.Stores().Get(store)
			if !ok {
				return fmt.Errorf("%s does not have it", n.Name())
			}
			hash, err := s.Hash()
			if err != nil {
				return err
			}
			if first == nil {
				first = hash
			}
			if !bytes.Equal(first, hash) {
				return fmt.Errorf("%s differs", n.Name())
			}
		}
		return nil
	})
}

// operation is what a client did to a stream: it appended one event (and was told its version), or it read the last version.
type operation struct {
	stream string
	read   bool
}

// streamModel is a stream to a client: a counter that an append increases by one. A result of unknown stands for an append whose outcome nobody learnt.
const unknown = int64(-99)

var streamModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{int64(-1)} },
	Step: func(state, input, output any) []any {
		last, op, got := state.(int64), input.(operation), output.(int64)
		switch {
		case op.read && got == last:
			return []any{last}
		case op.read:
			return nil
		case got == unknown:
			return []any{last, last + 1}
		case got == last+1:
			return []any{got}
		}
		return nil
	},
	PartitionEvent: nil,
}

// TestLinearizable lets clients at all nodes append to and read a few streams while leaders are closed and moved, and has the whole history
// checked: there must be one order of all operations, each between its begin and its end, that explains every answer.
func TestLinearizable(t *testing.T) {
	c := start(t, 3)
	cl := c.client(0)
	ctx, cancel := context.WithTimeout(context.Background(), 4*testcluster.Patience)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "orders", api.ConfigPutRequest{}); err != nil {
		t.Fatal(err)
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	var (
		mu      sync.Mutex
		history = map[string][]porcupine.Operation{}
		done    int
		wg      sync.WaitGroup
	)
	began := time.Now()
	const workers, streams = 6, 3
	for w := range workers {
		st := c.client(w).Store("orders")
		random := rand.New(rand.NewPCG(7, uint64(w)))
		wg.Add(1)
		go func() { // ends when work is done
			defer wg.Done()
			for work.Err() == nil {
				op := operation{stream: fmt.Sprintf("s-%d", random.IntN(streams)), read: random.IntN(3) == 0}
				call := time.Since(began).Nanoseconds()
				result, err := perform(ctx, st, op)
				returned := time.Since(began).Nanoseconds()
				if err != nil {
					if op.read {
						continue // a read that failed says nothing
					}
					if !errors.Is(err, api.ErrOutcomeUnknown) {
						t.Errorf("append: %v", err)
						return
					}
					result, returned = unknown, int64(1)<<62
				}
				mu.Lock()
				history[op.stream] = append(history[op.stream], porcupine.Operation{ClientId: w, Input: op, Output: result, Call: call, Return: returned})
				done++
				mu.Unlock()
			}
		}()
	}
	more := func(n int) {
		t.Helper()
		mu.Lock()
		target := done + n
		mu.Unlock()
		testcluster.Eventually(t, "operations go on", func() error {
			mu.Lock()
			defer mu.Unlock()
			if done < target {
				return fmt.Errorf("%d of %d", done, target)
			}
			return nil
		})
	}
	for round := range 3 {
		more(60)
		if _, err := cl.Transfer(ctx, "orders", ""); err != nil {
			t.Logf("round %d: transfer: %v", round, err)
		}
		more(60)
		leader := c.leads("orders")
		c.kill(leader)
		more(60)
		c.up()
	}
	stop()
	wg.Wait()
	if t.Failed() {
		return
	}
	for stream, ops := range history {
		if result, _ := porcupine.CheckOperationsVerbose(streamModel.ToModel(), ops, time.Minute); result != porcupine.Ok {
			t.Errorf("stream %s: the history of %d operations is %s", stream, len(ops), result)
		}
	}
	t.Logf("%d operations", done)
	c.sameState("orders")
	c.sameState(api.ConfigStore)
}

func perform(ctx context.Context, st *client.Store, op operation) (int64, error) {
	if !op.read {
		res, err := st.Append(ctx, op.stream, []api.NewEvent{{Type: "T"}}, client.Any)
		if err != nil {
			return 0, err
		}
		return int64(res.Version), nil
	}
	for e, err := range st.ReadStream(ctx, op.stream, client.ReadOptions{Backward: true, FromEnd: true, Limit: 1}) {
		if errors.Is(err, api.ErrStreamNotFound) {
			return -1, nil
		}
		return int64(e.Version), err
	}
	return -1, nil
}

// TestCheckerBites plants what the checker is for: a stale read and a doubled append must not pass.
func TestCheckerBites(t *testing.T) {
	op := func(client int, read bool, call, ret, out int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: operation{"s", read}, Call: call, Output: out, Return: ret}
	}
	for name, ops := range map[string][]porcupine.Operation{
		"stale read":    {op(0, false, 0, 1, 0), op(0, false, 2, 3, 1), op(1, true, 4, 5, 0)},
		"two the same":  {op(0, false, 0, 1, 0), op(1, false, 2, 3, 0)},
		"lost":          {op(0, false, 0, 1, 0), op(1, true, 2, 3, -1)},
		"out of thin":   {op(1, true, 0, 1, 3)},
		"doubled retry": {op(0, false, 0, 1, 0), op(0, true, 2, 3, 1)},
	} {
		if porcupine.CheckOperations(streamModel.ToModel(), ops) {
			t.Errorf("%s: the checker did not notice", name)
		}
	}
}

// TestStoresComeAndGo creates and drops stores at all nodes at once. Every create that is answered serves; what is dropped is gone everywhere.
func TestStoresComeAndGo(t *testing.T) {
	c := start(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*testcluster.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 3 {
		cl := c.client(w)
		wg.Add(1)
		go func() { // ends after its rounds
			defer wg.Done()
			name := fmt.Sprintf("tenant-%d", w)
			for round := range 4 {
				put, err := cl.CreateStore(ctx, name, api.ConfigPutRequest{})
				if err != nil || put.Incarnation != uint64(round+1) {
					t.Errorf("create %s: %v %+v", name, err, put)
					return
				}
				res, err := cl.Store(name).Append(ctx, "s", []api.NewEvent{{ID: "same", Type: "T"}}, client.NoStream)
				if err != nil || res.Position != 1 || res.Duplicate {
					t.Errorf("append to incarnation %d of %s: %v %+v", put.Incarnation, name, err, res)
					return
				}
				if _, err := cl.DeleteStore(ctx, name, api.ConfigDeleteRequest{}); err != nil {
					t.Errorf("delete %s: %v", name, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	for _, n := range c.nodes {
		testcluster.Eventually(t, n.Name()+" has no store left", func() error {
			if left := len(n.Stores().List()); left != 1 {
				return fmt.Errorf("%d are open", left)
			}
			return nil
		})
	}
	c.sameState(api.ConfigStore)
}
