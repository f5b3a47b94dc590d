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

// pipeline sends a leader's requests to one follower without waiting for the answers, which come in the order of the requests.
//
// The first request that fails breaks the pipeline. raft takes the answer of each future without looking at its error: a response that is not filled
// in says "no success", and raft goes back to single requests.
type pipeline struct {
	group *Group
	to    string
	conn  *conn
	sent  chan *appendFuture     // in order
	ready chan raft.AppendFuture // answered, in order
	quit  chan struct{}          // closed by Close
	once  sync.Once
	ended chan struct{} // closed when collect has ended

	send sync.Mutex // held to send one request

	mu     sync.Mutex // guards what follows
	flying int        // requests in flight
	bytes  int        // of those
	broken error
	room   chan struct{} // has room for one; filled when flying or bytes fall, or broken is set
}

// appendFuture is one request of a pipeline; raft.AppendFuture.
type appendFuture struct {
	exchange
	id    uint64
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	size  int
	inner bool // a part of a request that was split, and not its last: raft does not hear of it
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
		group: g, to: string(to), conn: c, sent: make(chan *appendFuture, maxInFlight), ready: make(chan raft.AppendFuture, maxInFlight),
		quit: make(chan struct{}), ended: make(chan struct{}), room: make(chan struct{}, 1),
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, g.wrap(string(to), ErrClosed)
	}
	g.wg.Add(1)
	go p.collect() // ends when the pipeline or the group is closed
	return p, nil
}

// AppendEntries sends a request. With an error, it was not sent, or only in part, and the pipeline is of no more use.
func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	p.send.Lock()
	defer p.send.Unlock()
	start := time.Now()
	for part, rest := split(req); ; part, rest = split(rest) {
		f := &appendFuture{start: start, req: req, resp: resp, inner: rest != nil}
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
	if err := p.wait(size); err != nil {
		m.release()
		return err
	}
	f.size = size
	f.exchange = exchange{resp: f.resp, deadline: p.group.deadline(size), done: make(chan struct{})}
	if f.id, err = p.conn.ask(&f.exchange, p.group.key, m); err != nil {
		p.landed(size)
		return err
	}
	p.sent <- f // has room: flying is at most its capacity
	return nil
}

// wait takes room for a request in flight.
func (p *pipeline) wait(size int) error {
	var timeout <-chan time.Time
	for {
		p.mu.Lock()
		err := p.broken
		ok := err == nil && p.flying < maxInFlight && (p.flying == 0 || p.bytes+size <= inFlightBytes)
		if ok {
			p.flying++
			p.bytes += size
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

// landed gives the room of a request back.
func (p *pipeline) landed(size int) {
	p.mu.Lock()
	p.flying--
	p.bytes -= size
	p.mu.Unlock()
	p.wakeUp()
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

// collect hands answered requests to raft in order. When it ends it gives up those that are not answered.
func (p *pipeline) collect() {
	defer p.group.wg.Done()
	defer close(p.ended)
	for {
		var f *appendFuture
		select {
		case f = <-p.sent:
		case <-p.quit:
		case <-p.group.done:
		}
		if f == nil {
			break
		}
		select {
		case <-f.done:
		case <-p.quit:
			p.abandon(f)
		case <-p.group.done:
			p.abandon(f)
		}
		if f.err != nil {
			p.fail(f.err)
		}
		p.landed(f.size)
		if f.inner {
			continue
		}
		select {
		case p.ready <- f:
		case <-p.quit:
		case <-p.group.done:
		}
	}
	p.fail(raft.ErrPipelineShutdown)
	p.send.Lock() // nothing is being sent, and nothing will be
	defer p.send.Unlock()
	for {
		select {
		case f := <-p.sent:
			p.abandon(f)
		default:
			return
		}
	}
}

func (p *pipeline) abandon(f *appendFuture) {
	if p.conn.forget(f.id) {
		f.finish(raft.ErrPipelineShutdown)
	}
	<-f.done
}

// Consumer returns the channel of answered requests, in the order in which they were sent.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close gives up what is not answered. Its futures end with raft.ErrPipelineShutdown.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.quit) })
	<-p.ended
	return nil
}
