package raftnode

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A leader that was deposed and does not know it is asked for a read. On the wire to it is a follower's answer to a heartbeat of before: raft's VerifyLeader takes it for a
// proof that it leads now, and the read that trusts it misses a write acknowledged before it began. The read index is asked at the same replica in the same instant, and
// gets the same bytes.
//
// Both halves are here so that the test shows that it bites: when VerifyLeader does not fall for it, the situation did not come about. With VerifyLeader planted in place of
// confirm (readindex.go) the test fails.
func TestADeposedLeaderAnswersNoStaleRead(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.members {
		m.timing.Silence = time.Hour // nobody is missed: the old leader is in the second before it would notice
	}
	old, held := c.members[0], c.members[1]
	ids := c.ids
	answers := newHolder(t, func() string { c.mu.Lock(); defer c.mu.Unlock(); return c.addrs[ids[1]] })
	l, err := newLink(func() string { return answers.addr() })
	if err != nil {
		t.Fatal(err)
	}
	c.links[[2]string{ids[0], ids[1]}] = l
	c.start()
	c.moveTo(t, old)
	c.heard(t, old, old.mustWrite("first"))
	drop := func(string, []commit) bool { return true }
	old.node.notices.hookSend.Store(&drop) // from now on a follower's raft is spoken to by heartbeats alone

	// The others can tell the old leader nothing; the answers of one of them to what it asks are on their way.
	answers.hold()
	cut := func(from, to string, on bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if l := c.links[[2]string{from, to}]; l != nil {
			l.setCut(on)
		}
	}
	paths := [][2]string{{ids[0], ids[2]}, {ids[2], ids[0]}, {ids[1], ids[0]}}
	for _, p := range paths {
		cut(p[0], p[1], true)
	}
	asked := time.Now()
	earlier := old.group.raft.VerifyLeader() // an earlier read; it makes the heartbeat
	eventually(t, "the follower has answered a heartbeat", func() bool { return held.group.raft.LastContact().After(asked) })
	if err := held.group.stand(); err != nil {
		t.Fatal(err)
	}
	leader := c.leader(t, old)
	leader.mustWrite("newer")

	// The newer write is acknowledged. Now two reads begin at the old leader.
	verified := old.group.raft.VerifyLeader()
	mainLoop(old.group.raft)
	short, cancel := context.WithTimeout(testContext(t), time.Second)
	defer cancel()
	index := make(chan error, 1)
	go func() { // ends with short
		_, err := old.group.ReadIndex(short)
		index <- err
	}()
	answers.release()
	if err := earlier.Error(); err != nil {
		t.Fatalf("the earlier read was to be confirmed by the answer that was held: %v", err)
	}
	if err := verified.Error(); err != nil {
		t.Fatalf("VerifyLeader was to be deceived, or this test shows nothing: %v", err)
	}
	if got := old.machine.all(); slices.Contains(got, "newer") {
		t.Fatalf("the old leader has the newer write, so no read there can be stale: %q", got)
	}
	if err := <-index; err == nil {
		t.Error("the read index of a deposed leader was confirmed: a read there misses an acknowledged write")
	}

	for _, p := range paths {
		cut(p[0], p[1], false)
	}
	if err := old.group.LinearizableRead(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := old.machine.all(); !slices.Contains(got, "newer") {
		t.Errorf("the read index says that these are all acknowledged writes: %q", got)
	}
}

// mainLoop returns when raft's main loop has taken what was put into its queues before. It takes from queues that are ready at random, so it is made to go round many
// times; the request is one that a group that has members refuses.
func mainLoop(r *raft.Raft) {
	for range 64 {
		r.BootstrapCluster(raft.Configuration{}).Error()
	}
}

// holder forwards connections. What comes back it can hold for a while, and then gives on, all of it and in order: a slow network, not a cut.
type holder struct {
	listener net.Listener
	target   func() string

	mu      sync.Mutex // guards what follows
	holding bool
	held    map[net.Conn]*bytes.Buffer // by the connection that it goes to
	conns   []net.Conn
}

func newHolder(t *testing.T, target func() string) *holder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &holder{listener: ln, target: target, held: make(map[net.Conn]*bytes.Buffer)}
	var wg sync.WaitGroup
	wg.Go(func() { // ends when the listener is closed
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", h.target())
			if err != nil {
				a.Close()
				continue
			}
			h.mu.Lock()
			h.conns = append(h.conns, a, b)
			h.mu.Unlock()
			wg.Go(func() { // both end with either connection
				io.Copy(b, a)
				b.Close()
			})
			wg.Go(func() {
				io.Copy(writerFunc(func(p []byte) (int, error) { return h.back(a, p) }), b)
				a.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		h.mu.Lock()
		for _, c := range h.conns {
			c.Close()
		}
		h.mu.Unlock()
		wg.Wait()
	})
	return h
}

func (h *holder) addr() string { return h.listener.Addr().String() }

func (h *holder) back(to net.Conn, p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.holding {
		return to.Write(p)
	}
	if h.held[to] == nil {
		h.held[to] = new(bytes.Buffer)
	}
	return h.held[to].Write(p)
}

func (h *holder) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = true
}

func (h *holder) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holding = false
	for to, b := range h.held {
		to.Write(b.Bytes())
		delete(h.held, to)
	}
}
