package transport

import (
	"context"
	"errors"
	"fmt"
)

// RemoteError is what the peer's Handler returned, or why the peer's transport or raft did not take a question.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// ErrOutcomeUnknown means that the connection broke after the question was sent: the peer may have acted on it.
var ErrOutcomeUnknown = errors.New("the connection broke before the answer came")

const (
	maxCallBody     = 1 << 20
	maxCalls        = 256  // that are answered at once
	maxCallsWaiting = 8192 // and wait for it; more are refused. As many that wait for other calls are answered at once: a goroutine each
	maxNotesWaiting = 1024
	callLane        = "\x00call"
	waitLane        = "\x00wait"
	noteLane        = "\x00note"
)

// Call asks the server and returns its Handler's answer, or a *RemoteError. body and answer are at most 1 MiB. Calls of one peer share its control
// connection; the first one opens it. ctx bounds the wait: there is no other bound while the peer lives. A call to this server itself goes straight to
// the Handler.
//
// ErrOutcomeUnknown means that the question may have reached the peer, as does ctx's error. With every other error it was not sent.
func (t *Transport) Call(ctx context.Context, to string, method byte, body []byte) ([]byte, error) {
	if to == t.cfg.LocalID {
		answer, err := t.cfg.Handler(ctx, to, method, body)
		if err != nil {
			return nil, &RemoteError{Text: err.Error()}
		}
		return answer, nil
	}
	if len(body) > maxCallBody {
		return nil, fmt.Errorf("call to %s: %d bytes, at most %d are allowed", to, len(body), maxCallBody)
	}
	c, err := t.link(to, kindControl).get(ctx.Done())
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("call to %s: %w", to, err)
	}
	var answer []byte
	m := newMessage(frameQuestion)
	m.payload = append(append(m.payload, opCall, method), body...)
	e := &exchange{resp: &answer, done: make(chan struct{})}
	id, err := c.ask(e, t.callsOf(method).lane, m)
	if err != nil {
		return nil, fmt.Errorf("call to %s: %w", to, err)
	}
	select {
	case <-e.done:
	case <-ctx.Done():
		if c.forget(id) {
			return nil, ctx.Err()
		}
		<-e.done
	}
	var remote *RemoteError
	switch {
	case e.err == nil:
		return answer, nil
	case errors.As(e.err, &remote):
		return nil, remote
	}
	return nil, fmt.Errorf("call to %s: %w: %w", to, ErrOutcomeUnknown, e.err)
}

// callBox is where calls wait for their handler, and the lane in which they and their answers go.
type callBox struct {
	*inbox[call]
	lane string
}

func (t *Transport) newCalls(lane string, workers int) callBox {
	return callBox{&inbox[call]{handle: t.answerCall, workers: workers, maxItems: maxCallsWaiting, maxBytes: laneBytes, all: &t.inbound, wg: &t.wg}, lane}
}

// callsOf returns the box of a method's calls.
func (t *Transport) callsOf(method byte) callBox {
	if t.cfg.Waits != nil && t.cfg.Waits(method) {
		return t.waits
	}
	return t.calls
}

// call is a peer's Call on its way to the Handler.
type call struct {
	conn   *served
	id     uint64
	method byte
	body   []byte
}

func (t *Transport) answerCall(c call) {
	body, err := t.cfg.Handler(t.ctx, c.conn.from, c.method, c.body)
	if err == nil && len(body) > maxCallBody {
		err = errors.New("the answer is too large")
	}
	m := newMessage(frameAnswer)
	if err != nil {
		text := err.Error()
		m.payload = append(append(m.payload, statusError), text[:min(len(text), maxCallBody)]...)
	} else {
		m.payload = append(append(m.payload, statusOK), body...)
	}
	c.conn.answer(t.callsOf(c.method).lane, c.id, m)
}

// note is what a peer gave to Send: method and body.
type note struct {
	from string
	body []byte
}

func (t *Transport) newNotes() *inbox[note] {
	return &inbox[note]{workers: 1, maxItems: maxNotesWaiting, maxBytes: 8 << 20, all: &t.inbound, wg: &t.wg, handle: func(n note) {
		if t.cfg.OnMessage != nil && t.ctx.Err() == nil {
			t.cfg.OnMessage(n.from, n.body[0], n.body[1:])
		}
	}}
}

// Send hands a message to the server's OnMessage, at most once: nobody hears whether it came. body is at most 1 MiB. Messages to one server that come, come
// in order. Send never waits: without a connection it has one dialled and returns an error, as it does when the queue is full (ErrOverloaded).
func (t *Transport) Send(to string, method byte, body []byte) error {
	if len(body) > maxCallBody {
		return fmt.Errorf("message to %s: %d bytes, at most %d are allowed", to, len(body), maxCallBody)
	}
	if to == t.cfg.LocalID {
		if err := t.own.offer(note{to, append([]byte{method}, body...)}, 1+len(body)); err != nil {
			t.counts.noRoom(err)
			return fmt.Errorf("message to %s: %w", to, err)
		}
		return nil
	}
	c, err := t.link(to, kindControl).now()
	if err == nil {
		m := newMessage(frameNote)
		m.payload = append(append(m.payload, method), body...)
		err = c.tell(noteLane, m)
	} else {
		t.counts.dropped.Add(1)
	}
	if err != nil {
		return fmt.Errorf("message to %s: %w", to, err)
	}
	return nil
}
