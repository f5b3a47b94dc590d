package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

const patience = 20 * time.Second // of waits that end much sooner when all is well

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition that tells nobody when it comes true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// book is where servers listen now.
type book struct {
	mu    sync.Mutex
	addrs map[string]string
}

func (b *book) set(id, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.addrs == nil {
		b.addrs = map[string]string{}
	}
	b.addrs[id] = addr
}

func (b *book) resolve(id string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, ok := b.addrs[id]; ok {
		return a, nil
	}
	return "", fmt.Errorf("%s has not been heard", id)
}

func echo(_ context.Context, from string, method byte, body []byte) ([]byte, error) {
	return append([]byte(fmt.Sprintf("%s/%d/", from, method)), body...), nil
}

func listen(t testing.TB, b *book, id string, change func(*Config)) *Transport {
	t.Helper()
	cfg := Config{
		Listen: "127.0.0.1:0", ClusterID: func() string { return "c1" }, LocalID: id, Resolve: b.resolve, Handler: echo,
		DialTimeout: 5 * time.Second, IOTimeout: 5 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	tr, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.set(id, tr.Addr().String())
	t.Cleanup(func() { tr.Close() })
	return tr
}

func TestHandshakeRefusals(t *testing.T) {
	var b book
	formed := listen(t, &b, "n2~b", nil)
	blank := listen(t, &b, "n3~c", func(c *Config) { c.ClusterID = func() string { return "" } })
	trans, err := formed.Group("1-1")
	if err != nil {
		t.Fatal(err)
	}
	defer trans.Close()
	good := handshake{kind: kindLog, cluster: "c1", from: "n1~a", to: "n2~b"}
	rows := []struct {
		name   string
		at     *Transport
		change func(*handshake)
		want   string // part of the reason; empty: welcome
	}{
		{"log", formed, func(h *handshake) {}, ""},
		{"snapshot", formed, func(h *handshake) { h.kind = kindSnapshot }, ""},
		{"control", formed, func(h *handshake) { h.kind = kindControl }, ""},
		{"another cluster", formed, func(h *handshake) { h.cluster = "c2" }, "in cluster c1, not c2"},
		{"no cluster", formed, func(h *handshake) { h.cluster = "" }, "in cluster c1, not"},
		{"another disk of the same name", formed, func(h *handshake) { h.to = "n2~old" }, "this is n2~b, not n2~old"},
		{"control to another disk", formed, func(h *handshake) { h.kind, h.to = kindControl, "n2~old" }, "this is n2~b"},
		{"its own id", formed, func(h *handshake) { h.from = "n2~b" }, "two servers have one id"},
		{"unknown kind", formed, func(h *handshake) { h.kind = 9 }, "kind 9 is not known"},
		{"before the cluster is formed", blank, func(h *handshake) { h.cluster, h.to = "", "n3~c" }, "not in a cluster yet"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			h := good
			r.change(&h)
			raw, err := h.encode()
			if err != nil {
				t.Fatal(err)
			}
			conn := rawDial(t, r.at)
			if _, err := conn.Write(raw); err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(conn)
			err = readAnswer(br)
			if r.want == "" {
				if err != nil {
					t.Fatalf("got %v, want a welcome", err)
				}
				return
			}
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), r.want) {
				t.Fatalf("got %v, want a refusal that says %q", err, r.want)
			}
			if _, err := br.ReadByte(); err == nil {
				t.Fatal("the connection goes on after a refusal")
			}
		})
	}
	if formed.Stats().Strangers+blank.Stats().Strangers != 0 {
		t.Error("a refused peer counts as a stranger")
	}
}

// Two versions tell each other why they do not talk; the first version closed without a word.
func TestAnotherVersionIsToldWhy(t *testing.T) {
	var b book
	tr := listen(t, &b, "n1~a", nil)
	raw, _ := (&handshake{kind: kindLog, cluster: "c1", from: "n2~b", to: "n1~a"}).encode()
	for _, version := range []byte{1, protocolVersion + 1} {
		raw[4] = version
		nc := rawDial(t, tr)
		nc.Write(raw)
		if err := readAnswer(bufio.NewReader(nc)); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), fmt.Sprintf("speaks version 2 of the protocol, not %d", version)) {
			t.Errorf("version %d is told %v", version, err)
		}
	}
	if tr.Stats().Strangers != 0 {
		t.Error("a member of another version counts as a stranger")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.set("n2~b", l.Addr().String())
	go func() { // ends with the one connection
		if nc, err := l.Accept(); err == nil {
			io.ReadFull(nc, make([]byte, 6))
			nc.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, nc)
			nc.Close()
		}
	}()
	if _, err := tr.Call(testContext(t), "n2~b", 1, nil); err == nil || !strings.Contains(err.Error(), "another version than 2") {
		t.Errorf("at the other end: %v", err)
	}
}

func rawDial(t testing.TB, to *Transport) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", to.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestStrangersAreCountedAndGetNoAnswer(t *testing.T) {
	var b book
	tr := listen(t, &b, "n1~a", func(c *Config) { c.DialTimeout = 100 * time.Millisecond })
	h := handshake{kind: kindLog, cluster: "c1", from: "n2~b", to: "n1~a"}
	raw, _ := h.encode()
	rows := []struct {
		name string
		send []byte
		hold bool // say nothing more instead of closing
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false},
		{"a raft AppendEntries without handshake", append([]byte{0}, bytes.Repeat([]byte{0x80}, 64)...), false},
		{"random bytes", bytes.Repeat([]byte{0xa5}, 4096), false},
		{"a port scan", nil, false},
		{"cut off in the middle", raw[:len(raw)-3], false},
		{"silence", raw[:7], true},
	}
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			conn := rawDial(t, tr)
			conn.Write(r.send)
			if !r.hold {
				conn.(*net.TCPConn).CloseWrite()
			}
			if got, _ := io.ReadAll(conn); len(got) != 0 {
				t.Fatalf("a stranger was told %q", got)
			}
			eventually(t, "the stranger is counted", func() bool { return tr.Stats().Strangers == uint64(i+1) })
		})
	}
}

func TestCall(t *testing.T) {
	var b book
	ctx := testContext(t)
	a := listen(t, &b, "n1~a", nil)
	listen(t, &b, "n2~b", func(c *Config) {
		c.Handler = func(ctx context.Context, from string, method byte, body []byte) ([]byte, error) {
			switch method {
			case 2:
				return nil, errors.New("not today")
			case 3:
				return make([]byte, maxCallBody+1), nil
			case 4:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return echo(ctx, from, method, body)
		}
	})
	listen(t, &b, "n3~c", func(c *Config) { c.ClusterID = func() string { return "c2" } })
	b.set("n4~d", "127.0.0.1:1") // nobody listens there

	t.Run("answer", func(t *testing.T) {
		got, err := a.Call(ctx, "n2~b", 1, []byte("hi"))
		if err != nil || string(got) != "n1~a/1/hi" {
			t.Fatalf("got %q, %v", got, err)
		}
	})
	t.Run("empty body", func(t *testing.T) {
		if got, err := a.Call(ctx, "n2~b", 1, nil); err != nil || string(got) != "n1~a/1/" {
			t.Fatalf("got %q, %v", got, err)
		}
	})
	t.Run("to itself", func(t *testing.T) {
		if got, err := a.Call(ctx, "n1~a", 9, []byte("me")); err != nil || string(got) != "n1~a/9/me" {
			t.Fatalf("got %q, %v", got, err)
		}
	})
	t.Run("concurrent calls get their own answers", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 2 * maxCalls {
			wg.Go(func() {
				body := fmt.Sprint(i)
				if got, err := a.Call(ctx, "n2~b", 1, []byte(body)); err != nil || string(got) != "n1~a/1/"+body {
					t.Errorf("call %d: got %q, %v", i, got, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("1 MiB", func(t *testing.T) {
		body := bytes.Repeat([]byte("x"), maxCallBody-len("n1~a/1/"))
		got, err := a.Call(ctx, "n2~b", 1, body)
		if err != nil || len(got) != maxCallBody {
			t.Fatalf("got %d bytes, %v, want %d", len(got), err, maxCallBody)
		}
	})
	t.Run("too large a question", func(t *testing.T) {
		_, err := a.Call(ctx, "n2~b", 1, make([]byte, maxCallBody+1))
		if err == nil || !strings.Contains(err.Error(), "at most 1048576") {
			t.Fatalf("got %v, want the limit named", err)
		}
	})
	var remote *RemoteError
	t.Run("too large an answer", func(t *testing.T) {
		if _, err := a.Call(ctx, "n2~b", 3, nil); !errors.As(err, &remote) || remote.Text != "the answer is too large" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("remote error", func(t *testing.T) {
		if _, err := a.Call(ctx, "n2~b", 2, nil); !errors.As(err, &remote) || remote.Text != "not today" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("timeout leaves the connection usable", func(t *testing.T) {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		if _, err := a.Call(short, "n2~b", 4, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the deadline", err)
		}
		if _, err := a.Call(ctx, "n2~b", 1, nil); err != nil {
			t.Fatalf("after a timeout: %v", err)
		}
	})
	t.Run("peer of another cluster", func(t *testing.T) {
		if _, err := a.Call(ctx, "n3~c", 1, nil); !errors.Is(err, ErrRefused) {
			t.Fatalf("got %v, want a refusal", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		_, err := a.Call(ctx, "n4~d", 1, nil)
		if err == nil || errors.Is(err, ErrOutcomeUnknown) {
			t.Fatalf("got %v, want a definite error", err)
		}
	})
	t.Run("unknown server", func(t *testing.T) {
		if _, err := a.Call(ctx, "n5~e", 1, nil); err == nil || !strings.Contains(err.Error(), "has not been heard") {
			t.Fatalf("got %v", err)
		}
	})
}

// The question has arrived when the peer dies: the caller must not believe that nothing happened.
func TestCallThatIsCutOffIsUnknown(t *testing.T) {
	var b book
	ctx := testContext(t)
	a := listen(t, &b, "n1~a", nil)
	arrived := make(chan struct{})
	p := listen(t, &b, "n2~b", func(c *Config) {
		c.Handler = func(ctx context.Context, _ string, _ byte, _ []byte) ([]byte, error) {
			close(arrived)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	got := make(chan error, 1)
	go func() { _, err := a.Call(ctx, "n2~b", 1, nil); got <- err }()
	<-arrived
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	var remote *RemoteError
	if err := <-got; !errors.Is(err, ErrOutcomeUnknown) && !errors.As(err, &remote) {
		t.Fatalf("got %v, want outcome unknown", err)
	}
}

func TestCallFollowsAPeerThatComesBackElsewhere(t *testing.T) {
	var b book
	ctx := testContext(t)
	a := listen(t, &b, "n1~a", nil)
	for round := range 3 {
		p := listen(t, &b, "n2~b", nil) // another port each time
		eventually(t, fmt.Sprintf("the peer answers in round %d", round), func() bool {
			got, err := a.Call(ctx, "n2~b", 1, []byte("hi"))
			return err == nil && string(got) == "n1~a/1/hi"
		})
		p.Close()
	}
}

func TestCallAfterClose(t *testing.T) {
	var b book
	a := listen(t, &b, "n1~a", nil)
	a.Close()
	if _, err := a.Call(testContext(t), "n2~b", 1, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	if _, err := a.Group("1-1"); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	if err := a.Close(); err != nil {
		t.Fatalf("closed twice: %v", err)
	}
}

func TestAGroupIsOpenOnce(t *testing.T) {
	var b book
	a := listen(t, &b, "n1~a", nil)
	first, err := a.Group("1-1")
	if err != nil {
		t.Fatal(err)
	}
	if got := first.LocalAddr(); got != "n1~a" {
		t.Errorf("a server's address is %s, want its id", got)
	}
	if _, err := a.Group("1-1"); err == nil {
		t.Fatal("got the group twice")
	}
	first.Close()
	again, err := a.Group("1-1")
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	again.Close()
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	var b book
	ts := []*Transport{listen(t, &b, "n1~a", nil), listen(t, &b, "n2~b", nil), listen(t, &b, "n3~c", nil)}
	replicate(t, ts, "1-1", 10)
	left, hold := openGroup(t, ts[0], "2-1"), openGroup(t, ts[1], "2-1") // not closed by anybody, with something in flight
	p, err := left.AppendEntriesPipeline("n2~b", "n2~b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AppendEntries(appendOf("n1~a", 1, nil), new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { // ends with the transport
		sent <- left.InstallSnapshot("n2~b", "n2~b", &raft.InstallSnapshotRequest{RPCHeader: ownHeader(), Size: 1 << 30}, new(raft.InstallSnapshotResponse), zeros(1<<30))
	}()
	snapshot := <-hold.Consumer()
	if snapshot.Reader == nil {
		snapshot = <-hold.Consumer()
	}
	for _, from := range ts {
		for _, to := range ts {
			if _, err := from.Call(testContext(t), to.cfg.LocalID, 1, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	rawDial(t, ts[0]) // says nothing; Close must not wait for it
	for _, tr := range ts {
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-sent; err == nil { // it counts until it has returned to its caller, who is no part of the transport
		t.Error("a snapshot that was cut off is said to be installed")
	}
	for _, tr := range ts {
		if s := tr.Stats(); s.Connections != 0 || s.Snapshots != 0 || s.Inbound != 0 {
			t.Errorf("after Close: %+v", s)
		}
	}
	defer func() {
		if t.Failed() {
			stacks := make([]byte, 1<<20)
			t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
		}
	}()
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
}
