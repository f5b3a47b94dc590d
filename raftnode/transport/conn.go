package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ErrTimeout means that the peer did not answer within the exchange's time. It may have acted, and may act yet.
var ErrTimeout = errors.New("no answer in time")

// errSilent breaks a connection.
var errSilent = errors.New("nothing was heard from the peer for a whole timeout")

// exchange is one question and its answer.
type exchange struct {
	resp     any       // where the answer goes
	deadline time.Time // zero: the one who waits sees to it
	pooled   bool
	future   *appendFuture // whose exchange it is, in a pipeline; nil: nobody's

	// done tells that err and resp are final: by one value when pooled, else by being closed.
	done chan struct{}
	err  error
}

var exchanges = sync.Pool{New: func() any { return &exchange{pooled: true, done: make(chan struct{}, 1)} }}

func (e *exchange) finish(err error) {
	e.err = err
	if e.future != nil {
		e.future.pipe.finished(e.future)
	} else if e.pooled {
		e.done <- struct{}{}
	} else {
		close(e.done)
	}
}

// conn is a connection that this node dialled: it asks, the peer answers. Who takes an exchange out of waiting finishes it, nobody else does.
type conn struct {
	net.Conn
	transport *Transport
	link      *link
	out       *outbox
	in        frames
	peer      []byte // the peer's server id

	mu      sync.Mutex // guards what follows
	next    uint64
	waiting map[uint64]*exchange // nil when the connection is broken
	broken  error
	asked   time.Time   // when the first question was sent since anything was heard; zero: the peer owes nothing
	pinged  bool        // since asked
	check   *time.Timer // runs while the peer owes anything
	armed   bool

	failed chan struct{} // closed when the first fail is over
}

func newConn(l *link, nc net.Conn, r *bufio.Reader) *conn {
	t := l.transport
	c := &conn{
		Conn: nc, transport: t, link: l, out: newOutbox(&t.counts, t.cfg.HeartbeatWait), in: frames{r: r}, peer: []byte(l.to), waiting: make(map[uint64]*exchange),
		failed: make(chan struct{}),
	}
	c.in.admit = c.admit
	return c
}

// maxAnswer is what a long answer may have: that of a call is the longest.
const maxAnswer = maxCallBody + 4<<10

// admit lets a long message in that somebody waits for, and that an answer can be: a peer, or whoever answers in its place, decides about no more of our memory.
func (c *conn) admit(in incoming, total int) (*ticket, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return nil, in.kind == frameAnswer && c.waiting[in.exchange] != nil && total <= maxAnswer
}

// ask sends the message as a question and returns the number under which the answer will come. With an error, the question was not sent.
func (c *conn) ask(e *exchange, key string, m *message) (uint64, error) {
	c.mu.Lock()
	if c.broken != nil {
		err := c.broken
		c.mu.Unlock()
		m.release()
		return 0, err
	}
	c.next++
	id := c.next
	m.exchange = id
	c.waiting[id] = e
	if c.asked.IsZero() {
		c.asked = time.Now()
	}
	c.arm()
	c.mu.Unlock()
	if err := c.out.put(key, m); err != nil {
		if !c.forget(id) {
			<-e.done
		}
		return 0, err
	}
	return id, nil
}

// tell sends the message; nobody answers.
func (c *conn) tell(key string, m *message) error {
	c.mu.Lock()
	c.next++
	m.exchange = c.next
	c.mu.Unlock()
	return c.out.put(key, m)
}

// forget gives up an exchange; false: it has been finished, or is about to be.
func (c *conn) forget(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.waiting[id]
	delete(c.waiting, id)
	return ok
}

// arm starts the check if it does not run; c.mu is held.
func (c *conn) arm() {
	if c.armed || c.broken != nil {
		return
	}
	c.armed = true
	c.transport.wg.Add(1) // the reader, which ends after broken is set, keeps it above zero
	every := c.transport.cfg.IOTimeout / 8
	if c.check == nil {
		c.check = time.AfterFunc(every, c.sweep)
	} else {
		c.check.Reset(every)
	}
}

// sweep ends exchanges whose time has come, asks a silent peer whether it lives, and breaks the connection when it does not say so. One timer a
// connection does for all its exchanges; it does not run while none waits.
func (c *conn) sweep() {
	defer c.transport.wg.Done()
	now := time.Now()
	limit := c.transport.cfg.IOTimeout
	var late []*exchange
	c.mu.Lock()
	c.armed = false
	for id, e := range c.waiting {
		if !e.deadline.IsZero() && now.After(e.deadline) {
			delete(c.waiting, id)
			late = append(late, e)
		}
	}
	var silent time.Duration
	if !c.asked.IsZero() {
		silent = now.Sub(c.asked)
	}
	ping := silent >= limit/2 && !c.pinged
	c.pinged = c.pinged || ping
	if c.broken == nil && (len(c.waiting) > 0 || !c.asked.IsZero()) {
		c.arm()
	}
	c.mu.Unlock()
	for _, e := range late {
		e.finish(fmt.Errorf("%s: %w", c.link.to, ErrTimeout))
	}
	if silent >= limit {
		c.fail(errSilent)
	} else if ping {
		c.out.put(urgentLane, newMessage(framePing))
	}
}

// run reads answers until the connection breaks, and then ends everything that waits for it.
func (c *conn) run() {
	t := c.transport
	t.wg.Add(1)
	go func() { // ends when the outbox fails, which fail does, or a write does
		defer t.wg.Done()
		c.fail(c.out.run(c.Conn, t.cfg.IOTimeout))
	}()
	for {
		in, err := c.in.next()
		if err != nil {
			c.fail(err)
			return
		}
		t.counts.framesIn.Add(1)
		t.counts.bytesIn.Add(uint64(c.in.bytes))
		c.mu.Lock()
		e := c.waiting[in.exchange]
		if in.kind == frameAnswer {
			delete(c.waiting, in.exchange)
		}
		c.asked, c.pinged = time.Time{}, false
		if len(c.waiting) > 0 {
			c.asked = time.Now()
		}
		c.mu.Unlock()
		switch {
		case in.kind == frameAnswer && e != nil:
			d := decoder{b: in.payload, sender: c.peer}
			e.finish(d.reply(e.resp))
		case in.kind != frameAnswer && in.kind != framePong:
			c.fail(fmt.Errorf("a frame of kind %d where answers are expected", in.kind))
			return
		}
	}
}

// fail breaks the connection: every exchange ends now, and the next question dials anew.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		<-c.failed // so that who returns from here leaves nothing behind
		return
	}
	defer close(c.failed)
	c.broken = fmt.Errorf("the connection to %s broke: %w", c.link.to, err)
	err = c.broken
	waiting := c.waiting
	c.waiting = nil
	if c.armed && c.check.Stop() {
		c.transport.wg.Done()
	}
	c.mu.Unlock()
	c.link.lost(c)
	c.out.fail(err)
	hangUp(c.Conn)
	for _, e := range waiting {
		e.finish(err)
	}
	if c.transport.ctx.Err() == nil {
		c.transport.counts.broken.Add(1)
		if told := c.transport.cfg.OnBroken; told != nil && c.link.kind == kindControl {
			told(c.link.to)
		}
		c.transport.cfg.Logger.Info("raft connection", "peer", c.link.to, "error", err)
	}
}

// hangUp closes a connection without saying goodbye: TLS would wait for room to do so.
func hangUp(nc net.Conn) {
	if tc, ok := nc.(*tls.Conn); ok {
		nc = tc.NetConn()
	}
	nc.Close()
}
