package fsm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// load makes entries of one 256-byte event each, as clients do: a random id, and a stream drawn from so many.
type load struct {
	rnd     *rand.Rand
	streams int
	tags    int // an event, drawn from 100,000
	index   uint64
	data    []byte
}

func newLoad(streams int, index uint64) *load {
	l := &load{rnd: rand.New(rand.NewPCG(1, index)), streams: streams, index: index, data: make([]byte, 256)}
	for i := range l.data {
		l.data[i] = byte('a' + i%26)
	}
	l.data[0], l.data[255] = '"', '"'
	return l
}

func (l *load) batch(n int) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		l.index++
		var tags []string
		for t := range l.tags {
			tags = append(tags, fmt.Sprint("tag", t, ":", l.rnd.IntN(100_000)))
		}
		logs[i] = &raft.Log{Index: l.index, Term: 1, Type: raft.LogCommand, Data: Encode(Append{
			Time: testTime + int64(l.index), Stream: fmt.Sprint("order-", l.rnd.IntN(l.streams)), Expected: api.ExpectAny,
			Events: []EventRecord{{ID: fmt.Sprintf("%022x", l.rnd.Uint64()), Type: "OrderPlaced", Data: l.data, JSON: true, Tags: tags}},
		})}
	}
	return logs
}

// openLazy opens an FSM that is flushed a second after it became dirty, as stores.Store does.
func openLazy(t testing.TB, path string) *FSM {
	var f *FSM
	f, err := Open(Config{Path: path, Store: testStore, Incarnation: testIncarnation, OnDirty: func() { time.AfterFunc(time.Second, func() { f.Flush() }) }})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// preload applies so many events, printing how fast.
func preload(t testing.TB, f *FSM, l *load, events int) {
	for done := 0; done < events; {
		n := min(64, events-done)
		f.ApplyBatch(l.batch(n))
		done += n
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkApply applies 256-byte events, 64 entries a batch; what is applied is flushed in the end, and counted.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct{ streams, before int }{{10, 0}, {100_000, 0}, {10, 2_000_000}, {100_000, 2_000_000}} {
		b.Run(fmt.Sprintf("streams=%d/before=%d", c.streams, c.before), func(b *testing.B) {
			if c.before > 0 && testing.Short() {
				b.Skip("long")
			}
			f := openLazy(b, filepath.Join(b.TempDir(), "state.db"))
			defer f.Close()
			l := newLoad(c.streams, 0)
			preload(b, f, l, c.before)
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
	}
}

// TestSoak fills a store with QUORATE_FSM_SOAK events of QUORATE_FSM_TAGS tags each over QUORATE_FSM_STREAMS streams and prints, for every tenth, how fast, and how big it is.
func TestSoak(t *testing.T) {
	total, _ := strconv.Atoi(os.Getenv("QUORATE_FSM_SOAK"))
	if total == 0 {
		t.Skip("QUORATE_FSM_SOAK is not set; it says how many events")
	}
	streams, _ := strconv.Atoi(os.Getenv("QUORATE_FSM_STREAMS"))
	path := filepath.Join(t.TempDir(), "state.db")
	f := openLazy(t, path)
	l := newLoad(max(streams, 10), 0)
	l.tags, _ = strconv.Atoi(os.Getenv("QUORATE_FSM_TAGS"))
	for done := 0; done < total; done += total / 10 {
		var spent, longest time.Duration
		cpu := cpuUsed(t)
		for n := 0; n < total/10; n += 64 {
			batch := l.batch(64)
			start := time.Now()
			f.ApplyBatch(batch)
			d := time.Since(start)
			spent, longest = spent+d, max(longest, d)
		}
		start := time.Now()
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		spent += time.Since(start)
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%9d events: %8.0f events/s, %.2f µs of processor an event with making it, longest batch %v, %5.0f bytes on disk an event", info.Events, float64(total/10)/spent.Seconds(), float64((cpuUsed(t)-cpu).Nanoseconds())/1000/float64(total/10), longest.Round(time.Millisecond/10), float64(diskUsed(t, path))/float64(info.Events))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	f = openLazy(t, path)
	opened := time.Since(start)
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("opened in %v, %d KB heap", opened.Round(time.Millisecond/10), (int64(after.HeapAlloc)-int64(before.HeapAlloc))/1024)
	start = time.Now()
	f.ApplyBatch(l.batch(64))
	t.Logf("first batch after opening: %v", time.Since(start).Round(time.Millisecond/10))
	if total <= 1_000_000 {
		if err := f.Verify(); err != nil {
			t.Error(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestIdleMemory prints what an open, idle machine costs.
func TestIdleMemory(t *testing.T) {
	const machines = 50
	dir := t.TempDir()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	open := make([]*FSM, machines)
	for i := range open {
		open[i] = openLazy(t, filepath.Join(dir, fmt.Sprint(i)))
		open[i].ApplyBatch(newLoad(10, 0).batch(64))
		if err := open[i].Flush(); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / machines
	t.Logf("an idle machine holds %d bytes of heap; its file has %d bytes", each, diskUsed(t, filepath.Join(dir, "0")))
	if more := runtime.NumGoroutine() - goroutines; more > machines/2 {
		t.Errorf("%d idle machines run %d goroutines", machines, more)
	}
	for _, f := range open {
		f.Close()
	}
}

// BenchmarkReadStream reads pages of 100 events from anywhere in a stream.
func BenchmarkReadStream(b *testing.B) {
	f := openLazy(b, filepath.Join(b.TempDir(), "state.db"))
	defer f.Close()
	l := newLoad(10, 0)
	preload(b, f, l, 300_000)
	for _, backward := range []bool{false, true} {
		b.Run(fmt.Sprint("backward=", backward), func(b *testing.B) {
			for b.Loop() {
				page, err := f.ReadStream(fmt.Sprint("order-", l.rnd.IntN(10)), StreamQuery{From: 200 + uint64(l.rnd.IntN(28_000)), Limit: 100, MaxBytes: noLimit, Backward: backward})
				if err != nil || len(page.Events) != 100 {
					b.Fatal(len(page.Events), err)
				}
			}
		})
	}
}

// BenchmarkConditions applies 256-byte events, 64 entries a batch, each on the condition that no event of its type and tag came in the last 1,000.
func BenchmarkConditions(b *testing.B) {
	f := openLazy(b, filepath.Join(b.TempDir(), "state.db"))
	defer f.Close()
	l := newLoad(10, 0)
	l.tags = 1
	preload(b, f, l, 300_000)
	b.ReportAllocs()
	refused := 0
	for b.Loop() {
		b.StopTimer()
		batch := l.batch(64)
		for _, e := range batch {
			cmds, err := Decode(e.Data)
			if err != nil {
				b.Fatal(err)
			}
			c := &cmds[0]
			c.Conditions = []api.Condition{{Query: &api.Query{Items: []api.QueryItem{{Types: []string{c.Events[0].Type}, Tags: c.Events[0].Tags}}}, After: l.index - 1000}}
			e.Data = Encode(cmds...)
		}
		b.StartTimer()
		for _, r := range f.ApplyBatch(batch) {
			if r.(Result).Append[0].Err != nil {
				refused++
			}
		}
	}
	b.ReportMetric(float64(b.N*64)/b.Elapsed().Seconds(), "appends/s")
	b.ReportMetric(float64(refused)/float64(b.N*64), "refused")
}

// BenchmarkQuery reads the newest 100 events of a tag, and of two tags that come together.
func BenchmarkQuery(b *testing.B) {
	f := openLazy(b, filepath.Join(b.TempDir(), "state.db"))
	defer f.Close()
	const events = 300_000
	for i := 0; i < events; {
		c := Append{Time: testTime, Stream: "s", Expected: api.ExpectAny}
		for range 100 {
			tags := []string{fmt.Sprint("a:", i%300), fmt.Sprint("b:", i%7)}
			c.Events, i = append(c.Events, EventRecord{ID: fmt.Sprint(i), Type: "T", Tags: tags}), i+1
		}
		applied, _ := f.Applied()
		f.Apply(entry(applied+1, c))
	}
	if err := f.Flush(); err != nil {
		b.Fatal(err)
	}
	for name, it := range map[string]api.QueryItem{"tag": {Tags: []string{"a:7"}}, "tags": {Tags: []string{"a:7", "b:3"}}, "type": {Types: []string{"T"}}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				page, err := f.ReadAll(AllQuery{FromEnd: true, Backward: true, Limit: 100, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{it}}})
				if err != nil || len(page.Events) != 100 {
					b.Fatal(len(page.Events), err)
				}
			}
		})
	}
}
