package transport

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestPipelineAnswersComeInOrder(t *testing.T) {
	_, _, from, to := pair(t, "1-1", nil)
	answering(t, to)
	p, err := from.AppendEntriesPipeline("n2~b", "n2~b")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const n = 5000
	go func() { // ends when all are sent
		for i := range n {
			size := i % 300
			if i%500 == 7 {
				size = 300 << 10 // several chunks
			}
			if i == 2222 {
				size = 9 << 20
			}
			if _, err := p.AppendEntries(appendOf("n1~a", uint64(i+1), make([]byte, size)), new(raft.AppendEntriesResponse)); err != nil {
				t.Errorf("append %d: %v", i, err)
				return
			}
		}
	}()
	for i := range uint64(n) {
		f := <-p.Consumer()
		if err := f.Error(); err != nil || f.Response().LastLog != i+1 || f.Request().Entries[0].Index != i+1 || f.Start().IsZero() {
			t.Fatalf("answer %d: %+v, %v", i, f.Response(), err)
		}
	}
}

func TestWhatAPeerAcceptsIsTold(t *testing.T) {
	_, _, from, to := pair(t, "1-1", nil)
	var told []uint64 // by this test's goroutine, and by the one that reads the pipeline's answers, before the test gets them
	from.Acknowledged = func(peer string, index uint64) {
		if peer != "n2~b" {
			t.Errorf("%s has accepted something", peer)
		}
		told = append(told, index)
	}
	const refused, failed, large = 3, 4, 5 // what happens to the requests with these entries; the last is split
	go func() {                            // ends with the last request, which the test waits for
		for rpc := range to.Consumer() {
			m := rpc.Command.(*raft.AppendEntriesRequest)
			first := m.Entries[0].Index
			var err error
			if first == failed {
				err = errors.New("the disk is full")
			}
			rpc.Respond(&raft.AppendEntriesResponse{Success: first != refused}, err)
			if first == large+1 {
				return
			}
		}
	}()
	if err := appendOne(from, 1); err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{refused, failed} {
		if err := appendOne(from, index); err == nil {
			t.Fatal("no error")
		}
	}
	p, err := from.AppendEntriesPipeline("n2~b", "n2~b")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	split := appendOf("n1~a", large, make([]byte, splitBytes))
	split.Entries = append(split.Entries, &raft.Log{Index: large + 1, Term: 2, Data: make([]byte, splitBytes)})
	for _, req := range []*raft.AppendEntriesRequest{appendOf("n1~a", 2, nil), split} {
		if _, err := p.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
		if err := (<-p.Consumer()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []uint64{1, 2, large + 1}; !slices.Equal(told, want) {
		t.Errorf("got %v, want %v", told, want)
	}
}

func TestAPipelineIsBounded(t *testing.T) {
	_, _, from, to := pair(t, "1-1", func(c *Config) { c.IOTimeout = 500 * time.Millisecond })
	p, err := from.AppendEntriesPipeline("n2~b", "n2~b")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxInFlight {
		if _, err := p.AppendEntries(appendOf("n1~a", uint64(i+1), nil), new(raft.AppendEntriesResponse)); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
	first := <-to.Consumer() // the others wait behind it
	blocked := make(chan error, 1)
	go func() { // ends when there is room, or with the pipeline
		_, err := p.AppendEntries(appendOf("n1~a", maxInFlight+1, nil), new(raft.AppendEntriesResponse))
		blocked <- err
	}()
	first.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	if err := <-blocked; err != nil {
		t.Fatalf("after an answer there is room: %v", err)
	}
	if err := (<-p.Consumer()).Error(); err != nil {
		t.Fatal(err)
	}
	f := <-p.Consumer() // nobody answers the second: it ends with its time
	if err := f.Error(); !errors.Is(err, ErrTimeout) || f.Response().Success {
		t.Fatalf("got %v, want a timeout", err)
	}
	eventually(t, "the pipeline takes no more", func() bool {
		_, err := p.AppendEntries(appendOf("n1~a", 1, nil), new(raft.AppendEntriesResponse))
		return err != nil
	})
	p.Close()
	p.Close()
}

// All that waits for a connection ends when it breaks, not when its time is over.
func TestABrokenConnectionEndsEverythingAtOnce(t *testing.T) {
	x, y, from, _ := pair(t, "1-1", func(c *Config) { c.IOTimeout = time.Hour })
	p, err := from.AppendEntriesPipeline("n2~b", "n2~b")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	f, err := p.AppendEntries(appendOf("n1~a", 1, nil), new(raft.AppendEntriesResponse))
	if err != nil {
		t.Fatal(err)
	}
	single, vote := make(chan error, 1), make(chan error, 1)
	go func() { single <- appendOne(from, 2) }() // end with the connection
	go func() {
		vote <- from.RequestVote("n2~b", "n2~b", &raft.RequestVoteRequest{RPCHeader: ownHeader()}, new(raft.RequestVoteResponse))
	}()
	eventually(t, "all are there", func() bool { return y.Stats().FramesIn == 3 })
	y.mu.Lock()
	for _, a := range y.accepted {
		a.conn.Close()
	}
	y.mu.Unlock()
	for what, err := range map[string]error{"pipeline": f.Error(), "append": <-single, "vote": <-vote} {
		if err == nil || !strings.Contains(err.Error(), "the connection to n2~b broke") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if f.Response().Success {
		t.Error("a request that failed is a success")
	}
	if _, err := p.AppendEntries(appendOf("n1~a", 2, nil), new(raft.AppendEntriesResponse)); err == nil {
		t.Error("the pipeline goes on over a broken connection")
	}
	eventually(t, "both broken connections are counted", func() bool { return x.Stats().Broken == 2 })
}

// A request's time begins when there is room for it: one that had to wait would else be given up before its answer is late, and break the pipeline.
func TestARequestsTimeBeginsWhenItIsSent(t *testing.T) {
	const patience = time.Minute
	_, _, from, to := pair(t, "1-1", func(c *Config) { c.IOTimeout = patience })
	raw, err := from.AppendEntriesPipeline("n2~b", "n2~b")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for i := range maxInFlight {
		if _, err := raw.AppendEntries(appendOf("n1~a", uint64(i+1), nil), new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
	}
	first, p := <-to.Consumer(), raw.(*pipeline)
	sent := make(chan raft.AppendFuture, 1)
	go func() { // ends when there is room
		f, _ := raw.AppendEntries(appendOf("n1~a", maxInFlight+1, nil), new(raft.AppendEntriesResponse))
		sent <- f
	}()
	looks := 0
	eventually(t, "it waits for room", func() bool {
		if p.send.TryLock() {
			p.send.Unlock()
			return false
		}
		looks++
		return looks > 5
	})
	room := time.Now()
	first.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	f, ok := (<-sent).(*appendFuture)
	if !ok {
		t.Fatal("it was not sent")
	}
	if f.deadline.Before(room.Add(patience)) {
		t.Errorf("there was room at %v, and its time ends %v later, want %v", room, f.deadline.Sub(room), patience)
	}
}
