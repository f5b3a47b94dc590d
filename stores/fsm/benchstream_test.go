package fsm

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// BenchmarkLifecycle is BenchmarkApply where streams have states: none has one, only others do, and each keeps its last ten events. Then what reading a page of 100 costs.
func BenchmarkLifecycle(b *testing.B) {
	for _, streams := range []int{10, 10_000} {
		for _, kind := range []string{"no state", "others have one", "counted"} {
			f := openLazy(b, filepath.Join(b.TempDir(), "state.db"))
			defer f.Close()
			l := newLoad(streams, 0)
			preload(b, f, l, 100_000)
			set := func(stream string) {
				l.index++
				f.Apply(&raft.Log{Index: l.index, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{ChangeBody(&StreamChange{
					Op: StreamMetadata, Stream: stream, Expected: api.ExpectAny, MaxCount: 10,
				})})})
			}
			for i := range map[string]int{"no state": 0, "others have one": 1, "counted": streams}[kind] {
				set(map[bool]string{true: "another", false: fmt.Sprint("order-", i)}[kind == "others have one"])
			}
			b.Run(fmt.Sprintf("apply/streams=%d/%s", streams, kind), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					batch := l.batch(64)
					b.StartTimer()
					f.ApplyBatch(batch)
				}
				if err := f.Flush(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "events/s")
			})
			b.Run(fmt.Sprintf("read/streams=%d/%s", streams, kind), func(b *testing.B) {
				for b.Loop() {
					if _, err := f.ReadAll(AllQuery{FromEnd: true, Backward: true, Limit: 100, MaxBytes: noLimit, Now: testTime}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
