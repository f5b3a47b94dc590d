package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Handler answers a peer's Call. It may be called concurrently; ctx is done when the transport closes.
type Handler func(ctx context.Context, from string, method byte, body []byte) ([]byte, error)

// Config is what a Transport needs.
type Config struct {
	Listen      string                                // host:port; port 0 chooses one
	ClusterID   func() string                         // checked in both directions; empty before the cluster is formed: everybody is refused
	LocalID     string                                // this server's id
	Resolve     func(serverID string) (string, error) // where that server listens now
	Handler     Handler
	TLS         *tls.Config   // for both directions; nil: plain TCP
	DialTimeout time.Duration // including the handshake; default 2 s
	IOTimeout   time.Duration // of one exchange of a group, more for a snapshot by its size; default 3 s
	Logger      *slog.Logger
}

// Transport is one node's end of all connections.
type Transport struct {
	cfg      Config
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	calls    chan struct{} // bounds calls that are being answered

	// Strangers counts connections whose handshake was not understood.
	strangers atomic.Uint64

	mu     sync.Mutex // guards what follows
	groups map[string]*layer
	peers  map[string]*peer
	conns  map[net.Conn]bool // accepted ones, to close
	closed bool
}

// ErrClosed means that the transport or the group's part of it is closed.
var ErrClosed = errors.New("transport is closed")

const maxCalls = 256

// Listen begins to accept connections.
func Listen(cfg Config) (*Transport, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.IOTimeout == 0 {
		cfg.IOTimeout = 3 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		l = tls.NewListener(l, cfg.TLS)
	}
	t := &Transport{
		cfg: cfg, listener: l, calls: make(chan struct{}, maxCalls),
		groups: make(map[string]*layer), peers: make(map[string]*peer), conns: make(map[net.Conn]bool),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Add(1)
	go t.accept() // ends when the listener is closed
	return t, nil
}

// Addr returns where the transport listens.
func (t *Transport) Addr() net.Addr { return t.listener.Addr() }

// Strangers returns how many connections did not speak the protocol.
func (t *Transport) Strangers() uint64 { return t.strangers.Load() }

func (t *Transport) accept() {
	defer t.wg.Done()
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			if t.ctx.Err() != nil {
				return
			}
			t.cfg.Logger.Warn("raft listener", "error", err)
			select {
			case <-time.After(100 * time.Millisecond): // out of file descriptors, most likely
			case <-t.ctx.Done():
				return
			}
			continue
		}
		if !t.track(conn) {
			conn.Close()
			return
		}
		t.wg.Add(1)
		go func() { // ends when the connection is given to a group or closed
			defer t.wg.Done()
			t.welcome(conn)
		}()
	}
}

func (t *Transport) track(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.conns[conn] = true
	return true
}

func (t *Transport) untrack(conn net.Conn) {
	t.mu.Lock()
	delete(t.conns, conn)
	t.mu.Unlock()
	conn.Close()
}

// welcome reads the handshake and hands the connection to whom it is for.
func (t *Transport) welcome(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(t.cfg.DialTimeout))
	r := bufio.NewReader(conn)
	h, err := readHandshake(r)
	if err != nil {
		t.strangers.Add(1)
		t.cfg.Logger.Debug("a connection to the raft listener is refused", "remote", conn.RemoteAddr(), "error", err)
		t.untrack(conn)
		return
	}
	layer, reason := t.judge(h)
	if _, err := conn.Write(encodeAnswer(reason)); err != nil || reason != "" {
		t.untrack(conn)
		return
	}
	conn.SetDeadline(time.Time{})
	if layer == nil {
		t.serveCalls(conn, r, h.from)
		t.untrack(conn)
		return
	}
	gc := &groupConn{Conn: conn, r: r, done: func() { t.untrack(conn) }}
	if !layer.deliver(gc) {
		gc.Close()
	}
}

// judge says which group a connection is for (nil: control), or why it is refused.
func (t *Transport) judge(h handshake) (*layer, string) {
	switch own := t.cfg.ClusterID(); {
	case own == "":
		return nil, "this node is not in a cluster yet"
	case h.cluster != own:
		return nil, fmt.Sprintf("this node is in cluster %s, not %s", own, h.cluster)
	case h.to != t.cfg.LocalID:
		return nil, fmt.Sprintf("this is %s, not %s", t.cfg.LocalID, h.to)
	case h.kind == kindControl:
		return nil, ""
	case h.kind != kindGroup:
		return nil, fmt.Sprintf("connection kind %d is not known", h.kind)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.groups[h.group]
	if l == nil {
		return nil, fmt.Sprintf("group %s is not open here", h.group)
	}
	return l, ""
}

// dial connects to the server and shakes hands.
func (t *Transport) dial(ctx context.Context, to string, kind byte, group string) (net.Conn, *bufio.Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	defer cancel()
	addr, err := t.cfg.Resolve(to)
	if err != nil {
		return nil, nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	if t.cfg.TLS != nil {
		cfg := t.cfg.TLS.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(addr)
		}
		conn = tls.Client(conn, cfg)
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	h := handshake{kind: kind, cluster: t.cfg.ClusterID(), from: t.cfg.LocalID, to: to, group: group}
	r := bufio.NewReader(conn)
	raw, err := h.encode()
	if err == nil {
		_, err = conn.Write(raw)
	}
	if err == nil {
		err = readAnswer(r)
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("handshake with %s at %s: %w", to, addr, err)
	}
	conn.SetDeadline(time.Time{})
	return conn, r, nil
}

// Close ends all connections and waits for every goroutine it started. Groups must be closed before.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	conns := make([]net.Conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	peers := t.peers
	t.peers = nil
	t.mu.Unlock()
	t.cancel()
	err := t.listener.Close()
	for _, p := range peers {
		p.fail(ErrClosed)
	}
	for _, c := range conns {
		c.Close()
	}
	t.wg.Wait()
	return err
}
