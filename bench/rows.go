package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// throughput measures the rows that need all systems at once: one is loaded, the others idle.
func throughput(ctx context.Context, c config, systems []system, r *report) error {
	const busy = 64 // stores
	for _, s := range systems {
		defer s.stop()
		if err := s.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
		if err := all(busy, 4, func(i int) error { return s.store(ctx, i) }); err != nil {
			return fmt.Errorf("%s: create stores: %w", s.name(), err)
		}
	}
	for _, row := range []struct {
		clients, stores, size int
	}{{1, 1, 256}, {16, 1, 256}, {64, 1, 256}, {256, 1, 256}, {64, 64, 256}, {64, 1, 4096}} {
		name := fmt.Sprintf("%s, %s, %d bytes", count(row.clients, "client"), count(row.stores, "store"), row.size)
		if !c.rows.MatchString(name) {
			continue
		}
		res := result{Name: name, Unit: "acknowledged appends/s", Values: map[string][]float64{}, Errors: map[string]int64{}}
		cpu := result{Name: name + ": processor an append, nodes and clients", Unit: "µs", LowerBetter: true, Values: map[string][]float64{}}
		for range c.rounds {
			for _, s := range systems {
				var l loaded
				err := profiled(ctx, c, name, s, func() (err error) {
					l, err = load(ctx, s, row.clients, row.stores, row.size, c.slice)
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", s.name(), err)
				}
				res.Values[s.name()] = append(res.Values[s.name()], l.rate)
				res.Errors[s.name()] += l.failed
				cpu.Values[s.name()] = append(cpu.Values[s.name()], l.micros)
			}
		}
		r.add(res)
		r.add(cpu)
	}
	if c.rows.MatchString("catch-up bytes on disk") {
		return reading(ctx, c, systems, r, busy)
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// loaded is what a load came to.
type loaded struct {
	rate   float64 // acknowledged appends a second
	micros float64 // of processor an append, in the nodes and the clients
	failed int64
}

// load runs clients, each with one request under way.
func load(ctx context.Context, s system, clients, stores, size int, length time.Duration) (l loaded, err error) {
	conns := make([]client, clients)
	for i := range conns {
		if conns[i], err = s.client(i % 3); err != nil {
			return l, err
		}
		defer conns[i].close()
	}
	payload := payloadOf(size)
	var acked, failed atomic.Int64
	var counting atomic.Bool
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i, conn := range conns {
		wg.Add(1)
		go func() { // ends with ctx
			defer wg.Done()
			for ctx.Err() == nil {
				try, stop := context.WithTimeout(ctx, 10*time.Second)
				err := conn.append(try, i%stores, i, payload)
				stop()
				switch {
				case ctx.Err() != nil:
				case err != nil:
					failed.Add(1)
				case counting.Load():
					acked.Add(1)
				}
			}
		}()
	}
	wait(ctx, length/4) // until it runs evenly
	counting.Store(true)
	began, before := time.Now(), spent(s)
	wait(ctx, length)
	took, used := time.Since(began), spent(s)-before
	n := float64(acked.Load())
	cancel()
	wg.Wait()
	return loaded{rate: n / took.Seconds(), micros: float64(used.Microseconds()) / max(n, 1), failed: failed.Load()}, nil
}

func payloadOf(size int) []byte {
	b := append([]byte(`"`), bytes.Repeat([]byte("payload "), size/8+1)...)
	return append(b[:size-1], '"')
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// reading fills a store and reads it from its beginning, and looks at what it takes on disk.
func reading(ctx context.Context, c config, systems []system, r *report, store int) error {
	disk := result{Name: fmt.Sprintf("disk a 256-byte event and node, %d events, settled", c.events), Unit: "bytes", LowerBetter: true, Values: map[string][]float64{}}
	read := result{Name: fmt.Sprintf("read %d events from the beginning, 1 client", c.events), Unit: "events/s", Values: map[string][]float64{}}
	for _, s := range systems {
		if err := s.store(ctx, store); err != nil {
			return err
		}
		settled(ctx, s)
		before := s.nodes().disk()
		payload := payloadOf(256)
		err := all(64, 64, func(i int) error {
			conn, err := s.client(i % 3)
			if err != nil {
				return err
			}
			defer conn.close()
			for n := i; n < c.events && err == nil; n += 64 {
				err = conn.append(ctx, store, i, payload)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: fill: %w", s.name(), err)
		}
		settled(ctx, s)
		disk.Values[s.name()] = []float64{float64(s.nodes().disk()-before) / 3 / float64(c.events)}
	}
	r.add(disk)
	for range c.rounds {
		for _, s := range systems {
			began := time.Now()
			n, err := s.readAll(ctx, store)
			if err != nil || n != c.events {
				return fmt.Errorf("%s: read %d of %d events: %w", s.name(), n, c.events, err)
			}
			read.Values[s.name()] = append(read.Values[s.name()], float64(n)/time.Since(began).Seconds())
		}
	}
	r.add(read)
	return nil
}

// settled waits until the files no longer change for some seconds.
func settled(ctx context.Context, s system) {
	last, same := int64(-1), 0
	for same < 8 && ctx.Err() == nil {
		wait(ctx, 500*time.Millisecond)
		if now := s.nodes().disk(); now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
}

// many measures what a thousand stores cost and how they fail over, one system at a time.
func many(ctx context.Context, c config, systems []system, r *report) error {
	if !c.rows.MatchString("many stores") {
		return nil
	}
	for _, s := range systems {
		s.stop()
	}
	vals := func() map[string][]float64 { return map[string][]float64{} }
	n := fmt.Sprintf("%d stores: ", c.stores)
	create := result{Name: n + "creating them, 16 at once", Unit: "stores/s", Values: vals()}
	idle := result{Name: n + "idle, all three nodes", Unit: "cores", LowerBetter: true, Values: vals()}
	mem := result{Name: n + "resident memory a node", Unit: "MB", LowerBetter: true, Values: vals()}
	half := result{Name: n + "kill -9 of the node that leads most: half of them accept writes", Unit: "s", LowerBetter: true, Values: vals()}
	most := result{Name: n + "the same: 99 % of them", Unit: "s", LowerBetter: true, Values: vals()}
	last := result{Name: n + "the same: all of them", Unit: "s", LowerBetter: true, Values: vals()}
	for _, s := range systems {
		name := s.name()
		if err := s.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		began := time.Now()
		err := all(c.stores, 16, func(i int) error {
			return eventually(ctx, "the store is made", func() error {
				try, stop := context.WithTimeout(ctx, 20*time.Second)
				defer stop()
				return s.store(try, i)
			})
		})
		if err != nil {
			return fmt.Errorf("%s: create stores: %w", name, err)
		}
		create.Values[name] = []float64{float64(c.stores) / time.Since(began).Seconds()}
		if _, err := recovered(ctx, s, c.stores); err != nil { // each is written to once
			return fmt.Errorf("%s: %w", name, err)
		}
		settled(ctx, s)
		wait(ctx, 30*time.Second)
		const window = 20 * time.Second
		cpu := s.nodes().cpu()
		wait(ctx, window)
		idle.Values[name] = []float64{(s.nodes().cpu() - cpu).Seconds() / window.Seconds()}
		mem.Values[name] = s.nodes().memory()
		if err := s.killLeaderOfMost(ctx); err != nil {
			return err
		}
		took, err := recovered(ctx, s, c.stores)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		half.Values[name], most.Values[name], last.Values[name] = []float64{took[len(took)/2]}, []float64{took[len(took)*99/100]}, []float64{took[len(took)-1]}
		s.stop()
	}
	for _, row := range []result{create, idle, mem, half, most, last} {
		r.add(row)
	}
	return nil
}

// recovered writes to every store until each has accepted a write, and returns after how many seconds each did, in order. Nodes that are down are left out by
// the clients.
func recovered(ctx context.Context, s system, stores int) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var conns []client
	for i := range 3 {
		if s.nodes().cmds[i] != nil {
			for range 2 * runtime.NumCPU() {
				conn, err := s.client(i)
				if err != nil {
					return nil, err
				}
				defer conn.close()
				conns = append(conns, conn)
			}
		}
	}
	began := time.Now()
	var mu sync.Mutex
	var took []float64
	err := all(stores, stores, func(i int) error {
		for ctx.Err() == nil {
			try, stop := context.WithTimeout(ctx, 500*time.Millisecond)
			err := conns[i%len(conns)].append(try, i, 0, []byte(`"x"`))
			stop()
			if err == nil {
				mu.Lock()
				took = append(took, time.Since(began).Seconds())
				mu.Unlock()
				return nil
			}
			wait(ctx, 20*time.Millisecond)
		}
		return fmt.Errorf("store %d accepts no write: %w", i, ctx.Err())
	})
	return took, err
}
