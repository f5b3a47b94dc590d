package natsbus

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/cluster"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// Times of a post.
const (
	quietBefore = 250 * time.Millisecond // a stand-in withdraws after so long without a request, once the new leader has its post …
	quietAtMost = 3 * time.Second        // … or after this, however busy it is
	lingerFor   = 2 * time.Second        // the post of a dropped store stays so long
	askAgain    = 100 * time.Millisecond // between questions to a new leader whether it has its post
)

// What may wait at a node for being looked at, in each subscription; beyond it NATS drops requests and says so in the log.
const (
	pendingMessages = 1 << 18
	pendingBytes    = 1 << 28
)

// markerPrefix begins the subjects that tell a node's own server that some post of a store is in reach. A post subscribes to the write
// subjects first and to its marker second, and all accounts share one route connection: who sees the marker sees the post. The marker is in the nodes' account: in that of
// clients a mere `nats sub '>'` would look like one.
const markerPrefix = "$QUORATE.post."

// post is a store's write subscription on this node, as far as the node has to hold one:
//
//	leads and serves                          holds it, handles requests
//	nobody is known to lead                   holds it, keeps requests until somebody does, forwards them
//	another leads, but its post is not sure   as above: the old leader's grace
//	another leads and has its post            lets go of it
//
// Changes of leadership are worked through one after the other by run; handlers look at the present view.
type post struct {
	bus   *Bus
	store *stores.Store
	last  atomic.Int64 // when the last request came, in Unix nanoseconds
	// inflight counts writes under way at this leader.
	inflight atomic.Int64

	mu      sync.Mutex // guards what follows
	view    raftnode.Leadership
	told    uint64 // term for which elected was published
	held    bool   // the subscriptions exist and the server knows them
	sub     *nats.Subscription
	marker  *nats.Subscription
	running bool
	kick    chan struct{} // closed and replaced when view changes
	closed  bool
	dropped bool      // the store is gone; requests that still come are told so
	vacant  time.Time // since when no leader is known; zero while one is
}

// OnLeadership is told of every change of a store's leadership on this node. Before Serve it does nothing; Serve catches up.
func (b *Bus) OnLeadership(s *stores.Store, view raftnode.Leadership) {
	if b.backend.Load() != nil {
		b.lead(s, func() raftnode.Leadership { return view })
	}
}

// lead gives the store's post, which is made if there is none, the view that is the present one once the post is at it.
func (b *Bus) lead(s *stores.Store, view func() raftnode.Leadership) {
	if p := b.postFor(s); p != nil {
		p.change(view)
	}
}

// postFor returns the store's post, which is made if there is none; nil when the store is closing, and its post is gone or has made way for a later store's. An earlier incarnation's goes first: when
// the new one is there, the node takes nothing for the old store any more.
func (b *Bus) postFor(s *stores.Store) *post {
	for {
		b.mu.Lock()
		p := b.posts[s.Name()]
		switch {
		case p != nil && p.store == s:
			b.mu.Unlock()
			return p
		case s.IsClosing():
			b.mu.Unlock()
			return nil
		case p == nil:
			p = &post{bus: b, store: s, kick: make(chan struct{}), view: raftnode.Leadership{}}
			b.posts[s.Name()] = p
			b.mu.Unlock()
			return p
		}
		b.mu.Unlock()
		b.forget(p)
	}
}

// OnClosing is told that the store is about to be closed here.
//
// The post of a dropped store lingers: other nodes hear of the drop a little earlier or later, and a request that is handed to us meanwhile must be
// answered. When the last posts go, every node knows that the store is gone and answers for it (unclaimed.go).
func (b *Bus) OnClosing(s *stores.Store, dropped bool) {
	p := b.post(s.Name())
	if p == nil || p.store != s {
		return
	}
	if !dropped {
		b.forget(p)
		return
	}
	p.mu.Lock()
	p.dropped = true
	p.mu.Unlock()
	time.AfterFunc(lingerFor, func() { b.forget(p) }) // ends with close, which a later store of the name or the end of the bus may call before
}

// forget closes the post of a store that is closing, and lets go of both.
func (b *Bus) forget(p *post) {
	p.close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.posts[p.store.Name()] == p {
		delete(b.posts, p.store.Name())
	}
}

// post returns the store's post, unless it is closed.
func (b *Bus) post(store string) *post {
	b.mu.Lock()
	p := b.posts[store]
	b.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	return p
}

func (p *post) change(now func() raftnode.Leadership) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.dropped {
		return
	}
	before, view := p.view, now()
	p.view = view
	if view.Leader != "" {
		p.vacant = time.Time{}
	} else if p.vacant.IsZero() {
		p.vacant = p.bus.cfg.Now()
	}
	if before.Role != raftnode.Follower && view.Role == raftnode.Follower && p.told == before.Term {
		p.publish(api.LeaderLost, raftnode.Leadership{Term: before.Term, Reason: view.Reason})
	}
	p.runLocked()
}

// runLocked has run look at the view again.
func (p *post) runLocked() {
	close(p.kick)
	p.kick = make(chan struct{})
	if !p.running {
		p.running = true
		p.bus.work.start(p.run) // ends when the subscription is as the view wants it, or the post is closed
	}
}

// run makes the subscription what the newest view wants, until there is nothing left to do.
func (p *post) run() {
	for {
		p.mu.Lock()
		view, kick := p.view, p.kick
		if p.closed {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if view.Role == raftnode.Follower && view.Leader != "" {
			p.retire(view, kick)
		} else {
			p.hold()
			if view.Role == raftnode.Serving {
				p.announce(view)
			}
		}
		p.mu.Lock()
		if p.kick == kick { // nothing changed meanwhile
			p.running = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// hold subscribes. When it returns, this node's server hands requests to us.
func (p *post) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held || p.closed {
		return
	}
	b := p.bus
	name := p.store.Name()
	var err error
	if p.sub == nil {
		p.sub, err = b.clients.QueueSubscribe(b.subjects.Of(name, api.ClassWrite, ">"), postsGroup+name, p.receive)
		if err == nil {
			err = p.sub.SetPendingLimits(pendingMessages, pendingBytes)
		}
	}
	if err == nil {
		err = b.clients.FlushTimeout(startTimeout)
	}
	if err == nil && p.marker == nil {
		p.marker, err = b.peers.ChanSubscribe(markerPrefix+name, make(chan *nats.Msg, 1)) // nobody publishes there; without a handler it costs no goroutine
	}
	if err == nil {
		err = b.peers.FlushTimeout(startTimeout)
	}
	if err != nil {
		b.log.Error("the write subscription was not made", "store", name, "error", err)
		return
	}
	p.held = true
}

// announce publishes that this node leads, once a term.
func (p *post) announce(view raftnode.Leadership) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held || p.told == view.Term || p.view != view {
		return
	}
	p.told = view.Term
	p.publish(api.LeaderElected, view)
	p.bus.log.Info("this node leads the store", "store", p.store.Name(), "term", view.Term, "reason", view.Reason)
}

func (p *post) publish(kind string, view raftnode.Leadership) {
	b := p.bus
	b.Publish(b.subjects.LeaderEvent(p.store.Name()), cluster.NewLeaderEvent(kind, p.store.Name(), b.name, view, b.cfg.Now()))
}

// retire lets go of the subscription once the new leader has its own and requests have stopped coming here.
func (p *post) retire(view raftnode.Leadership, kick <-chan struct{}) {
	p.mu.Lock()
	held := p.sub != nil
	p.mu.Unlock()
	if !held {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ready time.Time // when the new leader's post was confirmed
	for {
		select {
		case <-timer.C:
		case <-kick:
			return
		case <-p.bus.ctx.Done():
			return
		}
		now := time.Now()
		if ready.IsZero() {
			if !p.bus.askHolds(p.bus.ctx, view.Leader, about(p.store)) {
				timer.Reset(askAgain)
				continue
			}
			ready = now
		}
		quiet := time.Duration(now.UnixNano() - max(p.last.Load(), ready.UnixNano()))
		if quiet >= quietBefore || now.Sub(ready) >= quietAtMost {
			p.release()
			return
		}
		timer.Reset(quietBefore - quiet)
	}
}

// release withdraws marker and subscription. Requests that are here already are still handled.
func (p *post) release() {
	p.mu.Lock()
	sub, marker := p.sub, p.marker
	p.sub, p.marker, p.held = nil, nil, false
	p.mu.Unlock()
	if marker != nil {
		marker.Unsubscribe()
		p.bus.peers.FlushTimeout(askTimeout) // the marker goes first; on the way down there may be nobody to tell
	}
	if sub != nil {
		if err := sub.Drain(); err != nil && p.bus.ctx.Err() == nil {
			p.bus.log.Warn("withdraw the write subscription", "store", p.store.Name(), "error", err)
		}
	}
}

func (p *post) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	if p.view.Role == raftnode.Serving && p.told == p.view.Term {
		p.publish(api.LeaderLost, raftnode.Leadership{Term: p.view.Term, Reason: "shutdown"})
	}
	close(p.kick)
	p.kick = make(chan struct{})
	p.mu.Unlock()
	p.release()
}

// serves reports whether this node leads the store and has its post.
func (p *post) serves() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held && p.view.Role == raftnode.Serving
}

// leaderless returns for how long no leader has been known.
func (p *post) leaderless() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vacant.IsZero() {
		return 0
	}
	return p.bus.cfg.Now().Sub(p.vacant)
}

// receive is the subscription's handler. Requests are begun here, one after the other, so that they take effect in the order in which they came.
func (p *post) receive(m *nats.Msg) {
	p.last.Store(time.Now().UnixNano())
	if r := p.bus.accept(rawMessage{m}); r != nil {
		p.handle(r)
	}
}

// handle carries the request out when this node serves the store, and stands in otherwise.
func (p *post) handle(r *request) {
	if p.isDropped() {
		p.bus.spawn(r, func() { p.bus.answerDropped(r) })
		return
	}
	w, err := newWrite(r, p.store)
	if err != nil {
		r.fail(err)
		return
	}
	p.bus.begin(p, r, w)
}

// stand holds the post because no other is in reach, until run finds that another node serves.
func (p *post) stand() {
	p.hold()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && !p.dropped {
		p.runLocked()
	}
}

// waitLeader returns the view once this node serves the store or another is known to lead it, or ctx's error.
func (p *post) waitLeader(ctx context.Context) (raftnode.Leadership, error) {
	return p.store.WaitLeadership(ctx, func(l raftnode.Leadership) bool {
		return l.Role == raftnode.Serving || l.Role == raftnode.Follower && l.Leader != ""
	})
}

func (p *post) isDropped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}
