package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

const (
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = time.Second
)

// link is where the connection of one kind to one peer is found: at most one at a time, dialled when somebody asks for it.
//
// While the peer is not known to be gone, who asks waits for the attempt. After a failed attempt everybody gets its error at once, except for one who
// tries again when the pause is over: 20 ms, doubled with each failure up to 1 s, less a random part of up to a half.
type link struct {
	transport *Transport
	to        string
	kind      byte

	mu       sync.Mutex    // guards what follows
	conn     *conn         // nil: none
	attempt  chan struct{} // closed when the attempt that is under way ends; nil: there is none
	failures int           // since the last success
	err      error         // of the last attempt
	notYet   time.Time     // no attempt before
}

// get returns the connection. stop ends the wait for it.
func (l *link) get(stop <-chan struct{}) (*conn, error) {
	l.mu.Lock()
	switch {
	case l.conn != nil:
		defer l.mu.Unlock()
		return l.conn, nil
	case l.failures > 0 && (l.attempt != nil || time.Now().Before(l.notYet)):
		defer l.mu.Unlock()
		return nil, fmt.Errorf("not connected: %w", l.err)
	case l.attempt == nil:
		if !l.start() {
			l.mu.Unlock()
			return nil, ErrClosed
		}
	}
	attempt := l.attempt
	l.mu.Unlock()
	select {
	case <-attempt:
	case <-stop:
		return nil, errStopped
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		if l.err == nil { // it was made and is broken already
			return nil, fmt.Errorf("the connection to %s broke at once", l.to)
		}
		return nil, l.err
	}
	return l.conn, nil
}

// now returns the connection if there is one. If not, it has one dialled, when it is time, and does not wait.
func (l *link) now() (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		return l.conn, nil
	}
	if l.attempt == nil && !time.Now().Before(l.notYet) && !l.start() {
		return nil, ErrClosed
	}
	if l.err != nil {
		return nil, fmt.Errorf("not connected: %w", l.err)
	}
	return nil, fmt.Errorf("not connected to %s yet", l.to)
}

// start begins an attempt; l.mu is held.
func (l *link) start() bool {
	attempt := make(chan struct{})
	l.attempt = attempt
	ok := l.transport.spawn(func() { // ends with the connection, or with the attempt when it fails
		nc, r, err := l.transport.dial(l.transport.ctx, l.to, l.kind)
		var c *conn
		l.mu.Lock()
		l.attempt, l.err = nil, err
		if err != nil {
			pause := min(firstBackoff<<min(l.failures, 10), lastBackoff)
			l.failures++
			l.notYet = time.Now().Add(pause - rand.N(pause/2))
		} else {
			c = newConn(l, nc, r)
			l.failures, l.notYet, l.conn = 0, time.Time{}, c
		}
		close(attempt)
		l.mu.Unlock()
		if c == nil {
			return
		}
		l.transport.counts.connections.Add(1)
		defer l.transport.counts.connections.Add(-1)
		defer context.AfterFunc(l.transport.ctx, func() { c.fail(ErrClosed) })()
		c.run()
	})
	if !ok {
		l.attempt = nil
	}
	return ok
}

// lost tells that the connection is broken.
func (l *link) lost(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == c {
		l.conn = nil
	}
}

// dial connects to where the server listens now and shakes hands. It takes DialTimeout at most.
func (t *Transport) dial(ctx context.Context, to string, kind byte) (net.Conn, *bufio.Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	defer cancel()
	addr, err := t.cfg.Resolve(to)
	if err != nil {
		return nil, nil, err
	}
	d := net.Dialer{KeepAliveConfig: keepAlive}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	if t.cfg.TLS != nil {
		cfg := t.cfg.TLS.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(addr)
		}
		nc = tls.Client(nc, cfg)
	}
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	stop := context.AfterFunc(t.ctx, func() { hangUp(nc) }) // Close does not wait for a handshake
	r := bufio.NewReaderSize(nc, readBuffer)
	raw, err := (&handshake{kind: kind, cluster: t.cfg.ClusterID(), from: t.cfg.LocalID, to: to}).encode()
	if err == nil {
		_, err = nc.Write(raw)
	}
	if err == nil {
		err = readAnswer(r)
	}
	if !stop() && err == nil {
		err = ErrClosed
	}
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("handshake with %s at %s: %w", to, addr, err)
	}
	nc.SetDeadline(time.Time{})
	return nc, r, nil
}

// keepAlive finds accepted connections whose dialler lost its power; dialled ones notice by themselves.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

const readBuffer = 64 << 10
