package transport

import (
	"fmt"
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
