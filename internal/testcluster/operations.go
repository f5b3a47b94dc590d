package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// Clients do random operations on a few streams of one store, through all nodes, and write a history that Judge can judge. They send plain requests, each
// once, so that every answer means what it says: done, refused for good, or unknown. Now and then an append of unknown outcome is tried again with the
// same id, as clients are told to do.
//
// Stop and Start may follow each other; the history goes on.
type Clients struct {
	cluster  *Cluster
	store    string
	n        int
	seed     uint64
	conns    []*nats.Conn // one a node
	subjects api.Subjects
	began    time.Time
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	rounds   uint64
	marker   int64 // version of the last event in the stream of markers

	mu      sync.Mutex // guards what follows
	history []*Operation
	acks    int
	reads   int
	unknown int
}

const (
	sharedStreams = 4
	pace          = 12 * time.Millisecond // of one client: a history must stay small enough to be judged
	tryTime       = time.Second           // of one request
)

// NewClients prepares so many clients of the store, which must exist.
func NewClients(c *Cluster, store string, n int, seed uint64) *Clients {
	c.T.Helper()
	cs := &Clients{cluster: c, store: store, n: n, seed: seed, began: time.Now(), marker: -1}
	for _, node := range c.Nodes {
		// What cannot be sent now is not sent later: it would take effect when nobody expects it any more.
		nc, err := nats.Connect(node.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.IgnoreDiscoveredServers(),
			nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
		if err != nil {
			c.T.Fatal(err)
		}
		c.T.Cleanup(nc.Close)
		cs.conns = append(cs.conns, nc)
	}
	c.T.Cleanup(func() { cs.halt() })
	return cs
}

// Start lets the clients work.
func (cs *Clients) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	cs.cancel = cancel
	cs.rounds++
	for i := range cs.n {
		random := rand.New(rand.NewPCG(cs.seed, cs.rounds<<16|uint64(i)))
		cs.wg.Go(func() { cs.work(ctx, i, random) }) // ends with Stop
	}
}

// Stop ends the work; what is under way is seen through.
func (cs *Clients) Stop() { cs.halt() }

func (cs *Clients) halt() {
	if cs.cancel != nil {
		cs.cancel()
	}
	cs.wg.Wait()
}

func (cs *Clients) work(ctx context.Context, who int, random *rand.Rand) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	known := make(map[string]int64) // versions, as this client saw them last
	var open []*Operation           // appends of this client whose outcome is unknown
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		nc := cs.conns[who%len(cs.conns)] // usually the same node, so that one that answers nobody holds up its own clients only
		if random.IntN(8) == 0 {
			nc = cs.conns[random.IntN(len(cs.conns))]
		}
		if !nc.IsConnected() {
			continue
		}
		stream := fmt.Sprintf("s-%d", random.IntN(sharedStreams))
		switch dice := random.IntN(100); {
		case dice < 30:
			cs.read(nc, who, stream, known)
		case dice < 40 && len(open) > 0:
			i := random.IntN(len(open))
			if cs.try(nc, open[i], client.Any, known) != Unknown {
				open = append(open[:i], open[i+1:]...)
			}
		default:
			expected := client.Any
			if version, ok := known[stream]; ok && dice < 70 {
				expected = version
			}
			op := &Operation{Client: who, Stream: stream, ID: nuid.Next(), Outcome: Unknown, Return: Never, Call: cs.now()}
			cs.mu.Lock()
			cs.history = append(cs.history, op)
			cs.unknown++
			cs.mu.Unlock()
			if cs.try(nc, op, expected, known) == Unknown {
				open = append(open, op)
			}
		}
	}
}

func (cs *Clients) now() int64 { return time.Since(cs.began).Nanoseconds() }

// try sends an append, for the first time or once more, and notes what becomes known by the answer.
func (cs *Clients) try(nc *nats.Conn, op *Operation, expected int64, known map[string]int64) Outcome {
	request := api.AppendRequest{ExpectedVersion: &expected, Events: []api.NewEvent{{ID: op.ID, Type: "Tried", Data: fmt.Appendf(nil, `{"client":%d}`, op.Client)}}}
	var res api.AppendResponse
	retry := op.Outcome == Unknown && op.Refusal != ""
	err := cs.ask(nc, cs.subjects.Write(cs.store, "append", op.Stream), request, &res)
	now := cs.now()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var failed *api.Error
	switch {
	case err == nil:
		op.Outcome, op.Return, op.Version, op.Position, op.Refusal = Done, now, int64(res.Version), res.Position, ""
		known[op.Stream] = op.Version
		cs.acks++
	case retry: // this try had no effect, or nobody knows; the one before may have had
		return Unknown
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded): // it reached nobody
		op.Outcome, op.Return, op.Version, op.Refusal = Refused, now, notSaid, err.Error()
	case errors.As(err, &failed) && !errors.Is(err, api.ErrOutcomeUnknown) && !errors.Is(err, api.ErrInternal):
		op.Outcome, op.Return, op.Version, op.Refusal = Refused, now, notSaid, err.Error()
		if failed.ActualVersion != nil {
			op.Version = *failed.ActualVersion
			known[op.Stream] = op.Version
		}
	default:
		op.Refusal = err.Error()
		return Unknown
	}
	cs.unknown--
	return op.Outcome
}

func (cs *Clients) read(nc *nats.Conn, who int, stream string, known map[string]int64) {
	op := &Operation{Client: who, Stream: stream, Kind: Read, Call: cs.now()}
	var res api.ReadResponse
	err := cs.ask(nc, cs.subjects.Read(cs.store, "stream", stream), api.ReadStreamRequest{Limit: 1, Backward: true}, &res)
	op.Return = cs.now()
	switch {
	case errors.Is(err, api.ErrStreamNotFound):
		op.Version = -1
	case err != nil || len(res.Events) != 1:
		return // a read that failed says nothing
	default:
		op.ID, op.Version = res.Events[0].ID, int64(res.Events[0].Version)
	}
	known[stream] = op.Version
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.history = append(cs.history, op)
	cs.reads++
}

// ask sends one request, once.
func (cs *Clients) ask(nc *nats.Conn, subject string, request, into any) error {
	payload, err := api.Marshal(request)
	if err != nil {
		return err
	}
	m, err := nc.Request(subject, payload, tryTime)
	if err != nil {
		return err
	}
	var head api.Reply
	if err := json.Unmarshal(m.Data, &head); err != nil {
		return err
	}
	if head.Error != nil {
		return head.Error
	}
	return json.Unmarshal(m.Data, into)
}

// Acks returns how many appends have been acknowledged.
func (cs *Clients) Acks() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.acks
}

// Counts describes what has been done.
func (cs *Clients) Counts() string {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	refused := 0
	for _, op := range cs.history {
		if op.Outcome == Refused {
			refused++
		}
	}
	return fmt.Sprintf("%d appends acknowledged, %d refused, %d of unknown outcome, %d reads", cs.acks, refused, cs.unknown, cs.reads)
}

// WaitAcks waits for so many more acknowledgements.
func (cs *Clients) WaitAcks(more int) {
	cs.cluster.T.Helper()
	target := cs.Acks() + more
	Eventually(cs.cluster.T, fmt.Sprintf("%d appends are acknowledged", target), func() error {
		if got := cs.Acks(); got < target {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
}

// HealTime is how long after the end of the last fault a write may still fail.
const HealTime = 10 * time.Second

// WritableSoon fails the test unless writes through every node succeed within HealTime, and returns how long it took. Call it when a fault has just ended.
func (cs *Clients) WritableSoon() time.Duration {
	t := cs.cluster.T
	t.Helper()
	began := time.Now()
	last := make([]error, len(cs.conns))
	var wg sync.WaitGroup
	for i, nc := range cs.conns {
		wg.Go(func() { // ends with a write that succeeds, or a little after HealTime
			for time.Since(began) < HealTime {
				op := &Operation{Client: -1, Stream: "heal", ID: nuid.Next(), Outcome: Unknown, Return: Never, Call: cs.now()}
				cs.mu.Lock()
				cs.history = append(cs.history, op)
				cs.unknown++
				cs.mu.Unlock()
				if cs.try(nc, op, client.Any, map[string]int64{}) == Done {
					last[i] = nil
					return
				}
				last[i] = errors.New(op.Refusal)
				pause := time.NewTimer(pace) // a node that refuses at once is not asked without a pause
				<-pause.C
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	for i, err := range last {
		if err != nil {
			t.Errorf("%v after the fault ended no write through %s has succeeded; the last one: %v", HealTime, cs.cluster.Nodes[i].Name, err)
		}
	}
	return took
}

// Check fails the test with everything that Wrong returns.
func (cs *Clients) Check() {
	cs.cluster.T.Helper()
	for _, err := range cs.Wrong() {
		cs.cluster.T.Error(err)
	}
}

// Wrong judges the history against what every node has. All nodes must run and be able to catch up, and the clients must be stopped.
func (cs *Clients) Wrong() []error {
	cs.cluster.T.Helper()
	last := cs.mark()
	final := make(map[string][]api.Event)
	for i, node := range cs.cluster.Nodes {
		final[node.Name] = cs.everything(cs.conns[i], node.Name, last)
	}
	cs.mu.Lock()
	history := make([]Operation, 0, len(cs.history))
	for _, op := range cs.history {
		history = append(history, *op)
	}
	cs.mu.Unlock()
	return Judge(history, final)
}

// mark appends an event behind everything that is acknowledged, and returns its position.
func (cs *Clients) mark() (position uint64) {
	t := cs.cluster.T
	t.Helper()
	Eventually(t, "a last event is acknowledged", func() error {
		op := &Operation{Client: -2, Stream: "marks", ID: nuid.Next(), Outcome: Unknown, Return: Never, Call: cs.now()}
		cs.mu.Lock()
		cs.history = append(cs.history, op)
		cs.unknown++
		cs.mu.Unlock()
		err := errors.New("no node is connected")
		for _, nc := range cs.conns {
			if nc.IsConnected() {
				if cs.try(nc, op, client.Any, map[string]int64{}) == Done {
					position = op.Position
					return nil
				}
				err = errors.New(op.Refusal)
				break
			}
		}
		return err
	})
	return position
}

// everything reads the node's own state up to the position at least.
func (cs *Clients) everything(nc *nats.Conn, name string, position uint64) (all []api.Event) {
	t := cs.cluster.T
	t.Helper()
	Eventually(t, name+" has caught up and is read", func() error {
		all = nil
		for next := uint64(0); ; {
			var res api.ReadResponse
			err := cs.ask(nc, cs.subjects.Read(cs.store, "all", ""), api.ReadAllRequest{
				ReadOptions: api.ReadOptions{Consistency: api.Local, MinPosition: position}, After: &next, Limit: 1000,
			}, &res)
			if err != nil {
				return err
			}
			all = append(all, res.Events...)
			if res.End {
				return nil
			}
			next = res.Next
		}
	})
	return all
}

// LogCounts logs what has been done, and fails the test when it is less than min acknowledged appends: a test that has seen too little has shown nothing.
func (cs *Clients) LogCounts(t testing.TB, min int) {
	t.Helper()
	t.Log(cs.Counts())
	if cs.Acks() < min {
		t.Errorf("only %d appends were acknowledged, wanted %d: the test has seen too little", cs.Acks(), min)
	}
}
