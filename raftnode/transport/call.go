package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// RemoteError is what the peer's Handler returned.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// ErrOutcomeUnknown means that the connection broke after the question was sent: the peer may have acted on it.
var ErrOutcomeUnknown = errors.New("the connection broke before the answer came")

// Call asks the server and returns its Handler's answer, or a *RemoteError. body and answer are at most 1 MiB. Calls share one connection a peer; the
// first one opens it. A call to this server itself goes straight to the Handler.
func (t *Transport) Call(ctx context.Context, to string, method byte, body []byte) ([]byte, error) {
	if to == t.cfg.LocalID {
		answer, err := t.cfg.Handler(ctx, to, method, body)
		if err != nil {
			return nil, &RemoteError{Text: err.Error()}
		}
		return answer, nil
	}
	if len(body) > maxFrameBody {
		return nil, fmt.Errorf("call to %s: %d bytes, at most %d are allowed", to, len(body), maxFrameBody)
	}
	p, err := t.peer(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("call to %s: %w", to, err)
	}
	return p.call(ctx, method, body)
}

// peer is one control connection to another server.
type peer struct {
	transport *Transport
	to        string
	ready     chan struct{} // closed when conn or err is set
	conn      net.Conn
	err       error

	write sync.Mutex   // held to write one frame
	heard atomic.Int64 // when the last frame came, in Unix nanoseconds

	mu      sync.Mutex // guards what follows
	next    uint64
	waiting map[uint64]chan frame // nil when the connection is broken
	broken  error
}

// peer returns the open connection to the server, opening it when there is none. All callers that come meanwhile wait for the same attempt.
func (t *Transport) peer(ctx context.Context, to string) (*peer, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	p := t.peers[to]
	if p == nil {
		p = &peer{transport: t, to: to, ready: make(chan struct{}), waiting: make(map[uint64]chan frame)}
		t.peers[to] = p
		t.wg.Add(1)
		go p.run() // ends when the connection breaks or the transport closes
	}
	t.mu.Unlock()
	select {
	case <-p.ready:
		return p, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *peer) run() {
	defer p.transport.wg.Done()
	conn, r, err := p.transport.dial(p.transport.ctx, p.to, kindControl, "")
	p.conn, p.err = conn, err
	close(p.ready)
	if err == nil {
		stop := context.AfterFunc(p.transport.ctx, func() { conn.Close() })
		for {
			var f frame
			if f, err = readFrame(r); err != nil {
				break
			}
			p.heard.Store(time.Now().UnixNano())
			p.mu.Lock()
			ch := p.waiting[f.call]
			delete(p.waiting, f.call)
			p.mu.Unlock()
			if ch != nil {
				ch <- f
			}
		}
		stop()
		conn.Close()
	}
	p.fail(err)
	t := p.transport
	t.mu.Lock()
	if t.peers[p.to] == p {
		delete(t.peers, p.to)
	}
	t.mu.Unlock()
}

// fail ends every call that waits.
func (p *peer) fail(err error) {
	p.mu.Lock()
	waiting := p.waiting
	p.waiting = nil
	if p.broken == nil {
		p.broken = err
	}
	p.mu.Unlock()
	for _, ch := range waiting {
		close(ch)
	}
}

func (p *peer) call(ctx context.Context, method byte, body []byte) ([]byte, error) {
	ch := make(chan frame, 1)
	began := time.Now()
	p.mu.Lock()
	if p.waiting == nil {
		err := p.broken
		p.mu.Unlock()
		return nil, fmt.Errorf("call to %s: %w", p.to, err)
	}
	p.next++
	id := p.next
	p.waiting[id] = ch
	p.mu.Unlock()
	f := frame{call: id, tag: method, body: body}
	p.write.Lock()
	p.conn.SetWriteDeadline(time.Now().Add(p.transport.cfg.IOTimeout))
	_, err := p.conn.Write(f.encode())
	p.write.Unlock()
	if err != nil {
		p.conn.Close() // run sees it and fails all
	}
	select {
	case answer, ok := <-ch:
		if !ok {
			return nil, fmt.Errorf("call to %s: %w", p.to, ErrOutcomeUnknown)
		}
		if answer.tag != statusOK {
			return nil, &RemoteError{Text: string(answer.body)}
		}
		return answer.body, nil
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.waiting, id)
		p.mu.Unlock()
		// A peer that lost its power leaves the connection open at our end, and TCP tries for a quarter of an hour. Nothing heard for a
		// whole exchange: the next call opens a new one, to wherever the peer is by then.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && p.heard.Load() < began.UnixNano() && time.Since(began) > p.transport.cfg.IOTimeout/4 {
			p.conn.Close()
		}
		return nil, ctx.Err()
	}
}

// serveCalls answers a peer's calls until the connection ends. Calls are answered concurrently, a bounded number at once.
func (t *Transport) serveCalls(conn net.Conn, r *bufio.Reader, from string) {
	var write sync.Mutex // held to write one frame
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		select {
		case t.calls <- struct{}{}:
		case <-t.ctx.Done():
			return
		}
		t.wg.Add(1)
		go func() { // ends with the handler
			defer func() { <-t.calls; t.wg.Done() }()
			answer := frame{call: f.call, tag: statusOK}
			body, err := t.cfg.Handler(t.ctx, from, f.tag, f.body)
			answer.body = body
			if err != nil {
				answer.tag, answer.body = statusError, []byte(err.Error())
			}
			if len(answer.body) > maxFrameBody {
				answer.tag, answer.body = statusError, []byte("the answer is too large")
			}
			write.Lock()
			defer write.Unlock()
			conn.SetWriteDeadline(time.Now().Add(t.cfg.IOTimeout))
			if _, err := conn.Write(answer.encode()); err != nil {
				conn.Close()
			}
		}()
	}
}
