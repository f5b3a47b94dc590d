package transport

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// maxPool is how many idle connections a group keeps to each peer: one for heartbeats, one for what is not pipelined. After a peer lost its power
// each idle connection costs one IOTimeout before a new one is opened.
const maxPool = 2

// Group returns raft's transport for the group. The address of a server is its id. Closing it, which raft does when it shuts down, closes the
// group's connections and gives the key free.
func (t *Transport) Group(key string) (*raft.NetworkTransport, error) {
	l := &layer{transport: t, key: key, accepted: make(chan net.Conn), done: make(chan struct{}), conns: make(map[net.Conn]bool)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	if t.groups[key] != nil {
		return nil, fmt.Errorf("group %s is open already", key)
	}
	t.groups[key] = l
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: l, MaxPool: maxPool, Timeout: t.cfg.IOTimeout, Logger: hclog.NewNullLogger(),
	}), nil
}

// layer is a group's share of the listener, as raft's network transport wants it.
type layer struct {
	transport *Transport
	key       string
	accepted  chan net.Conn
	done      chan struct{} // closed with the layer

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	closed bool
}

var _ raft.StreamLayer = (*layer)(nil)

// deliver gives an accepted connection to the group; false when it is closed.
func (l *layer) deliver(c *groupConn) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	untrack := c.done
	c.done = func() {
		l.mu.Lock()
		delete(l.conns, c)
		l.mu.Unlock()
		untrack()
	}
	l.conns[c] = true // Close may close it from here on
	l.mu.Unlock()
	select {
	case l.accepted <- c:
		return true
	case <-l.done:
		return false
	}
}

// Accept returns the next connection that another member opened for the group.
func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Dial connects to the member whose address is its server id.
func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	conn, r, err := l.transport.dial(l.transport.ctx, string(address), kindGroup, l.key)
	if err != nil {
		return nil, err
	}
	return &groupConn{Conn: conn, r: r, done: func() { conn.Close() }}, nil
}

// Addr returns this server's address: its id.
func (l *layer) Addr() net.Addr { return serverAddr(l.transport.cfg.LocalID) }

// Close closes the group's accepted connections; raft closes those it dialled.
func (l *layer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	conns := make([]net.Conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	t := l.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.groups[l.key] == l {
		delete(t.groups, l.key)
	}
	return nil
}

// groupConn is a connection behind its handshake: bytes that were read ahead are given first.
type groupConn struct {
	net.Conn
	r    *bufio.Reader
	once sync.Once
	done func()
}

func (c *groupConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *groupConn) Close() error {
	c.once.Do(func() { c.done() })
	return nil
}

type serverAddr string

func (a serverAddr) Network() string { return "quorate" }
func (a serverAddr) String() string  { return string(a) }
