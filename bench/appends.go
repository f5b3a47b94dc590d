package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// busy is how many stores there are in the rows that measure all systems in turn; the store after them is the one that is read.
const busy = 64

// appendRow is a row about throughput.
func appendRow(topic string, clients, stores, size int) *result {
	r := newResult(topic, fmt.Sprintf("%s, %s, %s", count(clients, "client"), count(stores, "store"), bytesOf(size)), "acknowledged appends/s")
	switch {
	case size != 256:
	case clients == 1 && stores == 1:
		r.goal(atLeast(2, nameAlways))
	case clients == 64 && stores == 1:
		r.goal(atLeast(2, nameAlways), atLeast(1, nameDefault))
	case clients == 64 && stores == busy:
		r.goal(atLeast(4, nameAlways), atLeast(1.3, nameDefault))
	}
	return r
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

func bytesOf(n int) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%d KiB", n/1024)
	}
	return fmt.Sprintf("%d B", n)
}

// thousands writes 10,000,000 for ten million.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// appendCases are the rows about throughput that measure all systems in turn; quick ones are essential.
var appendCases = []struct {
	clients, stores, size int
	quick                 bool
}{{1, 1, 256, true}, {16, 1, 256, false}, {64, 1, 256, true}, {256, 1, 256, false}, {64, busy, 256, true}, {64, 1, 4096, false}, {64, busy, 4096, false}}

// together measures the rows that need all systems at once: one is loaded, the others idle.
func (b *bench) together(ctx context.Context) {
	var rows []*result
	for _, k := range appendCases {
		rows = append(rows, appendRow(topicAppends, k.clients, k.stores, k.size))
	}
	floors := []*result{floorRow(1), floorRow(64)}
	nears := make([]*result, len(nearCases))
	for i, k := range nearCases {
		nears[i] = nearRow(k.clients, k.stores)
	}
	rows = append(append(rows, floors...), nears...)
	read := newReadRows(b.events)
	if !b.wanted(append(read.all(), rows...)...) {
		return
	}
	for _, s := range b.start(ctx, b.systems...) {
		b.progress("%s: making %d stores", s.name(), busy+1)
		if err := notLeft(makeStores(ctx, s, 0, busy+1, 4)); err != nil {
			b.drop(s, fmt.Errorf("making stores: %w", err))
		}
	}
	for i, k := range appendCases {
		if !b.quick || k.quick {
			b.measure(ctx, b.systems, rows[i], func(s system) (float64, error) {
				return load(ctx, s, rows[i], k.clients, 0, k.stores, k.size, b.slice)
			})
		}
	}
	beside := func(row *result, as func(*quorate) system, clients, stores int) {
		b.measure(ctx, b.quorates(as), row, func(s system) (float64, error) { return load(ctx, s, row, clients, 0, stores, 256, b.slice) })
	}
	for i, clients := range []int{1, 64} {
		beside(floors[i], func(q *quorate) system { return floor{q} }, clients, 1)
	}
	for i, k := range nearCases {
		if !b.quick {
			beside(nears[i], func(q *quorate) system { return near{q} }, k.clients, k.stores)
		}
	}
	b.reading(ctx, read)
	b.stop()
}

// floorRow is a row about what an append cannot be cheaper than.
func floorRow(clients int) *result {
	return newResult(topicAppends, fmt.Sprintf("%s, the floor: requests that another node answers at once", count(clients, "client")), "answers/s").
		note("256 bytes to a node that is not the client's, and a reply: what NATS costs an append to a leader elsewhere, without Raft, log, and state; the service's own PING")
}

// nearCases are the rows about clients that look for the leader.
var nearCases = []struct{ clients, stores int }{{1, 1}, {64, 1}, {64, busy}}

// nearRow is a row about what a client would gain that knows who leads.
func nearRow(clients, stores int) *result {
	return newResult(topicAppends, fmt.Sprintf("%s, %s, at the leader's node", count(clients, "client"), count(stores, "store")), "acknowledged appends/s").
		note("256 bytes; as the row above of as many clients and stores, whose clients are spread over the nodes, but each connected to the node that leads its store")
}

// quorates are the builds of Quorate that are measured, each as the function has it.
func (b *bench) quorates(as func(*quorate) system) (list []system) {
	for _, s := range b.systems {
		if q, ok := s.(*quorate); ok {
			list = append(list, as(q))
		}
	}
	return list
}

// load runs clients, each with one request under way, over the stores from first on, and returns acknowledged appends a second. Errors are counted in the row.
func load(ctx context.Context, s system, row *result, clients, first, stores, size int, length time.Duration) (float64, error) {
	conns := make([]client, clients)
	for i := range conns {
		conn, err := s.client(i % 3)
		if err != nil {
			return 0, err
		}
		defer conn.close()
		conns[i] = conn
	}
	payload := payloadOf(size)
	var acked, failed atomic.Int64
	var lastErr atomic.Pointer[error]
	var counting atomic.Bool
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, conn := range conns {
		wg.Add(1)
		go func() { // ends with ctx
			defer wg.Done()
			for n := i; ctx.Err() == nil; n += clients {
				try, stop := context.WithTimeout(ctx, 10*time.Second)
				err := conn.append(try, first+n%stores, i, payload)
				stop()
				switch {
				case ctx.Err() != nil:
				case err != nil:
					failed.Add(1)
					lastErr.Store(&err)
					wait(ctx, time.Millisecond)
				case counting.Load():
					acked.Add(1)
				}
			}
		}()
	}
	wait(ctx, length/4) // until it runs evenly
	counting.Store(true)
	began, nodes, own := time.Now(), s.nodes().cpu(), ownCPU()
	wait(ctx, length)
	n, took := acked.Load(), time.Since(began)
	nodes, own = s.nodes().cpu()-nodes, ownCPU()-own
	cancel()
	wg.Wait()
	row.Errors[s.name()] += failed.Load()
	if n == 0 {
		err := errors.New("no answer")
		if last := lastErr.Load(); last != nil {
			err = *last
		}
		return 0, fmt.Errorf("no append was acknowledged in %s: %w", took.Round(time.Millisecond), err)
	}
	row.Costs[s.name()] = append(row.Costs[s.name()], cost{micros(nodes, n), micros(own, n)})
	return float64(n) / took.Seconds(), nil
}

// micros is a share of the time in microseconds.
func micros(d time.Duration, n int64) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(n) }

// payloadOf is a JSON text of the size.
func payloadOf(size int) []byte {
	b := append([]byte(`"`), bytes.Repeat([]byte("payload "), size/8+1)...)
	return append(b[:size-1], '"')
}
