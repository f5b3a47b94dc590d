// Package bench measures a cluster of three processes on this machine. Absolute figures of such a machine say little; the ratios are taken side by side in one
// run: A B A B, each against plain request and reply through the same connections.
//
//	BENCH=1 go test -count=1 -v -run TestBench ./internal/bench
package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/internal/testcluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testcluster.CleanUp()
	os.Exit(code)
}

const (
	slice   = 1500 * time.Millisecond // of one measurement
	repeats = 5
)

// row is one line of the report.
type row struct {
	name            string
	clients, stores int
}

// TestBench prints the table.
func TestBench(t *testing.T) {
	if os.Getenv("BENCH") == "" {
		t.Skip("NOT RUN: a benchmark, not a test; make bench")
	}
	c := testcluster.Start(t, 3)
	cl := c.Client()
	const stores = 16
	for i := range stores {
		c.CreateStore(cl, fmt.Sprintf("s%d", i))
	}
	var conns []*nats.Conn
	for i := range 12 {
		conns = append(conns, c.Nodes[i%3].Connect())
	}
	payload := fmt.Sprintf(`{"events":[{"type":"Benchmarked","data":%q}]}`, strings.Repeat("x", 256))
	fmt.Printf("%-34s %24s %24s %26s\n", "", "appends/s", "request and reply/s", "ratio")
	fmt.Printf("%-34s %24s %24s %26s\n", "256-byte events, 3 nodes", "min / median / max", "min / median / max", "min / median / max")
	for _, r := range []row{{"1 client, 1 store", 1, 1}, {"16 clients, 1 store", 16, 1}, {"64 clients, 1 store", 64, 1}, {"64 clients, 16 stores", 64, stores}} {
		var appends, replies, ratios []float64
		for range repeats {
			a := rate(t, conns, r.clients, func(client int) (string, string) {
				return fmt.Sprintf("es.s%d.write.append.c-%d", client%r.stores, client), payload
			})
			b := rate(t, conns, r.clients, func(client int) (string, string) {
				return fmt.Sprintf("es.s%d.read.info", client%r.stores), `{"consistency":"local"}`
			})
			appends, replies, ratios = append(appends, a), append(replies, b), append(ratios, a/b)
		}
		fmt.Printf("%-34s %24s %24s %26s\n", r.name, spread(appends, "%.0f"), spread(replies, "%.0f"), spread(ratios, "%.3f"))
	}
	var outages []float64
	for range repeats {
		outages = append(outages, failover(t, c).Seconds())
	}
	fmt.Printf("%-34s %24s seconds from kill -9 of the leader to the next acknowledged append\n", "failover", spread(outages, "%.2f"))
}

// rate lets so many clients send one request after the other for a while.
func rate(t *testing.T, conns []*nats.Conn, clients int, next func(client int) (subject, payload string)) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slice)
	defer cancel()
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for i := range clients {
		subject, payload := next(i)
		wg.Add(1)
		go func() { // ends with ctx
			defer wg.Done()
			for ctx.Err() == nil {
				m, err := conns[i%len(conns)].Request(subject, []byte(payload), 10*time.Second)
				if err != nil || m.Header.Get("Nats-Service-Error") != "" {
					failed.Add(1)
					continue
				}
				done.Add(1)
			}
		}()
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d requests failed", n)
	}
	return float64(done.Load()) / time.Since(began).Seconds()
}

func failover(t *testing.T, c *testcluster.Cluster) time.Duration {
	t.Helper()
	cl := c.Client()
	leader := c.Node(c.Leader(cl, "s0").Leader)
	var nc *nats.Conn
	for _, n := range c.Nodes {
		if n != leader {
			nc = n.Connect()
		}
	}
	leader.Kill()
	began := time.Now()
	testcluster.Eventually(t, "an append is acknowledged", func() error {
		m, err := nc.Request("es.s0.write.append.failover", []byte(`{"events":[{"type":"T"}]}`), 4*time.Second)
		if err == nil && m.Header.Get("Nats-Service-Error") != "" {
			err = fmt.Errorf("%s", m.Data)
		}
		return err
	})
	took := time.Since(began)
	leader.Start()
	c.WaitReady()
	return took
}

func spread(v []float64, format string) string {
	slices.Sort(v)
	return fmt.Sprintf(format+" / "+format+" / "+format, v[0], v[len(v)/2], v[len(v)-1])
}
