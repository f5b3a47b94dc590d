package client_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

const fillEvents = 100_000

var fill sync.Once

// filled returns a store of 256-byte events.
func filled(ctx context.Context, b *testing.B, cl *client.Client) *client.Store {
	b.Helper()
	if _, err := cl.CreateStore(ctx, "filled", api.ConfigPutRequest{}); err != nil {
		b.Fatal(err)
	}
	st := cl.Store("filled")
	fill.Do(func() {
		data := fmt.Appendf(nil, "%q", strings.Repeat("x", 254))
		for range fillEvents / 500 {
			events := make([]api.NewEvent, 500)
			for i := range events {
				events[i] = api.NewEvent{Type: "Benchmarked", Data: data}
			}
			if _, err := st.Append(ctx, "s", events, client.Any); err != nil {
				b.Fatal(err)
			}
		}
	})
	return st
}

// BenchmarkCatchUp reads a store from its beginning; an operation is an event.
func BenchmarkCatchUp(b *testing.B) {
	ctx := context.Background()
	cl, done := connect()
	defer done()
	st := filled(ctx, b, cl)
	b.ReportAllocs()
	b.ResetTimer()
	for read := 0; read < b.N; {
		for _, err := range st.ReadAll(ctx, client.ReadOptions{Limit: b.N - read}) {
			if err != nil {
				b.Fatal(err)
			}
			read++
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkMessages consumes a durable subscription and acknowledges every event; an operation is an event, of which there are as many as the store has at most.
func BenchmarkMessages(b *testing.B) {
	ctx := context.Background()
	cl, done := connect()
	defer done()
	sub := filled(ctx, b, cl).Subscription(fmt.Sprintf("bench-%d", b.N))
	if b.N > fillEvents {
		b.Skipf("there are %d events; use -benchtime %dx", fillEvents, fillEvents)
	}
	_, _ = sub.Delete(ctx) // of a run before, with as many
	if _, err := sub.Create(ctx, api.SubscriptionConfig{}); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	n := 0
	for m, err := range sub.Messages(ctx, client.ConsumeOptions{}) {
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Ack(); err != nil {
			b.Fatal(err)
		}
		if n++; n == b.N {
			break
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
