package transport

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// answering gives the group's requests the answer of a follower that stored everything.
func answering(t testing.TB, g raft.Transport) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the test
		for {
			select {
			case rpc := <-g.Consumer():
				resp := &raft.AppendEntriesResponse{Success: true}
				if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && len(req.Entries) > 0 {
					resp.Term, resp.LastLog = req.Term, req.Entries[len(req.Entries)-1].Index
				}
				rpc.Respond(resp, nil)
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() { close(done); wg.Wait() })
}

// appendOf is a leader's request with one entry.
func appendOf(from string, index uint64, data []byte) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte(from), Addr: []byte(from)},
		Term:      2, PrevLogEntry: index - 1, PrevLogTerm: 2, LeaderCommitIndex: index - 1,
		Entries: []*raft.Log{{Index: index, Term: 2, Data: data, AppendedAt: time.Unix(1700000000, 0)}},
	}
}

// One operation is an append of one entry of 256 bytes in one of 64 groups, pipelined, and its answer.
func BenchmarkAppendsOf64Groups(b *testing.B) {
	const groups = 64
	var bk book
	x, y := listen(b, &bk, "n1~a", nil), listen(b, &bk, "n2~b", nil)
	data := make([]byte, 256)
	pipes := make([]raft.AppendPipeline, groups)
	for i := range groups {
		key := fmt.Sprintf("%d-1", i)
		from, err := x.Group(key)
		if err != nil {
			b.Fatal(err)
		}
		to, err := y.Group(key)
		if err != nil {
			b.Fatal(err)
		}
		answering(b, to)
		if pipes[i], err = from.AppendEntriesPipeline("n2~b", "n2~b"); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { from.Close(); to.Close() })
	}
	b.ReportAllocs()
	before := x.Stats()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, p := range pipes {
		n := b.N / groups
		if i < b.N%groups {
			n++
		}
		wg.Go(func() {
			for k := range n {
				if _, err := p.AppendEntries(appendOf("n1~a", uint64(k+1), data), new(raft.AppendEntriesResponse)); err != nil {
					b.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			for range n {
				f := <-p.Consumer()
				if err := f.Error(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	s := x.Stats()
	b.ReportMetric(float64(s.Frames-before.Frames)/float64(s.Writes-before.Writes), "frames/write")
	for _, p := range pipes {
		p.Close()
	}
}

// One operation is an append of one entry and its answer in one group, one at a time: the latency of a lone writer.
func BenchmarkLoneAppend(b *testing.B) {
	var bk book
	x, y := listen(b, &bk, "n1~a", nil), listen(b, &bk, "n2~b", nil)
	from, err := x.Group("1-1")
	if err != nil {
		b.Fatal(err)
	}
	to, err := y.Group("1-1")
	if err != nil {
		b.Fatal(err)
	}
	answering(b, to)
	b.Cleanup(func() { from.Close(); to.Close() })
	data := make([]byte, 256)
	b.ReportAllocs()
	for i := range b.N {
		if err := from.AppendEntries("n2~b", "n2~b", appendOf("n1~a", uint64(i+1), data), new(raft.AppendEntriesResponse)); err != nil {
			b.Fatal(err)
		}
	}
}

// One operation is an entry of 256 bytes committed and applied by the leader of one of 64 groups of three nodes, 4 writers a group, logs in memory.
func BenchmarkCommitsOf64Groups(b *testing.B) {
	const groups, writers = 64, 4
	var bk book
	ts := []*Transport{listen(b, &bk, "n1~a", nil), listen(b, &bk, "n2~b", nil), listen(b, &bk, "n3~c", nil)}
	var members raft.Configuration
	for _, tr := range ts {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(tr.cfg.LocalID), Address: raft.ServerAddress(tr.cfg.LocalID)})
	}
	leaders := make([]*raft.Raft, groups)
	var elected sync.WaitGroup
	for i := range groups {
		rafts := make([]*raft.Raft, len(ts))
		gained := make(chan int, 16)
		for k, tr := range ts {
			trans, err := tr.Group(fmt.Sprintf("%d-1", i))
			if err != nil {
				b.Fatal(err)
			}
			conf := raft.DefaultConfig()
			conf.LocalID = members.Servers[k].ID
			conf.BatchApplyCh, conf.LogOutput = true, io.Discard
			notify := make(chan bool, 16)
			conf.NotifyCh = notify
			store, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
			if err := raft.BootstrapCluster(conf, store, store, snaps, trans, members); err != nil {
				b.Fatal(err)
			}
			if rafts[k], err = raft.NewRaft(conf, nothing{}, store, store, snaps, trans); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { rafts[k].Shutdown().Error(); close(notify) })
			go func() { // ends with the test
				for yes := range notify {
					if yes {
						gained <- k
					}
				}
			}()
		}
		elected.Go(func() {
			leaders[i] = rafts[<-gained]
			if err := leaders[i].Barrier(0).Error(); err != nil {
				b.Error(err)
			}
		})
	}
	elected.Wait()
	data := make([]byte, 256)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range groups * writers {
		n := b.N / (groups * writers)
		if w < b.N%(groups*writers) {
			n++
		}
		wg.Go(func() {
			for range n {
				if err := leaders[w%groups].Apply(data, 0).Error(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

type nothing struct{}

func (nothing) Apply(*raft.Log) any                 { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (nothing) Restore(rc io.ReadCloser) error      { return rc.Close() }
