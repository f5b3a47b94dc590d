package main

import (
	"context"
	"fmt"
	"time"
)

// readRows are the rows about reading, and about what that takes on disk.
type readRows struct {
	disk, state, stream, whole *result
	inStream                   int // events of the stream that is read
}

func newReadRows(events int) readRows {
	var r readRows
	for i := range events {
		if readWriter(i%64) == 0 {
			r.inStream++
		}
	}
	n := thousands(events)
	r.disk = newResult(topicRead, "disk a 256 B event and node, settled", "bytes").lower().goal(atMost(512)).
		note(n + " events, each an append of its own; log and state. Segments of the log are of fixed size, whatever is in them")
	r.state = newResult(topicRead, "disk a 256 B event and node, without the log", "bytes").lower()
	r.stream = newResult(topicRead, "read a stream of "+thousands(r.inStream)+" events, 1 client", "events/s")
	r.whole = newResult(topicRead, "catch up with a store of "+n+" events, 1 client", "events/s").goal(atLeast(1, nameDefault)).
		note("JetStream: an ordered consumer. etcd: ranges of keys; the events of a stream are in order, those of a store are not")
	return r
}

func (r readRows) all() []*result { return []*result{r.disk, r.state, r.stream, r.whole} }

// reading fills a store, looks at what it takes on disk, and reads it from its beginning.
func (b *bench) reading(ctx context.Context, r readRows) {
	if ctx.Err() != nil || !b.wanted(r.all()...) || b.late(r.all()...) {
		return
	}
	for _, s := range b.systems {
		b.progress("%s: filling a store with %s events", s.name(), thousands(b.events))
		s.nodes().settled(ctx)
		before, beforeState := b.onDisk(s)
		if err := b.fillSlowly(ctx, s); err != nil {
			fail(ctx, s, fmt.Errorf("fill: %w", err), r.all()...)
			continue
		}
		s.nodes().settled(ctx)
		after, afterState := b.onDisk(s)
		r.disk.took(ctx, s, (after-before)/float64(b.events), nil)
		r.state.took(ctx, s, (afterState-beforeState)/float64(b.events), nil)
	}
	b.add(ctx, r.disk, r.state)
	b.measure(ctx, b.systems, r.stream, func(s system) (float64, error) {
		return timed(r.inStream, func() (int, error) { return s.readStream(ctx, busy, 0) })
	})
	b.measure(ctx, b.systems, r.whole, func(s system) (float64, error) {
		return timed(b.events, func() (int, error) { return s.readAll(ctx, busy, 0, 0) })
	})
}

// readWriter gives every other event to stream 0, so that a long stream is read that lies between others.
func readWriter(client int) int {
	if client%2 == 0 {
		return 0
	}
	return client
}

// fillSlowly appends one event a request, as a service does, so that what is on disk is what that leaves.
func (b *bench) fillSlowly(ctx context.Context, s system) error {
	payload := payloadOf(256)
	return all(64, 64, func(i int) error {
		conn, err := s.client(i % 3)
		if err != nil {
			return err
		}
		defer conn.close()
		for n := i; n < b.events && err == nil; n += 64 {
			try, stop := context.WithTimeout(ctx, time.Minute)
			err = conn.append(try, busy, readWriter(i), payload)
			stop()
		}
		return err
	})
}

// onDisk is what a node's files take: all of them, and those of the state.
func (b *bench) onDisk(s system) (whole, state float64) {
	return float64(s.nodes().disk(func(string) bool { return true })) / 3,
		float64(s.nodes().disk(func(path string) bool { return !s.isLog(path) })) / 3
}

// timed is how many events a second were read; fewer or more than there are is an error.
func timed(want int, read func() (int, error)) (float64, error) {
	began := time.Now()
	n, err := read()
	if err == nil && n != want {
		err = fmt.Errorf("read %d of %d events", n, want)
	}
	return float64(n) / time.Since(began).Seconds(), err
}
