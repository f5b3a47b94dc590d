package stores

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// way forwards connections to a node, swallows what they carry while it is cut, and ends them when it heals.
type way struct {
	net.Listener
	mu    sync.Mutex // guards what follows
	cut   bool
	lost  []byte
	want  []byte        // what is waited for …
	came  chan struct{} // … and this is closed once it was swallowed
	conns []net.Conn
}

func newWay(t *testing.T, target func() string) *way {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &way{Listener: ln}
	go func() { // ends when the listener is closed
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target())
			if err != nil {
				a.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, a, b)
			w.mu.Unlock()
			go w.pipe(a, b) // ends with the connection
			go w.pipe(b, a)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		w.heal()
	})
	return w
}

func (w *way) pipe(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	io.Copy(lossy{w, to}, from)
}

// lossy is one direction of a connection.
type lossy struct {
	way *way
	to  net.Conn
}

func (l lossy) Write(p []byte) (int, error) {
	l.way.mu.Lock()
	cut := l.way.cut
	if cut {
		l.way.lost = append(l.way.lost, p...)
		if l.way.want != nil && bytes.Contains(l.way.lost, l.way.want) {
			l.way.want = nil
			close(l.way.came)
		}
	}
	l.way.mu.Unlock()
	if cut {
		return len(p), nil
	}
	return l.to.Write(p)
}

// swallow cuts the way. The channel is closed once the text is among what was swallowed.
func (w *way) swallow(text string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut, w.want, w.came = true, []byte(text), make(chan struct{})
	return w.came
}

func (w *way) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// One node of three is down, and the connection between the two others breaks for a moment with an append on it. The door makes no entry while that one is under way, so nothing would have raft send
// it again; and it is sent again, and what came meanwhile is taken, with the times that are used in production.
func TestAStoreTakesWritesAfterAConnectionBroke(t *testing.T) {
	const n = 3
	var mu sync.Mutex // guards addrs
	var ids, addrs [n]string
	addr := func(i int) string {
		mu.Lock()
		defer mu.Unlock()
		return addrs[i]
	}
	var ways [n][n]*way
	var identities [n]*raftnode.Identity
	for i := range n {
		var err error
		if identities[i], err = raftnode.OpenIdentity(t.TempDir(), fmt.Sprint("n", i+1), time.Now()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { identities[i].Close() })
		ids[i] = identities[i].ServerID()
		for j := range n {
			ways[i][j] = newWay(t, func() string { return addr(j) })
		}
	}
	var stop [n]func()
	var open [n]*Store
	for i := range n {
		node, err := raftnode.Open(raftnode.Config{
			Identity: identities[i], Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
			Resolve: func(id string) (string, error) {
				for j := range n {
					if ids[j] == id && addr(j) != "" {
						return ways[i][j].Addr().String(), nil
					}
				}
				return "", errors.New("not heard yet")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		addrs[i] = node.Addr()
		mu.Unlock()
		m := NewManager(Config{Node: node, Dir: identities[i].Dir(), OnFatal: func(err error) { t.Error(err) }})
		stop[i] = sync.OnceFunc(func() {
			m.Close()
			node.Close()
		})
		t.Cleanup(stop[i])
		if open[i], err = m.Open(Spec{Name: "orders", ID: 1, Incarnation: 1, Members: ids[:]}); err != nil {
			t.Fatal(err)
		}
	}
	view, err := open[0].WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Leader != "" })
	if err != nil {
		t.Fatal(err)
	}
	leads := 0
	for ids[leads] != view.Leader {
		leads++
	}
	other, down := (leads+1)%n, (leads+2)%n
	s := open[leads]
	if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
		t.Fatal(err)
	}
	event := func(id string) *Append {
		return &Append{Stream: "s", Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T", ID: id}}}
	}
	stop[down]()
	if _, err := s.Append(event("first")); err != nil {
		t.Fatal(err)
	}

	lost := ways[leads][other].swallow("the-lost-one")
	answers := make(chan *api.Error, 2)
	for _, id := range []string{"the-lost-one", "the-one-behind-it"} {
		if err := s.Begin(event(id), func(_ any, err *api.Error) { answers <- err }); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Fatal("the append is not sent")
	}
	ways[leads][other].heal()
	for range cap(answers) {
		select {
		case err := <-answers:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the store has a majority and a leader, and takes no writes")
		}
	}
}
