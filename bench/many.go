package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// failovers is how often a node is killed and comes back.
const failovers = 3

// manyRows are the rows about many stores.
type manyRows struct {
	create, idle, memory, load *result
	half, most, last           *result
	ready, caughtUp            *result
}

func newManyRows(stores int) manyRows {
	n := thousands(stores) + " stores"
	killed, back := n+", kill -9 of the node that leads most: ", n+", that node starts again: "
	faster := func(than string) goal { return goal{Than: than, AtMost: 1, Below: true} }
	return manyRows{
		create: newResult(topicStores, n+": making them, 16 at once", "stores/s"),
		idle:   newResult(topicStores, n+", idle: all three nodes", "cores").lower().goal(atMost(0.05)).note("after one append to each"),
		memory: newResult(topicStores, n+", idle: resident memory of each node", "MB").lower().goal(goal{AtMost: 150, Every: true}).
			note("the three values are the three nodes, and the goal is for each"),
		load: appendRow(topicAppends, 64, stores, 256).note("each client goes round the stores; unlike the other rows measured while no other system runs"),
		half: newResult(topicFailover, killed+"half accept writes", "s").lower(),
		most: newResult(topicFailover, killed+"99 % accept writes", "s").lower().goal(atMost(1.5), faster(nameAlways), faster(nameDefault)).
			note("from the instant of the kill every store has a writer at one of the two nodes that live, which tries again after 500 ms without an answer; a node that has come back leads little, so the later kills hit half of the stores"),
		last:  newResult(topicFailover, killed+"all accept writes", "s").lower(),
		ready: newResult(topicFailover, back+"it says that it is ready", "s").lower().note("it has missed a write to every store"),
		caughtUp: newResult(topicFailover, back+"all its replicas have caught up", "s").lower().
			note("Quorate: every store was read there, linearizably. JetStream: /healthz is well. etcd: a linearizable read"),
	}
}

func (m manyRows) all() []*result {
	return []*result{m.create, m.idle, m.memory, m.load, m.half, m.most, m.last, m.ready, m.caughtUp}
}

// many measures what a thousand stores cost and how they fail over, one system at a time, alone on the machine.
func (b *bench) many(ctx context.Context) {
	m := newManyRows(b.stores)
	if ctx.Err() != nil || !b.wanted(m.all()...) || b.late(m.all()...) {
		return
	}
	for _, s := range b.systems {
		if ctx.Err() != nil {
			return
		}
		if b.late(&result{Name: thousands(b.stores) + " stores: " + s.name()}) {
			continue
		}
		for range b.start(ctx, s) {
			b.manyOf(ctx, s, m)
			s.stop()
		}
	}
	b.add(ctx, m.load, m.create, m.idle, m.memory, m.half, m.most, m.last, m.ready, m.caughtUp)
}

func (b *bench) manyOf(ctx context.Context, s system, m manyRows) {
	b.progress("%s: making %s", s.name(), count(b.stores, "store"))
	began := time.Now()
	err := makeStores(ctx, s, 0, b.stores, 16)
	m.create.took(ctx, s, float64(b.stores)/time.Since(began).Seconds(), err)
	if err = notLeft(err); err == nil {
		_, err = recovered(ctx, s, b.stores, nil) // each is written to
	}
	if err != nil {
		fail(ctx, s, err, m.all()...)
		return
	}
	if b.wanted(m.idle, m.memory) {
		b.progress("%s: idle", s.name())
		s.nodes().settled(ctx)
		wait(ctx, b.rest)
		cpu, began := s.nodes().cpu(), time.Now()
		wait(ctx, b.idle)
		m.idle.took(ctx, s, (s.nodes().cpu()-cpu).Seconds()/time.Since(began).Seconds(), nil)
		for _, mb := range s.nodes().memory() {
			m.memory.took(ctx, s, mb, nil)
		}
	}
	if b.wanted(m.load) {
		b.progress("%s: %s", s.name(), m.load.Name)
		for range b.config.rounds {
			v, err := load(ctx, s, m.load, 64, 0, b.stores, 256, b.slice)
			m.load.took(ctx, s, v, err)
			if m.load.over(s) {
				break
			}
		}
	}
	rows := []*result{m.half, m.most, m.last, m.ready, m.caughtUp}
	if !b.wanted(rows...) {
		return
	}
	for range min(failovers, b.config.rounds) {
		s.nodes().settled(ctx)
		if err := b.failover(ctx, s, m); err != nil {
			fail(ctx, s, err, rows...)
			return
		}
	}
}

// failover kills the node that leads most and starts it again.
func (b *bench) failover(ctx context.Context, s system, m manyRows) error {
	victim, share, err := s.leaderOfMost(ctx)
	if err != nil {
		return err
	}
	b.progress("%s: killing n%d, which leads %.0f %%", s.name(), victim+1, 100*share)
	took, err := recovered(ctx, s, b.stores, &victim)
	if err != nil {
		return err
	}
	at := func(percent int) float64 { return took[(len(took)*percent+99)/100-1] }
	m.half.took(ctx, s, at(50), nil)
	m.most.took(ctx, s, at(99), nil)
	m.last.took(ctx, s, at(100), nil)
	ready, caughtUp, err := restarted(ctx, s, victim, b.stores)
	if err != nil {
		return err
	}
	m.ready.took(ctx, s, ready, nil)
	m.caughtUp.took(ctx, s, caughtUp, nil)
	return nil
}

// restarted starts a node that was killed, and returns after how many seconds it said that it was ready, and after how many its replicas had caught up.
func restarted(ctx context.Context, s system, node, stores int) (ready, caughtUp float64, err error) {
	began := time.Now()
	if err := s.restart(node); err != nil {
		return 0, 0, err
	}
	if err := eventually(ctx, "the node is ready", func() error { return s.ready(ctx, node) }); err != nil {
		return 0, 0, err
	}
	ready = time.Since(began).Seconds()
	err = eventually(ctx, "the node has caught up", func() error { return s.caughtUp(ctx, node, stores) })
	return ready, time.Since(began).Seconds(), err
}

// recovered kills the victim, if there is one, and writes to every store until each has accepted a write that began after that. It returns after how many
// seconds each did, in order. Every store has a writer of its own from the instant of the kill. (More tries at once, one every 200 ms whatever has become of
// those before, were tried: systems that keep requests for the next leader then carry all of them out, and what is measured is that load.) The clients are
// connected to nodes that live on.
func recovered(ctx context.Context, s system, stores int, victim *int) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var conns []client
	for _, i := range s.nodes().up() {
		if victim != nil && i == *victim {
			continue
		}
		for range 4 {
			conn, err := s.client(i)
			if err != nil {
				return nil, err
			}
			defer conn.close()
			conns = append(conns, conn)
		}
	}
	atOnce := 64
	if victim != nil {
		atOnce = stores
		s.nodes().kill(*victim)
	}
	began := time.Now()
	var mu sync.Mutex
	var took []float64
	err := all(stores, atOnce, func(i int) error {
		if err := insist(ctx, conns[i%len(conns)], i); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		took = append(took, time.Since(began).Seconds())
		return nil
	})
	slices.Sort(took)
	return took, err
}

// insist appends to a store until one append is acknowledged, as a writer does: one request at a time, given up after half a second.
func insist(ctx context.Context, conn client, store int) error {
	for {
		try, stop := context.WithTimeout(ctx, 500*time.Millisecond)
		err := conn.append(try, store, 0, []byte(`"x"`))
		stop()
		if err == nil {
			return nil
		}
		wait(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("store %d accepts no write: %w", store, err)
		}
	}
}
