package transport

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// ErrOverloaded means that a queue is full: the message was not sent, or was not taken by the peer. raft tries again.
var ErrOverloaded = errors.New("the queue is full")

const (
	batchBytes  = 256 << 10 // of one write; what is urgent waits for one write at most
	laneItems   = 4096      // messages that wait in one lane
	laneBytes   = 64 << 20  // of those; a single message may be larger
	outboxBytes = 256 << 20 // that wait on one connection
	turnBytes   = pieceBytes
)

// message is one message on its way out.
type message struct {
	kind     byte
	exchange uint64
	payload  []byte
	off      int // how much of it has been sent
}

var messages = sync.Pool{New: func() any { return new(message) }}

// newMessage returns a message with an empty payload to append to; the outbox takes it back when it is sent.
func newMessage(kind byte) *message {
	m := messages.Get().(*message)
	m.kind, m.payload, m.off = kind, m.payload[:0], 0
	return m
}

func (m *message) release() {
	if cap(m.payload) <= pieceBytes {
		messages.Put(m)
	}
}

// lane is a queue of messages that keep their order: a group's, or those of Call or Send.
type lane struct {
	key   string
	queue fifo[*message]
	bytes int
}

// outbox is what waits to be written to one connection. Lanes take turns of at most 64 KiB, so that one group's bulk delays another by a turn of
// each lane and not by its length; what is urgent goes before all of them.
type outbox struct {
	counts   *counters
	patience time.Duration // how long what is in patientLane may wait for company; 0: not at all
	wake     chan struct{} // has room for one; filled when something is to be written

	mu     sync.Mutex // guards what follows
	urgent fifo[*message]
	lanes  map[string]*lane // those with something in them
	turns  fifo[*lane]
	idle   []*lane // emptied ones, to use again
	bytes  int
	err    error         // why nothing more is taken
	busy   bool          // something waits or is being written
	late   *time.Timer   // wakes the writer when patience ends; nil: never needed yet
	timed  bool          // late runs
	quiet  chan struct{} // closed when busy ends; nil: nobody waits for it
}

func newOutbox(c *counters, patience time.Duration) *outbox {
	return &outbox{counts: c, patience: patience, wake: make(chan struct{}, 1), lanes: make(map[string]*lane)}
}

// Names of lanes that are no group's. What is in urgentLane goes before all others. So does what is in patientLane, but it waits for another message to go
// with, for as long as the outbox has patience: a thousand idle groups' heartbeats cost no writes of their own.
const (
	urgentLane  = ""
	patientLane = "\x00"
)

// put queues the message, which is then the outbox's. It does not block; ErrOverloaded: there is no room.
func (o *outbox) put(key string, m *message) error {
	size := len(m.payload)
	o.mu.Lock()
	err := o.err
	if err == nil && o.bytes > 0 && o.bytes+size > outboxBytes {
		err = fmt.Errorf("%w: %d bytes wait for the connection", ErrOverloaded, o.bytes)
	}
	if err == nil && key != urgentLane && key != patientLane {
		err = o.queue(key, m)
	} else if err == nil {
		o.urgent.push(m)
	}
	if err != nil {
		o.mu.Unlock()
		o.counts.noRoom(err)
		m.release()
		return err
	}
	o.bytes += size
	o.busy = true
	now := key != patientLane || o.patience == 0
	if !now {
		o.wakeLater()
	}
	o.mu.Unlock()
	if now {
		o.wakeUp()
	}
	return nil
}

func (o *outbox) wakeUp() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// wakeLater has the writer woken when patience ends; o.mu is held.
func (o *outbox) wakeLater() {
	switch {
	case o.timed:
		return
	case o.late == nil:
		o.late = time.AfterFunc(o.patience, o.wakeUp) // ends with rest, or by waking the writer
	default:
		o.late.Reset(o.patience)
	}
	o.timed = true
}

func (o *outbox) queue(key string, m *message) error {
	l := o.lanes[key]
	if l == nil {
		if n := len(o.idle); n > 0 {
			l, o.idle = o.idle[n-1], o.idle[:n-1]
		} else {
			l = new(lane)
		}
		l.key = key
		o.lanes[key] = l
		o.turns.push(l)
	}
	if n := l.queue.len(); n >= laneItems || n > 0 && l.bytes+len(m.payload) > laneBytes {
		return fmt.Errorf("%w: %d messages, %d bytes wait in %q", ErrOverloaded, n, l.bytes, key)
	}
	l.queue.push(m)
	l.bytes += len(m.payload)
	return nil
}

// fail makes the outbox take and give nothing more.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	if o.err == nil {
		o.err = err
		o.rest()
		o.urgent, o.turns, o.lanes, o.idle = fifo[*message]{}, fifo[*lane]{}, nil, nil
	}
	o.mu.Unlock()
	o.wakeUp()
}

// slice is what one frame carries of a message.
type slice struct {
	m        *message
	from, to int
}

// take appends what the next write shall carry; nothing: nothing waits.
func (o *outbox) take(out []slice) ([]slice, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, o.err
	}
	size := 0
	for size < batchBytes {
		m := o.urgent.front()
		if m == nil {
			break
		}
		n := len(out)
		out = o.cut(out, *m)
		size += frameHead + frameFixed + out[n].to - out[n].from
		if (*m).off == len((*m).payload) {
			o.urgent.pop()
		}
	}
	for size < batchBytes {
		l, ok := o.turns.pop()
		if !ok {
			break
		}
		for turn := 0; turn < turnBytes; {
			m := l.queue.front()
			if m == nil {
				break
			}
			n := len(out)
			out = o.cut(out, *m)
			sent := out[n].to - out[n].from
			l.bytes -= sent
			turn += frameHead + frameFixed + sent
			if (*m).off == len((*m).payload) {
				l.queue.pop()
			}
			size += frameHead + frameFixed + sent
		}
		if l.queue.len() > 0 {
			o.turns.push(l)
			continue
		}
		delete(o.lanes, l.key)
		o.idle = append(o.idle, l)
	}
	if len(out) == 0 {
		o.rest()
	}
	return out, nil
}

// rest tells that everything has been written, or never will be; o.mu is held.
func (o *outbox) rest() {
	o.busy = false
	if o.timed {
		o.late.Stop()
		o.timed = false
	}
	if o.quiet != nil {
		close(o.quiet)
		o.quiet = nil
	}
}

// drained returns a channel that is closed once everything that waits now has been written.
func (o *outbox) drained() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.quiet == nil {
		o.quiet = make(chan struct{})
	}
	quiet := o.quiet
	if !o.busy || o.err != nil {
		o.rest()
	} else {
		o.wakeUp() // whoever waits here has no patience
	}
	return quiet
}

func (o *outbox) cut(out []slice, m *message) []slice {
	n := min(len(m.payload)-m.off, pieceBytes)
	out = append(out, slice{m, m.off, m.off + n})
	m.off += n
	o.bytes -= n
	return out
}

// run writes what is put until the outbox fails or a write does, and returns why. Everything that waits goes in one write.
func (o *outbox) run(conn net.Conn, timeout time.Duration) error {
	var batch []slice
	var buf []byte
	for range o.wake {
		for {
			runtime.Gosched() // those who are about to put something come first, at no cost when there are none
			var err error
			if batch, err = o.take(batch[:0]); err != nil {
				return err
			}
			if len(batch) == 0 {
				break
			}
			buf = buf[:0]
			for i, s := range batch {
				buf = s.append(buf)
				if s.to == len(s.m.payload) {
					s.m.release()
				}
				batch[i] = slice{}
			}
			conn.SetWriteDeadline(time.Now().Add(timeout))
			o.counts.frames.Add(uint64(len(batch)))
			o.counts.writes.Add(1)
			o.counts.bytesOut.Add(uint64(len(buf)))
			if _, err := conn.Write(buf); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *slice) append(b []byte) []byte {
	m := s.m
	switch {
	case s.from == 0 && s.to == len(m.payload):
		return appendFrame(b, m.kind, m.exchange, nil, m.payload)
	case s.from == 0:
		n := len(m.payload)
		return appendFrame(b, frameBegin, m.exchange, []byte{m.kind, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, m.payload[:s.to])
	}
	return appendFrame(b, framePiece, m.exchange, nil, m.payload[s.from:s.to])
}

// counters are a transport's Stats while it runs.
type counters struct {
	connections, snapshots                                       atomic.Int64
	frames, writes, bytesOut, framesIn, bytesIn, dropped, broken atomic.Uint64
}

// noRoom counts a message that was turned away for want of room; other errors, and none, are not counted.
func (c *counters) noRoom(err error) {
	if errors.Is(err, ErrOverloaded) {
		c.dropped.Add(1)
	}
}
