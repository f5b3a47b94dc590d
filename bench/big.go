package main

import (
	"context"
	"fmt"
	"time"
)

// bigRows are the rows about a store of ten million events.
type bigRows struct {
	fill, disk, state    *result
	full, empty, against *result
	ready, caughtUp      *result
	middle               *result
}

func newBigRows(events int) bigRows {
	n := thousands(events) + " events in a store: "
	return bigRows{
		fill: newResult(topicBig, n+"writing them", "events/s").
			note("Quorate: a thousand events an append, fsynced. JetStream, default: asynchronous publishing, not fsynced"),
		disk:  newResult(topicBig, n+"disk an event and node, settled", "bytes").lower().goal(atMost(512)).note("log and state; 256 bytes of payload"),
		state: newResult(topicBig, n+"disk an event and node, without the log", "bytes").lower(),
		full:  newResult(topicBig, n+"64 clients append to it", "acknowledged appends/s"),
		empty: newResult(topicBig, n+"64 clients append to an empty store beside it", "acknowledged appends/s").note("in turn with the appends to the big one"),
		against: newResult(topicBig, n+"append rate, as a share of the empty store's", "ratio").goal(atLeast(0.9, "")).
			note("of measurements that were taken one after the other"),
		ready:    newResult(topicBig, n+"kill -9 and start of a node: ready", "s").lower().goal(atMost(2)),
		caughtUp: newResult(topicBig, n+"kill -9 and start of a node: replicas have caught up", "s").lower(),
		middle:   newResult(topicBig, n+"catch up from the middle, 1 client", "events/s"),
	}
}

func (r bigRows) all() []*result {
	return []*result{r.fill, r.disk, r.state, r.full, r.empty, r.against, r.ready, r.caughtUp, r.middle}
}

// big measures a store of many events, one system at a time.
func (b *bench) big(ctx context.Context) {
	r := newBigRows(b.config.big)
	if ctx.Err() != nil || b.config.big <= 0 || !b.wanted(r.all()...) {
		return
	}
	for _, s := range b.systems {
		if ctx.Err() != nil {
			return
		}
		if err := s.noFill(); err != nil {
			fail(ctx, s, err, r.all()...)
			continue
		}
		for range b.start(ctx, s) {
			if err := b.bigOf(ctx, s, r); err != nil {
				fail(ctx, s, err, r.all()...)
			}
			s.stop()
		}
	}
	b.add(ctx, r.all()...)
}

func (b *bench) bigOf(ctx context.Context, s system, r bigRows) error {
	const full, empty = 0, 1
	if err := notLeft(makeStores(ctx, s, 0, 2, 1)); err != nil {
		return err
	}
	b.progress("%s: filling a store with %s events", s.name(), thousands(b.config.big))
	before, beforeState := b.onDisk(s)
	began := time.Now()
	if err := b.fill(ctx, s, full); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	r.fill.took(ctx, s, float64(b.config.big)/time.Since(began).Seconds(), nil)
	b.progress("%s: filled in %s, settling", s.name(), time.Since(began).Round(time.Second))
	s.nodes().settled(ctx)
	after, afterState := b.onDisk(s)
	r.disk.took(ctx, s, (after-before)/float64(b.config.big), nil)
	r.state.took(ctx, s, (afterState-beforeState)/float64(b.config.big), nil)

	b.progress("%s: appends to it and to an empty store, in turn", s.name())
	for range b.config.rounds {
		var rates [2]float64
		for store, row := range []*result{full: r.full, empty: r.empty} {
			var err error
			if rates[store], err = load(ctx, s, row, 64, store, 1, 256, b.slice); err != nil {
				return err
			}
			row.took(ctx, s, rates[store], nil)
		}
		r.against.took(ctx, s, rates[full]/rates[empty], nil)
	}

	part := min(b.config.big/2, 500_000)
	b.progress("%s: reading %s events from the middle", s.name(), thousands(part))
	for range b.config.rounds {
		v, err := timed(part, func() (int, error) { return s.readAll(ctx, full, b.config.big/2, part) })
		if err != nil {
			return err
		}
		r.middle.took(ctx, s, v, nil)
	}

	for i := range min(failovers, b.config.rounds) {
		b.progress("%s: killing n%d and starting it again", s.name(), i+1)
		s.nodes().kill(i)
		ready, caughtUp, err := restarted(ctx, s, i, 2)
		if err != nil {
			return err
		}
		r.ready.took(ctx, s, ready, nil)
		r.caughtUp.took(ctx, s, caughtUp, nil)
	}
	return nil
}

// fill fills the store and says now and then how far it is, by what is on disk.
func (b *bench) fill(ctx context.Context, s system, store int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.fill(ctx, store, b.config.big, payloadOf(256)) }() // ends with ctx
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			whole, _ := b.onDisk(s)
			b.progress("%s: %.2f GB a node", s.name(), whole/1e9)
		}
	}
}
