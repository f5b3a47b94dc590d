package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// served is a connection that a peer dialled: it asks, this node answers. Its reader hands everything to inboxes and never waits for one.
type served struct {
	net.Conn
	transport *Transport
	from      string
	peer      []byte // from, as raft wants it
	out       *outbox
	notes     *inbox[note]
}

// request is a question that raft shall answer.
type request struct {
	cmd any
	at  time.Time // when it came; after an IOTimeout nobody waits any more

	conn *served // to answer on, with id
	id   uint64
}

// reply sends raft's answer to whoever asked.
func (r *request) reply(resp any, err error) {
	m := newMessage(frameAnswer)
	m.payload = appendReply(m.payload, r.conn.transport.cfg.LocalID, resp, err)
	lane := urgentLane
	if beat, ok := r.cmd.(*raft.AppendEntriesRequest); ok && isHeartbeat(beat) {
		lane = patientLane
	}
	r.conn.answer(lane, r.id, m)
}

// answer sends an answer. When there is no room for it the peer does not read, and the connection ends.
func (s *served) answer(key string, id uint64, m *message) {
	m.exchange = id
	if err := s.out.put(key, m); errors.Is(err, ErrOverloaded) {
		s.out.fail(err)
		hangUp(s.Conn)
	}
}

func (s *served) refuse(id uint64, err error) {
	m := newMessage(frameAnswer)
	m.payload = appendError(m.payload, err)
	s.answer(urgentLane, id, m)
}

// serve answers what a peer asks until the connection ends.
func (t *Transport) serve(nc net.Conn, r *bufio.Reader, from string, out *outbox) {
	s := &served{Conn: nc, transport: t, from: from, peer: []byte(from), out: out, notes: t.newNotes()}
	if !t.spawn(func() { // ends when a write fails, or below
		s.out.run(nc, t.cfg.IOTimeout)
		hangUp(nc)
	}) {
		return
	}
	in := frames{r: r, admit: s.admit}
	for {
		m, err := in.next()
		if err != nil {
			t.cfg.Logger.Debug("raft connection", "from", from, "error", err)
			break
		}
		t.counts.framesIn.Add(1)
		t.counts.bytesIn.Add(uint64(in.bytes))
		m.ticket.release() // its place is taken again at once
		switch m.kind {
		case frameQuestion:
			s.question(m)
			continue
		case frameNote:
			if len(m.payload) > 0 {
				t.counts.noRoom(s.notes.offer(note{from, m.payload}, len(m.payload)))
			}
			continue
		case framePing:
			s.answer(urgentLane, 0, newMessage(framePong))
			continue
		}
		t.cfg.Logger.Warn("raft connection", "from", from, "error", fmt.Sprintf("a frame of kind %d where questions are expected", m.kind))
		break
	}
	in.drop()
	s.notes.close()
	s.out.fail(net.ErrClosed)
}

// box finds the inbox that a question is for, by its first bytes.
func (s *served) box(d *decoder) (op byte, g *Group, box room, err error) {
	if len(d.b) > 0 && d.b[0] == opCall {
		op, method := d.byte(), byte(0)
		if len(d.b) > 0 { // it stays: what follows the operation is read by question
			method = d.b[0]
		}
		return op, nil, s.transport.callsOf(method), nil
	}
	op, key := d.address()
	if d.err != nil {
		return op, nil, nil, d.err
	}
	if g = s.transport.group(key); g == nil {
		return op, nil, nil, fmt.Errorf("group %s is not open here", key)
	}
	return op, g, g.votes, nil
}

// room is what an inbox of any kind of item can do for a message that is still coming in.
type room interface {
	reserve(size int) error
	free(size int)
}

// admit decides whether a long message is put together.
func (s *served) admit(in incoming, total int) (*ticket, bool) {
	var box room = s.notes
	if in.kind == frameQuestion {
		d := decoder{b: in.payload, sender: s.peer}
		op, g, found, err := s.box(&d)
		if err != nil {
			s.refuse(in.exchange, err)
			return nil, false
		}
		box = found
		if op == opAppendEntries {
			box = g.log
		}
	}
	if err := box.reserve(total); err != nil {
		s.transport.counts.noRoom(err)
		if in.kind == frameQuestion {
			s.refuse(in.exchange, err)
		}
		return nil, false
	}
	return &ticket{size: total, free: box.free}, true
}

func (s *served) question(in incoming) {
	t := s.transport
	d := decoder{b: in.payload, sender: s.peer}
	op, g, _, err := s.box(&d)
	if err != nil {
		s.refuse(in.exchange, err)
		return
	}
	var cmd any
	if op == opCall {
		method := d.byte()
		err = t.callsOf(method).offer(call{conn: s, id: in.exchange, method: method, body: d.b}, len(in.payload))
	} else if cmd, err = d.request(op); err != nil {
		t.cfg.Logger.Warn("raft message", "from", s.from, "error", err)
	} else {
		err = g.take(request{cmd: cmd, at: time.Now(), conn: s, id: in.exchange}, len(in.payload))
	}
	if err != nil {
		t.counts.noRoom(err)
		s.refuse(in.exchange, err)
	}
}

// accept hands out connections until the listener is closed.
func (t *Transport) accept() {
	for {
		nc, err := t.listener.Accept()
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
		if !t.spawn(func() { // ends with the connection, which Close closes
			defer nc.Close()
			defer context.AfterFunc(t.ctx, func() { hangUp(nc) })()
			t.welcome(nc)
		}) {
			nc.Close()
		}
	}
}

// welcome reads the handshake and serves the connection.
func (t *Transport) welcome(nc net.Conn) {
	nc.SetDeadline(time.Now().Add(t.cfg.DialTimeout))
	r := bufio.NewReaderSize(nc, readBuffer)
	h, err := readHandshake(r)
	reason := ""
	switch {
	case errors.Is(err, errVersion):
		t.cfg.Logger.Warn("a connection to the raft listener is refused", "remote", nc.RemoteAddr(), "error", err)
		reason = err.Error()
	case err != nil:
		t.strangers.Add(1)
		t.cfg.Logger.Debug("a connection to the raft listener is refused", "remote", nc.RemoteAddr(), "error", err)
		return
	default:
		reason = t.judge(h)
	}
	if _, err := nc.Write(encodeAnswer(reason)); err != nil || reason != "" {
		return
	}
	nc.SetDeadline(time.Time{})
	t.counts.connections.Add(1)
	defer t.counts.connections.Add(-1)
	if h.kind == kindSnapshot {
		t.serveSnapshot(nc, r, h.from)
		return
	}
	out := newOutbox(&t.counts, t.cfg.HeartbeatWait)
	defer t.only(h, &accepted{nc, out})()
	t.serve(nc, r, h.from, out)
}

// only closes an earlier connection of the same kind from the same server, which has given it up: it dials one at a time.
func (t *Transport) only(h handshake, a *accepted) (done func()) {
	key := acceptedKey{h.from, h.kind}
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.accepted[key]; old != nil {
		hangUp(old.conn)
	}
	t.accepted[key] = a
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.accepted[key] == a {
			delete(t.accepted, key)
		}
	}
}

// judge says why a connection is refused; empty: it is welcome.
func (t *Transport) judge(h handshake) string {
	switch own := t.cfg.ClusterID(); {
	case own == "":
		return "this node is not in a cluster yet"
	case h.cluster != own:
		return fmt.Sprintf("this node is in cluster %s, not %s", own, h.cluster)
	case h.to != t.cfg.LocalID:
		return fmt.Sprintf("this is %s, not %s", t.cfg.LocalID, h.to)
	case h.from == t.cfg.LocalID:
		return fmt.Sprintf("this is %s itself: two servers have one id", t.cfg.LocalID)
	case h.kind != kindControl && h.kind != kindLog && h.kind != kindSnapshot:
		return fmt.Sprintf("connection kind %d is not known", h.kind)
	}
	return ""
}
