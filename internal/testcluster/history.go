package testcluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// Load appends to a store from several writers and remembers what was acknowledged. Each writer owns a stream and appends one event after the
// other, each on the condition that the one before is there, so the order of acknowledgements is the order of versions.
type Load struct {
	store   string
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	writers []*writer
	acks    atomic.Int64
}

type writer struct {
	stream string
	acked  []ack // in order
	tried  map[string]bool
	err    error
}

type ack struct {
	id                string
	version, position uint64
}

// StartLoad begins to write. Stop ends it.
func StartLoad(clients []*client.Client, store string, writers int) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{store: store, cancel: cancel}
	for i := range writers {
		w := &writer{stream: fmt.Sprintf("load-%d", i), tried: make(map[string]bool)}
		l.writers = append(l.writers, w)
		st := clients[i%len(clients)].Store(store)
		l.wg.Add(1)
		go func() { // ends with Stop, or the first error that a retry does not mend
			defer l.wg.Done()
			w.err = w.run(ctx, st, &l.acks)
		}()
	}
	return l
}

func (w *writer) run(ctx context.Context, st *client.Store, acks *atomic.Int64) error {
	expected := client.NoStream
	for n := 0; ctx.Err() == nil; n++ {
		event := api.NewEvent{ID: nuid.Next(), Type: "Counted", Data: fmt.Appendf(nil, `{"n":%d}`, n)}
		w.tried[event.ID] = true
		try, cancel := context.WithTimeout(context.Background(), Patience) // not ctx: an append that began is seen through
		res, err := st.Append(try, w.stream, []api.NewEvent{event}, expected)
		cancel()
		if err != nil {
			return fmt.Errorf("append %d to %s: %w", n, w.stream, err)
		}
		w.acked = append(w.acked, ack{event.ID, res.Version, res.Position})
		expected = int64(res.Version)
		acks.Add(1)
	}
	return nil
}

// Acks returns how many appends have been acknowledged.
func (l *Load) Acks() int64 { return l.acks.Load() }

// WaitAcks waits for so many more acknowledgements.
func (l *Load) WaitAcks(t testing.TB, more int64) {
	t.Helper()
	target := l.Acks() + more
	Eventually(t, fmt.Sprintf("%d appends are acknowledged", target), func() error {
		if got := l.Acks(); got < target {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
}

// Stop ends the load and waits for the writers.
func (l *Load) Stop(t testing.TB) {
	t.Helper()
	l.cancel()
	l.wg.Wait()
	for _, w := range l.writers {
		if w.err != nil {
			t.Error(w.err)
		}
	}
}

// Check reads everything at one node and holds it against the acknowledgements: nothing acknowledged is lost, doubled or moved, nothing is there
// that was not tried, versions and positions are dense, and acknowledgements of one writer are in order.
func (l *Load) Check(t testing.TB, cl *client.Client, consistency string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	byID := make(map[string]api.Event)
	versions := make(map[string]uint64)
	next := uint64(1)
	for e, err := range cl.Store(l.store).ReadAll(ctx, client.ReadOptions{Consistency: consistency}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Position != next {
			t.Errorf("position %d follows %d", e.Position, next-1)
		}
		next = e.Position + 1
		if e.Version != versions[e.Stream] {
			t.Errorf("stream %s: version %d, wanted %d", e.Stream, e.Version, versions[e.Stream])
		}
		versions[e.Stream]++
		if _, double := byID[e.ID]; double {
			t.Errorf("event %s is there twice", e.ID)
		}
		byID[e.ID] = e
	}
	tried := make(map[string]bool)
	for _, w := range l.writers {
		for id := range w.tried {
			tried[id] = true
		}
		for i, a := range w.acked {
			e, ok := byID[a.id]
			switch {
			case !ok:
				t.Errorf("%s: acknowledged event %s (version %d) is lost", w.stream, a.id, a.version)
			case e.Version != a.version || e.Position != a.position || e.Stream != w.stream:
				t.Errorf("%s: event %s was acknowledged at version %d, position %d and is at %s version %d, position %d", w.stream, a.id, a.version, a.position, e.Stream, e.Version, e.Position)
			case a.version != uint64(i):
				t.Errorf("%s: acknowledgement %d has version %d", w.stream, i, a.version)
			}
		}
	}
	for id, e := range byID {
		if !tried[id] {
			t.Errorf("event %s in %s was never tried", id, e.Stream)
		}
	}
}

// WaitSame waits until every running node has applied what was acknowledged before the call: a linearizable read at a node is answered by that node,
// once it has.
func (c *Cluster) WaitSame(store string) {
	c.T.Helper()
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		st := client.New(n.Connect()).Store(store)
		Eventually(c.T, n.Name+" has caught up", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			info, err := st.Info(ctx)
			if err == nil && info.Node != n.Name {
				err = fmt.Errorf("node %s answered", info.Node)
			}
			return err
		})
	}
}
