package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func openGroup(t testing.TB, tr *Transport, key string) *Group {
	t.Helper()
	g, err := tr.Group(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// pair is two transports, n1~a and n2~b, with the group open on both.
func pair(t testing.TB, key string, change func(*Config)) (x, y *Transport, from, to *Group) {
	t.Helper()
	var b book
	x, y = listen(t, &b, "n1~a", change), listen(t, &b, "n2~b", change)
	return x, y, openGroup(t, x, key), openGroup(t, y, key)
}

func quick(c *Config) { c.IOTimeout = 400 * time.Millisecond }

func appendOne(g *Group, index uint64) error {
	var resp raft.AppendEntriesResponse
	err := g.AppendEntries("n2~b", "n2~b", appendOf("n1~a", index, []byte("data")), &resp)
	if err == nil && !resp.Success {
		err = errors.New("no success")
	}
	return err
}

func TestEachMessageReachesRaftAndItsAnswerComesBack(t *testing.T) {
	_, _, from, to := pair(t, "1-1", nil)
	h := ownHeader()
	answer := func(want func(raft.RPC) any) {
		go func() { // ends with the question, which the test waits for
			rpc := <-to.Consumer()
			rpc.Respond(want(rpc), nil)
		}()
	}
	t.Run("RequestVote", func(t *testing.T) {
		answer(func(rpc raft.RPC) any {
			m := rpc.Command.(*raft.RequestVoteRequest)
			return &raft.RequestVoteResponse{Term: m.Term, Granted: m.LeadershipTransfer && string(m.ID) == "n1~a"}
		})
		var resp raft.RequestVoteResponse
		if err := from.RequestVote("n2~b", "n2~b", &raft.RequestVoteRequest{RPCHeader: h, Term: 5, LeadershipTransfer: true}, &resp); err != nil || resp.Term != 5 || !resp.Granted {
			t.Fatalf("got %+v, %v", resp, err)
		}
	})
	t.Run("RequestPreVote", func(t *testing.T) {
		answer(func(rpc raft.RPC) any {
			return &raft.RequestPreVoteResponse{Term: rpc.Command.(*raft.RequestPreVoteRequest).LastLogIndex, Granted: true}
		})
		var resp raft.RequestPreVoteResponse
		if err := from.RequestPreVote("n2~b", "n2~b", &raft.RequestPreVoteRequest{RPCHeader: h, LastLogIndex: 6}, &resp); err != nil || resp.Term != 6 || !resp.Granted {
			t.Fatalf("got %+v, %v", resp, err)
		}
	})
	t.Run("TimeoutNow", func(t *testing.T) {
		answer(func(raft.RPC) any { return &raft.TimeoutNowResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}} })
		var resp raft.TimeoutNowResponse
		if err := from.TimeoutNow("n2~b", "n2~b", &raft.TimeoutNowRequest{RPCHeader: h}, &resp); err != nil || resp.ProtocolVersion != 3 {
			t.Fatalf("got %+v, %v", resp, err)
		}
	})
	t.Run("TimeoutNow to itself", func(t *testing.T) {
		answer(func(rpc raft.RPC) any { return &raft.TimeoutNowResponse{} })
		if err := to.TimeoutNow("n2~b", "n2~b", &raft.TimeoutNowRequest{RPCHeader: h}, &raft.TimeoutNowResponse{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("AppendEntries", func(t *testing.T) {
		answer(func(rpc raft.RPC) any {
			m := rpc.Command.(*raft.AppendEntriesRequest)
			return &raft.AppendEntriesResponse{LastLog: m.Entries[0].Index, Success: string(m.Entries[0].Data) == "data"}
		})
		if err := appendOne(from, 9); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("raft's error", func(t *testing.T) {
		go func() { // ends as above
			rpc := <-to.Consumer()
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, errors.New("the disk is full"))
		}()
		resp := raft.AppendEntriesResponse{Term: 77}
		var remote *RemoteError
		err := from.AppendEntries("n2~b", "n2~b", appendOf("n1~a", 9, nil), &resp)
		if !errors.As(err, &remote) || remote.Text != "the disk is full" || resp.Term != 77 || resp.Success {
			t.Fatalf("got %+v, %v", resp, err)
		}
	})
	t.Run("a group that is not open there", func(t *testing.T) {
		lone := openGroup(t, from.transport, "9-9")
		if err := appendOne(lone, 1); err == nil || !strings.Contains(err.Error(), "group 9-9 is not open here") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("keys", func(t *testing.T) {
		for _, key := range []string{"", "\x00call", strings.Repeat("k", 256)} {
			if _, err := from.transport.Group(key); err == nil {
				t.Errorf("%q is taken for a key", key)
			}
		}
	})
}

// Entries may wait for their answer: heartbeats get through.
func TestHeartbeatsDoNotWaitForEntries(t *testing.T) {
	_, y, from, to := pair(t, "1-1", nil)
	held := make(chan struct{})
	go func() { // ends when the group is closed
		for {
			select {
			case rpc := <-to.Consumer():
				if isHeartbeat(rpc.Command.(*raft.AppendEntriesRequest)) {
					rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
				} else {
					close(held) // and it is not answered
				}
			case <-to.done:
				return
			}
		}
	}()
	stuck := make(chan error, 1)
	go func() { stuck <- appendOne(from, 1) }() // ends when the group is closed
	<-held
	for range 100 {
		var resp raft.AppendEntriesResponse
		if err := from.AppendEntries("n2~b", "n2~b", &raft.AppendEntriesRequest{RPCHeader: ownHeader(), Term: 3}, &resp); err != nil || !resp.Success {
			t.Fatalf("got %+v, %v", resp, err)
		}
	}
	eventually(t, "the entries wait for raft", func() bool { return y.Stats().Inbound > 0 })
	to.Close()
	if err := <-stuck; err == nil || !strings.Contains(err.Error(), ErrClosed.Error()) {
		t.Fatalf("got %v, want the peer to say that the group is closed", err)
	}
}

func TestAStuckGroupDelaysNoOther(t *testing.T) {
	x, y, stuck, _ := pair(t, "1-1", quick)
	from, to := openGroup(t, x, "2-1"), openGroup(t, y, "2-1")
	answering(t, to)
	began := time.Now()
	var wg sync.WaitGroup
	var full, late atomic.Int64
	for i := range 2 * inboxItems { // more than the inbox of the stuck one takes
		wg.Go(func() {
			switch err := appendOne(stuck, uint64(i+1)); {
			case errors.Is(err, ErrTimeout):
				late.Add(1)
			case err != nil && strings.Contains(err.Error(), ErrOverloaded.Error()):
				full.Add(1)
			default:
				t.Errorf("got %v", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }() // ends as the exchanges do
	var slowest time.Duration
	n := 0
	for waiting := true; waiting; n++ {
		start := time.Now()
		if err := appendOne(from, uint64(n+1)); err != nil {
			t.Fatalf("the other group: %v", err)
		}
		slowest = max(slowest, time.Since(start))
		select {
		case <-done:
			waiting = false
		default:
		}
	}
	if full.Load() == 0 || late.Load() == 0 {
		t.Errorf("%d were refused and %d timed out, want some of both", full.Load(), late.Load())
	}
	if took := time.Since(began); took > 10*x.cfg.IOTimeout {
		t.Errorf("exchanges of %v took %v", x.cfg.IOTimeout, took)
	}
	if s := x.Stats(); s.Broken != 0 || s.Connections != 1 {
		t.Errorf("the stuck group broke the connection of the others: %+v", s)
	}
	if y.Stats().Dropped != uint64(full.Load()) {
		t.Errorf("%d refusals, %d counted", full.Load(), y.Stats().Dropped)
	}
	if slowest > x.cfg.IOTimeout/2 {
		t.Errorf("an exchange of the other group took %v", slowest)
	}
	t.Logf("%d exchanges of the other group, the slowest took %v", n, slowest)
}

// hung is a peer that shakes hands and then reads nothing.
func hung(t testing.TB, b *book, id string) (accepted *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.set(id, l.Addr().String())
	accepted = new(atomic.Int64)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { // ends when the listener is closed
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { // ends with the test
				defer nc.Close()
				if _, err := readHandshake(bufio.NewReader(nc)); err == nil {
					accepted.Add(1)
					nc.Write(encodeAnswer(""))
				}
				<-done
			})
		}
	})
	t.Cleanup(func() { close(done); l.Close(); wg.Wait() })
	return accepted
}

func TestAPeerThatHangsCostsTimeoutsOnly(t *testing.T) {
	var b book
	x := listen(t, &b, "n1~a", quick)
	y := listen(t, &b, "n3~c", quick)
	accepted := hung(t, &b, "n2~b")
	from, other, to := openGroup(t, x, "1-1"), openGroup(t, x, "2-1"), openGroup(t, y, "2-1")
	answering(t, to)
	within := func(what string, f func() error) {
		t.Helper()
		start := time.Now()
		if err := f(); err == nil {
			t.Errorf("%s: the hung peer answers", what)
		}
		if took := time.Since(start); took > 3*x.cfg.IOTimeout {
			t.Errorf("%s took %v, want about %v", what, took, x.cfg.IOTimeout)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 3 { // each finds a connection that works as far as anybody knows
			within("append", func() error { return appendOne(from, uint64(i+1)) })
		}
	})
	wg.Go(func() {
		within("vote", func() error {
			return from.RequestVote("n2~b", "n2~b", &raft.RequestVoteRequest{RPCHeader: ownHeader()}, new(raft.RequestVoteResponse))
		})
	})
	wg.Go(func() {
		within("bulk", func() error { // more than fits into the kernel's buffers: the writer is stuck too
			p, err := other.AppendEntriesPipeline("n2~b", "n2~b")
			if err != nil {
				return err
			}
			defer p.Close()
			for i := range 64 {
				if _, err := p.AppendEntries(appendOf("n1~a", uint64(i+1), make([]byte, 1<<20)), new(raft.AppendEntriesResponse)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	wg.Go(func() {
		within("call", func() error { _, err := x.Call(testContext(t), "n2~b", 1, nil); return err })
	})
	wg.Go(func() {
		within("snapshot", func() error {
			req := &raft.InstallSnapshotRequest{RPCHeader: ownHeader(), Size: 32 << 20}
			return from.InstallSnapshot("n2~b", "n2~b", req, new(raft.InstallSnapshotResponse), zeros(32<<20))
		})
	})
	wg.Go(func() {
		for i := range 100 {
			start := time.Now()
			if err := other.AppendEntries("n3~c", "n3~c", appendOf("n1~a", uint64(i+1), nil), new(raft.AppendEntriesResponse)); err != nil || time.Since(start) > x.cfg.IOTimeout {
				t.Errorf("the peer that is well: %v after %v", err, time.Since(start))
			}
		}
	})
	wg.Wait()
	if n := accepted.Load(); n < 4 {
		t.Errorf("the hung peer was dialled %d times, want the connections given up and dialled anew", n)
	}
}

func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A leader may send far more than one message holds: 256 entries of 16 MiB.
func TestManyLargeEntriesGoAsSeveralRequests(t *testing.T) {
	for _, how := range []string{"single", "pipeline"} {
		t.Run(how, func(t *testing.T) {
			_, _, from, to := pair(t, "1-1", nil)
			var mu sync.Mutex
			var got []*raft.Log
			prev := uint64(10)
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { // ends with the test
				for {
					select {
					case rpc := <-to.Consumer():
						m := rpc.Command.(*raft.AppendEntriesRequest)
						mu.Lock()
						ok := m.PrevLogEntry == prev && m.PrevLogTerm == 2
						if ok {
							got = append(got, m.Entries...)
							prev = m.Entries[len(m.Entries)-1].Index
						}
						rpc.Respond(&raft.AppendEntriesResponse{Success: ok, LastLog: prev}, nil)
						mu.Unlock()
					case <-done:
						return
					}
				}
			})
			defer func() { close(done); wg.Wait() }()
			req := appendOf("n1~a", 11, nil)
			req.Entries = nil
			for i := range uint64(12) {
				size := 3 << 20
				if i == 5 {
					size = 16 << 20
				}
				data := make([]byte, size)
				for k := 0; k+8 <= size; k += 8 {
					binary.LittleEndian.PutUint64(data[k:], uint64(k)^i<<32)
				}
				req.Entries = append(req.Entries, &raft.Log{Index: 11 + i, Term: 2, Data: data})
			}
			var resp raft.AppendEntriesResponse
			if how == "single" {
				if err := from.AppendEntries("n2~b", "n2~b", req, &resp); err != nil {
					t.Fatal(err)
				}
			} else {
				p, err := from.AppendEntriesPipeline("n2~b", "n2~b")
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				if _, err := p.AppendEntries(req, &resp); err != nil {
					t.Fatal(err)
				}
				f := <-p.Consumer()
				if err := f.Error(); err != nil || len(f.Request().Entries) != 12 {
					t.Fatalf("got %v", err)
				}
			}
			if !resp.Success || resp.LastLog != 22 || len(got) != 12 {
				t.Fatalf("got %+v and %d entries", resp, len(got))
			}
			for i, e := range got {
				if want := req.Entries[i]; e.Index != want.Index || e.Term != want.Term || !bytes.Equal(e.Data, want.Data) {
					t.Fatalf("entry %d of %d bytes came as entry %d of %d bytes", want.Index, len(want.Data), e.Index, len(e.Data))
				}
			}
		})
	}
}

func TestSend(t *testing.T) {
	var b book
	type got struct {
		from   string
		method byte
		body   string
	}
	heard := make(chan got, 10000)
	hold := make(chan struct{})
	a := listen(t, &b, "n1~a", func(c *Config) {
		c.OnMessage = func(from string, method byte, body []byte) { heard <- got{from, method, string(body)} }
	})
	listen(t, &b, "n2~b", func(c *Config) {
		c.OnMessage = func(from string, method byte, body []byte) {
			if method == 9 {
				<-hold
			}
			heard <- got{from, method, string(body)}
		}
	})
	eventually(t, "there is a connection", func() bool { return a.Send("n2~b", 1, []byte("hello")) == nil })
	if g := <-heard; g != (got{"n1~a", 1, "hello"}) {
		t.Fatalf("got %+v", g)
	}
	for i := range 500 {
		if err := a.Send("n2~b", 2, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		if g := <-heard; g.body != fmt.Sprint(i) {
			t.Fatalf("message %d is %+v", i, g)
		}
	}
	if err := a.Send("n1~a", 3, []byte("me")); err != nil {
		t.Fatal(err)
	}
	if g := <-heard; g != (got{"n1~a", 3, "me"}) {
		t.Fatalf("got %+v", g)
	}
	if err := a.Send("n2~b", 4, make([]byte, maxCallBody)); err != nil {
		t.Fatal(err)
	}
	if g := <-heard; len(g.body) != maxCallBody {
		t.Fatalf("got %d bytes", len(g.body))
	}
	if err := a.Send("n9~x", 1, nil); err == nil {
		t.Fatal("a message to nobody is taken")
	}
	if err := a.Send("n2~b", 1, make([]byte, maxCallBody+1)); err == nil {
		t.Fatal("too large a message is taken")
	}
	// One that does not return holds up its peer's messages and nothing else.
	a.Send("n2~b", 9, nil)
	for range 3 * maxNotesWaiting {
		a.Send("n2~b", 5, nil)
	}
	if _, err := a.Call(testContext(t), "n2~b", 1, nil); err != nil {
		t.Fatal(err)
	}
	close(hold)
	if g := <-heard; g.method != 9 {
		t.Fatalf("got %+v", g)
	}
}

// What raft has answered reaches the peer although the group and the transport close at once: a leader that misses it would go wrong (lastWords).
func TestAnswersOutliveClose(t *testing.T) {
	var b book
	x := listen(t, &b, "n1~a", nil)
	from := openGroup(t, x, "1-1")
	for round := range 50 {
		y := listen(t, &b, "n2~b", nil)
		to := openGroup(t, y, "1-1")
		got := make(chan error, 1)
		go func() { got <- appendOne(from, 1) }() // ends with the answer
		rpc := <-to.Consumer()
		rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		to.Close()
		y.Close()
		if err := <-got; err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		l := x.link("n2~b", kindLog)
		eventually(t, "the connection is gone", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.conn == nil
		})
	}
}
