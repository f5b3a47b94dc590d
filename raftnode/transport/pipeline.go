package transport

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	maxInFlight   = 32       // requests of one pipeline that are sent and not answered; each is a batch, and every group has two channels of this size
	inFlightBytes = 16 << 20 // of those; a single one may be larger
)

// pipeline sends a leader's requests to one follower without waiting for the answers, which come in the order of the requests. It has no goroutine of its own: who
// reads an answer hands it on.
//
// The first request that fails breaks the pipeline. raft takes the answer of each future without looking at its error: a response that is not filled
// in says "no success", and raft goes back to single requests.
type pipeline struct {
	group *Group
	to    string
	conn  *conn
	ready chan raft.AppendFuture // answered, in order
	quit  chan struct{}          // closed by Close
	once  sync.Once

	send sync.Mutex // held to send one request

	mu      sync.Mutex // guards what follows
	sent    fifo[*appendFuture]
	late    fifo[*appendFuture] // answered, in order, behind a full ready
	waits   bool                // a goroutine hands on what is late
	flying  int                 // requests in sent and late
	bytes   int                 // of those
	stopped bool                // raft takes no more answers
	broken  error
	room    chan struct{} // has room for one; filled when flying or bytes fall, or broken is set
}

// appendFuture is one request of a pipeline; raft.AppendFuture.
type appendFuture struct {
	exchange
	pipe  *pipeline
	id    uint64
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	size  int
	inner bool // a part of a request that was split, and not its last: raft does not hear of it
	over  bool // finished; guarded by the pipeline's mu
}

func (f *appendFuture) Error() error                          { <-f.done; return f.err }
func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }

// AppendEntriesPipeline returns a pipeline over the log connection to the server. At most 32 requests and 16 MiB of them are in flight; who sends
// more waits, an IOTimeout at most.
func (g *Group) AppendEntriesPipeline(_ raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	if string(to) == g.transport.cfg.LocalID {
		return nil, raft.ErrPipelineReplicationNotSupported
	}
	c, err := g.transport.link(string(to), kindLog).get(g.done)
	if err != nil {
		return nil, g.wrap(string(to), err)
	}
	p := &pipeline{
		group: g, to: string(to), conn: c, ready: make(chan raft.AppendFuture, maxInFlight), quit: make(chan struct{}), room: make(chan struct{}, 1),
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, g.wrap(string(to), ErrClosed)
	}
	g.pipelines[p] = true
	return p, nil
}

// AppendEntries sends a request. With an error, it was not sent, or only in part, and the pipeline is of no more use.
func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.send.Lock()
	defer p.send.Unlock()
	start := time.Now()
	for part, rest := split(req); ; part, rest = split(rest) {
		f := &appendFuture{pipe: p, start: start, req: req, resp: resp, inner: rest != nil}
		if f.inner {
			f.resp = new(raft.AppendEntriesResponse)
		}
		if err := p.fly(f, part); err != nil {
			err = p.group.wrap(p.to, err)
			p.fail(err)
			return nil, err
		}
		if rest == nil {
			return f, nil
		}
	}
}

func (p *pipeline) fly(f *appendFuture, req *raft.AppendEntriesRequest) error {
	m, size, err := p.group.question(req)
	if err != nil {
		return err
	}
	f.size = size
	f.exchange = exchange{resp: f.resp, done: make(chan struct{}), future: f}
	if err := p.wait(f); err != nil {
		m.release()
		return err
	}
	f.deadline = p.group.deadline(size) // it has not begun before there was room
	if f.id, err = p.conn.ask(&f.exchange, p.group.key, m); err != nil {
		select {
		case <-f.done: // the connection broke meanwhile, and has finished it
		default:
			f.finish(err)
		}
	}
	return err
}

// wait waits for room for a request and puts it behind those that are in flight.
func (p *pipeline) wait(f *appendFuture) error {
	var timeout <-chan time.Time
	for {
		p.mu.Lock()
		err := p.broken
		ok := err == nil && p.flying < maxInFlight && (p.flying == 0 || p.bytes+f.size <= inFlightBytes)
		if ok {
			p.flying++
			p.bytes += f.size
			p.sent.push(f)
		}
		p.mu.Unlock()
		if ok || err != nil {
			return err
		}
		if timeout == nil {
			timer := time.NewTimer(p.group.transport.cfg.IOTimeout)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-p.room:
		case <-timeout:
			return fmt.Errorf("%w: too much is in flight", ErrTimeout)
		case <-p.quit:
			return raft.ErrPipelineShutdown
		case <-p.group.done:
			return ErrClosed
		}
	}
}

// fail makes the pipeline take no more requests.
func (p *pipeline) fail(err error) {
	p.mu.Lock()
	if p.broken == nil {
		p.broken = err
	}
	p.mu.Unlock()
	p.wakeUp()
}

func (p *pipeline) wakeUp() {
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// finished is called by whoever finishes a request of the pipeline, with the answer or an error, in any order. It hands raft what is finished and has nothing
// unfinished before it, and does not wait.
func (p *pipeline) finished(f *appendFuture) {
	p.mu.Lock()
	f.over = true
	close(f.done)
	if f.err != nil && p.broken == nil {
		p.broken = f.err
	}
	for next := p.sent.front(); next != nil && (*next).over; next = p.sent.front() {
		first, _ := p.sent.pop()
		p.hand(first)
	}
	p.mu.Unlock()
	p.wakeUp()
}

// hand gives raft an answered request; p.mu is held.
func (p *pipeline) hand(f *appendFuture) {
	if f.err == nil && f.resp.Success && !f.inner {
		p.group.acknowledged(p.to, f.req)
	}
	if !p.waits {
		if f.inner || p.stopped {
			p.landed(f)
			return
		}
		select {
		case p.ready <- f:
			p.landed(f)
			return
		default:
		}
	}
	p.late.push(f)
	if !p.waits {
		p.waits = true
		p.group.wg.Add(1) // the group's Close stops its pipelines before it waits
		go p.handLate()   // ends when nothing is late, or with the pipeline
	}
}

// landed gives the room of a request back; p.mu is held.
func (p *pipeline) landed(f *appendFuture) {
	p.flying--
	p.bytes -= f.size
}

// handLate waits in the place of who reads answers until raft takes them.
func (p *pipeline) handLate() {
	defer p.group.wg.Done()
	for {
		p.mu.Lock()
		f, ok := p.late.pop()
		if !ok {
			p.waits = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if !f.inner {
			select {
			case p.ready <- f:
			case <-p.quit:
			}
		}
		p.mu.Lock()
		p.landed(f)
		p.mu.Unlock()
		p.wakeUp()
	}
}

// Consumer returns the channel of answered requests, in the order in which they were sent.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close gives up what is not answered. Its futures end with raft.ErrPipelineShutdown.
func (p *pipeline) Close() error {
	p.once.Do(func() {
		close(p.quit)
		p.fail(raft.ErrPipelineShutdown)
		p.send.Lock() // nothing is being sent, and nothing will be
		defer p.send.Unlock()
		p.mu.Lock()
		p.stopped = true
		open := make([]*appendFuture, 0, p.sent.len())
		for i := range p.sent.len() {
			open = append(open, p.sent.items[p.sent.head+i])
		}
		p.mu.Unlock()
		for _, f := range open {
			if p.conn.forget(f.id) {
				f.finish(raft.ErrPipelineShutdown)
			}
			<-f.done
		}
		p.group.mu.Lock()
		delete(p.group.pipelines, p)
		p.group.mu.Unlock()
	})
	return nil
}
