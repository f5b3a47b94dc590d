package raftnode

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/wal"
)

// counter is the least that a Machine can be.
type counter struct {
	mu          sync.Mutex // guards what follows
	index, term uint64
	applied     chan struct{} // closed by the next apply; nil: nobody waits
}

func (m *counter) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

func (m *counter) ApplyBatch(logs []*raft.Log) []any {
	last := logs[len(logs)-1]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index, m.term = last.Index, last.Term
	if m.applied != nil {
		close(m.applied)
		m.applied = nil
	}
	return make([]any, len(logs))
}

func (m *counter) Applied() (uint64, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index, m.term
}

// next returns the index that is applied, and what is closed once there is another one.
func (m *counter) next() (uint64, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.applied == nil {
		m.applied = make(chan struct{})
	}
	return m.index, m.applied
}

func (m *counter) WaitApplied(ctx context.Context, index uint64) error {
	for {
		at, next := m.next()
		if at >= index {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *counter) OpenSnapshot() (uint64, uint64, int64, io.ReadCloser, error) {
	return 0, 0, 0, nil, io.EOF
}
func (m *counter) Bytes() (int64, error)               { return 0, nil }
func (m *counter) Snapshot() (raft.FSMSnapshot, error) { return markerOnly{}, nil }
func (m *counter) Restore(rc io.ReadCloser) error      { return rc.Close() }

func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// costs counts what all members together did.
func (c *testCluster) costs() (syncs, writes, frames uint64) {
	for _, m := range c.members {
		t := m.node.transport.Stats()
		syncs, writes, frames = syncs+m.node.LogStats().Syncs, writes+t.Writes, frames+t.Frames
	}
	return syncs, writes, frames
}

// BenchmarkCommit commits entries of 256 bytes on three nodes of one process, each client with one under way. What a commit costs all three together in processor
// time says more on a busy machine than how many there are a second.
func BenchmarkCommit(b *testing.B) {
	for _, load := range []struct{ groups, clients int }{{1, 1}, {1, 64}, {64, 64}} {
		b.Run(fmt.Sprintf("groups=%d/clients=%d", load.groups, load.clients), func(b *testing.B) {
			c := newCluster(b, 3)
			c.direct = true
			groups := make([][]*Group, load.groups)
			for _, m := range c.members {
				m.timing = DefaultTiming
				m.listen()
			}
			for i := range groups {
				for _, m := range c.members {
					dir := filepath.Join(m.dir, fmt.Sprint(i))
					g, err := m.node.OpenGroup(GroupConfig{
						ID: wal.GroupID{Store: uint64(i + 1), Incarnation: 1}, Name: dir, Dir: b.TempDir(), Machine: new(counter), Bootstrap: c.ids,
					})
					if err != nil {
						b.Fatal(err)
					}
					defer g.Close()
					groups[i] = append(groups[i], g)
				}
			}
			leaders := make([]*Group, load.groups)
			for i := range groups {
				eventually(b, "a member serves", func() bool {
					for _, g := range groups[i] {
						if g.Leadership().Role == Serving {
							leaders[i] = g
						}
					}
					return leaders[i] != nil
				})
			}
			payload := make([]byte, 256)
			var left atomic.Int64
			left.Store(int64(b.N))
			syncs, writes, frames := c.costs()
			before := processorTime()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range load.clients {
				wg.Add(1)
				go func() { // ends when enough was written
					defer wg.Done()
					for left.Add(-1) >= 0 {
						p, err := leaders[i%load.groups].Propose(payload)
						if err == nil {
							_, err = p.Wait()
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				}()
			}
			wg.Wait()
			b.StopTimer()
			used := processorTime() - before
			s, w, f := c.costs()
			b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(s-syncs)/float64(b.N), "syncs/op")
			b.ReportMetric(float64(w-writes)/float64(b.N), "writes/op")
			b.ReportMetric(float64(f-frames)/float64(b.N), "frames/op")
		})
	}
}
