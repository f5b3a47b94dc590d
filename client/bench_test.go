package client_test

import (
	"context"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// BenchmarkCatchUp reads a store of 256-byte events from its beginning; an operation is an event.
func BenchmarkCatchUp(b *testing.B) {
	ctx := context.Background()
	cl, done := connect()
	defer done()
	if _, err := cl.CreateStore(ctx, "catch_up", api.ConfigPutRequest{}); err != nil {
		b.Fatal(err)
	}
	st := cl.Store("catch_up")
	fill.Do(func() {
		data := make([]byte, 0, 256)
		data = append(data, '"')
		for len(data) < 255 {
			data = append(data, byte('a'+len(data)%26))
		}
		data = append(data, '"')
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
	b.ReportAllocs()
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

const fillEvents = 100_000

var fill sync.Once
