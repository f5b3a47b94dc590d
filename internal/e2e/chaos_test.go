package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// chaos is a cluster to which things happen: what, to whom and for how long is drawn from a seed, so that a schedule can be replayed. Histories cannot: who leads when is the
// cluster's own doing.
type chaos struct {
	t       *testing.T
	c       *testcluster.Cluster
	cl      *client.Client
	nw      *testcluster.Network // nil without root, and then there are fewer kinds of faults
	disks   []*testcluster.Disk  // the same
	random  *rand.Rand
	longest time.Duration // of one fault
	deck    []fault
	store   string // that is written to now
	counts  map[string]int
}

// fault is one kind of thing that happens. begin does it to the node and returns what ends it, and whether the node's process is to be started again.
type fault struct {
	name  string
	root  bool // it needs hosts and disks
	begin func(x *chaos, i int) (end func())
}

var faults = []fault{
	{"kill", false, func(x *chaos, i int) func() {
		n := x.c.Nodes[i]
		n.Kill()
		return n.Start
	}},
	{"kill all", false, func(x *chaos, _ int) func() {
		for _, n := range x.c.Nodes {
			n.Kill()
		}
		return func() {
			for _, n := range x.c.Nodes {
				n.Start()
			}
		}
	}},
	{"pause", false, func(x *chaos, i int) func() {
		n := x.c.Nodes[i]
		n.Signal(syscall.SIGSTOP)
		return func() { n.Signal(syscall.SIGCONT) }
	}},
	{"transfer", false, func(x *chaos, i int) func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := x.cl.Transfer(ctx, x.store, x.c.Nodes[i].Name); err != nil {
			x.t.Logf("transfer: %v", err)
		}
		return func() {}
	}},
	{"isolate", true, func(x *chaos, i int) func() { x.nw.Hosts[i].Isolate(); return x.heal }},
	{"deafen", true, func(x *chaos, i int) func() { h := x.nw.Hosts[i]; h.Deafen(h.Others()...); return x.heal }},
	{"mute", true, func(x *chaos, i int) func() { x.nw.Hosts[i].Mute(); return x.heal }},
	{"loss", true, func(x *chaos, _ int) func() { x.nw.Lose(0.3); return x.heal }},
	{"power cut", true, func(x *chaos, i int) func() { return x.cut(i) }},
	{"power cut of all", true, func(x *chaos, _ int) func() { return x.cut(0, 1, 2) }},
	{"full disk", true, func(x *chaos, i int) func() {
		n := x.c.Nodes[i]
		if err := x.disks[i].Fill(); err != nil {
			x.t.Fatal(err)
		}
		return func() {
			if err := x.disks[i].Free(); err != nil {
				x.t.Fatal(err)
			}
			testcluster.Eventually(x.t, n.Name+" is ready", func() error { // it may just be ending by a write that failed before there was room
				if !n.Running() {
					if code := n.WaitExit(); code != 3 {
						x.t.Errorf("%s ended with exit code %d on a full disk", n.Name, code)
					}
					x.counts["nodes ended by a full disk"]++
					n.Start()
				}
				h, err := n.Health()
				if err == nil && !h.Ready {
					err = errors.New(h.Reason)
				}
				return err
			})
		}
	}},
}

func (x *chaos) heal() {
	if x.nw.Heal() == 0 {
		x.t.Error("no packet was dropped: there was no fault")
	}
}

func (x *chaos) cut(which ...int) func() {
	for _, i := range which {
		if err := x.disks[i].Cut(); err != nil {
			x.t.Fatal(err)
		}
	}
	for _, i := range which {
		x.c.Nodes[i].Kill()
	}
	return func() {
		for _, i := range which {
			x.disks[i].Restore()
			x.c.Nodes[i].Start()
		}
	}
}

// step has one thing happen for a while, and waits until the store takes writes through every node again. All kinds come before one comes again.
func (x *chaos) step(number int, clients *testcluster.Clients) {
	if len(x.deck) == 0 {
		for _, f := range faults {
			if only := os.Getenv("QUORATE_CHAOS_FAULTS"); (!f.root || x.nw != nil) && (only == "" || slices.Contains(strings.Split(only, ","), f.name)) {
				x.deck = append(x.deck, f)
			}
		}
		x.random.Shuffle(len(x.deck), func(i, j int) { x.deck[i], x.deck[j] = x.deck[j], x.deck[i] })
	}
	f := x.deck[0]
	x.deck = x.deck[1:]
	hold := 500*time.Millisecond + time.Duration(x.random.Int64N(int64(x.longest)))
	toLeader, other := x.random.IntN(2) == 0, x.random.IntN(3)
	i := other
	if toLeader {
		leader := x.c.Leader(x.cl, x.store).Leader
		i = slices.IndexFunc(x.c.Nodes, func(n *testcluster.Node) bool { return n.Name == leader })
	}
	acks := clients.Acks()
	end := f.begin(x, i)
	over := time.NewTimer(hold) // the time is the fault
	<-over.C
	end()
	x.counts[f.name]++
	x.c.WaitReady()
	healed := clients.WritableSoon()
	x.t.Logf("%3d %-16s of %s (leader: %v) for %v: %d appends meanwhile, writable after %v", number, f.name, x.c.Nodes[i].Name, toLeader, hold.Round(time.Millisecond),
		clients.Acks()-acks, healed.Round(time.Millisecond))
}

// epoch is how many steps have a store to themselves: a history must stay short enough to be judged.
const epoch = 12

func runChaos(t *testing.T, seed uint64, length, longest time.Duration) {
	t.Logf("seed %d; again: make chaos-long SEED=%d CHAOS_TIME=%v", seed, seed, length)
	x := &chaos{t: t, random: rand.New(rand.NewPCG(seed, 1)), longest: longest, counts: make(map[string]int)}
	places := make([]testcluster.Place, 3)
	if os.Getuid() == 0 {
		x.nw, x.disks = testcluster.NewNetwork(t, 3), testcluster.Disks(t, 3)
		places = x.nw.Places()
		for i := range places {
			places[i].Data = filepath.Join(x.disks[i].Dir, "data")
		}
	} else {
		t.Log("NOT RUN: partitions, power cuts and full disks need root; there are kills, pauses and transfers only")
	}
	x.c = testcluster.NewAt(t, places, "--log-level", "debug") // raft says then what it installs
	x.c.Use(testcluster.Small(t))                              // segments roll, snapshots are taken and sent all the time
	for _, n := range x.c.Nodes {
		n.Start()
	}
	x.c.WaitReady()
	x.cl = x.c.Client()
	var all []*testcluster.Clients
	began, steps, acks := time.Now(), 0, 0
	for time.Since(began) < length && !t.Failed() {
		x.store = fmt.Sprintf("epoch-%d", len(all))
		x.c.CreateStore(x.cl, x.store)
		clients := testcluster.NewClients(x.c, x.store, 9, seed+uint64(len(all)))
		all = append(all, clients)
		clients.Start()
		clients.WaitAcks(20)
		for range epoch {
			if x.step(steps, clients); t.Failed() || time.Since(began) >= length {
				break
			}
			steps++
		}
		clients.Stop()
		clients.Check()
		clients.LogCounts(t, 100)
		acks += clients.Acks()
	}
	for _, clients := range all[:max(0, len(all)-1)] { // what was there is still there
		clients.Check()
	}
	for _, n := range x.c.Nodes {
		x.counts["snapshots installed"] += strings.Count(n.Log(), "Installed remote snapshot")
	}
	var did []string
	for name, n := range x.counts {
		did = append(did, fmt.Sprintf("%d %s", n, name))
	}
	slices.Sort(did)
	t.Logf("%v, %d steps, %d appends acknowledged: %s", time.Since(began).Round(time.Second), steps, acks, strings.Join(did, ", "))
	if x.counts["snapshots installed"] == 0 {
		t.Error("no replica was sent a snapshot")
	}
	if least := int(length / (15 * time.Second)); steps < least || acks < 50*least {
		t.Errorf("%d faults and %d acknowledged appends in %v are too few to show anything", steps, acks, length)
	}
}

// TestChaos lets things happen at random, for 40 seconds, or for QUORATE_CHAOS_TIME from QUORATE_CHAOS_SEED (make chaos-long). QUORATE_CHAOS_FAULTS, separated by commas, picks
// kinds.
func TestChaos(t *testing.T) {
	length, longest, seed := 40*time.Second, 2*time.Second, uint64(1)
	if s := os.Getenv("QUORATE_CHAOS_TIME"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatalf("QUORATE_CHAOS_TIME: %v", err)
		}
		longest, seed = 12*time.Second, uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("QUORATE_CHAOS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("QUORATE_CHAOS_SEED: %v", err)
		}
	}
	runChaos(t, seed, length, longest)
}
