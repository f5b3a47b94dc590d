package stores

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// dispatcher runs the subscriptions of a store while this replica serves it: a goroutine for each that is used. When the replica ceases to serve, all of them end
// and everybody who waits is told; the next leader begins with what is committed.
type dispatcher struct {
	store  *Store
	pusher Pusher         // nil: nothing is pushed
	wg     sync.WaitGroup // the consumers' goroutines
	waits  func()         // tests: called when a consumer is about to wait for the change of one before it
	looked func()         // tests: called when a consumer has looked for its subscription

	mu        sync.Mutex                 // guards what follows
	underway  map[string]<-chan struct{} // by name: closed when the change that a consumer has given to the store is answered; see propose
	term      uint64                     // in which this replica serves; 0: it does not
	ctx       context.Context
	cancel    context.CancelFunc
	consumers map[string]*consumer
}

// Pusher publishes the events of subscriptions that have a deliver_subject.
type Pusher interface {
	// Wanted reports whether somebody is subscribed to the subject now. It must not block.
	Wanted(subject string) bool
	// Push publishes an event of the subscription, which has the id, to its subject. Whoever gets it can acknowledge it unless the config says that delivered is acknowledged.
	Push(s *Store, subscription string, id uint64, config *api.SubscriptionConfig, e *api.DeliveredEvent) error
}

// consumer runs one subscription's delivery.
type consumer struct {
	in   *dispatcher
	name string
	term uint64
	ctx  context.Context // done when the term is over
	kick chan struct{}

	inFlight, waiting atomic.Int64 // for those who ask
	acks              atomic.Int64 // acknowledgements that are not answered

	mu    sync.Mutex // guards what follows
	inbox []message
	ended bool
}

// message is something a consumer is told. One of the two is called.
type message struct {
	do   func(d *delivery, now time.Time) *api.Error // an error ends the delivery
	fail func(err *api.Error)
}

const (
	consumerIdle   = 10 * time.Second // a subscription that nobody uses has no goroutine after so long
	confirmTimeout = 2 * time.Second
	maxWaiting     = 4096                   // fetches that wait at one subscription
	maxAcks        = 1 << 16                // acknowledgements that are not answered
	interestEvery  = 250 * time.Millisecond // between looks whether somebody listens where there is something to push
)

// leads is told of every change of leadership, in order, before anybody sends requests here because of it.
func (x *dispatcher) leads(l raftnode.Leadership) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l.Role == raftnode.Serving && l.Term == x.term {
		return
	}
	if x.term != 0 {
		x.cancel()
		x.term, x.consumers = 0, nil
	}
	if l.Role == raftnode.Serving {
		x.term, x.consumers = l.Term, make(map[string]*consumer)
		x.ctx, x.cancel = context.WithCancel(context.Background())
		if x.pusher != nil && x.store.machine.MayHaveSubscriptions() {
			x.wg.Go(x.startPush) // ends when those that push have begun
		}
	}
}

// restored is told that a backup was restored into the store: its subscriptions begin.
func (x *dispatcher) restored() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.term != 0 && x.pusher != nil {
		x.wg.Go(x.startPush) // ends when those that push have begun
	}
}

// startPush begins with the subscriptions that nobody has to ask for events.
func (x *dispatcher) startPush() {
	list, _, err := x.store.machine.Subscriptions()
	if err != nil && !errors.Is(err, api.ErrRestoring) { // they begin when it is whole
		x.store.log.Error("subscriptions that push do not begin", "error", err)
	}
	for i := range list {
		if list[i].Config.DeliverSubject != "" {
			x.start(list[i].Name)
		}
	}
}

// start has the subscription's consumer run.
func (x *dispatcher) start(name string) {
	x.tell(name, message{do: func(*delivery, time.Time) *api.Error { return nil }, fail: func(*api.Error) {}})
}

// close ends every consumer and waits for them.
func (x *dispatcher) close() {
	x.leads(raftnode.Leadership{})
	x.wg.Wait()
}

// tell gives the subscription's consumer a message, and starts it if need be.
func (x *dispatcher) tell(name string, m message) *api.Error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.term == 0 {
		return x.store.notLeader(x.store.group.Leadership())
	}
	if c := x.consumers[name]; c != nil && c.take(m) {
		return nil
	}
	c := &consumer{in: x, name: name, term: x.term, ctx: x.ctx, kick: make(chan struct{}, 1), inbox: []message{m}}
	x.consumers[name] = c
	x.wg.Go(c.run) // ends with the term, or when the subscription is not used
	return nil
}

// endWaits answers every fetch that waits, as if its time were over.
func (x *dispatcher) endWaits() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.consumers {
		c.take(message{do: func(d *delivery, now time.Time) *api.Error {
			for _, f := range d.fetches {
				f.until = now.Add(-lookGrace)
			}
			return nil
		}, fail: func(*api.Error) {}})
	}
}

// find returns the subscription's consumer; nil: there is none. serving reports whether this replica serves.
func (x *dispatcher) find(name string) (c *consumer, serving bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.consumers[name], x.term != 0
}

func (c *consumer) take(m message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.inbox = append(c.inbox, m)
	select {
	case c.kick <- struct{}{}:
	default:
	}
	return true
}

// end takes the consumer out of use. What it was told and has not looked at goes to a new one, unless it ends because nobody needs it and somebody just did.
func (c *consumer) end(onlyIdle bool) bool {
	c.mu.Lock()
	if onlyIdle && len(c.inbox) > 0 {
		c.mu.Unlock()
		return false
	}
	c.ended = true
	left := c.inbox
	c.inbox = nil
	c.mu.Unlock()
	x := c.in
	x.mu.Lock()
	if x.consumers[c.name] == c {
		delete(x.consumers, c.name)
	}
	x.mu.Unlock()
	for _, m := range left {
		if err := x.tell(c.name, m); err != nil {
			m.fail(err)
		}
	}
	return true
}

// gone is what requests are told that a term's end overtook.
func (c *consumer) gone() *api.Error {
	return api.ErrNotLeader.With("store %s has another leader than a moment ago; retry to reach it", c.in.store.Name())
}

func (c *consumer) run() {
	s := c.in.store
	if !c.awaitChange() {
		c.refuse(c.messages(), c.gone())
		return
	}
	first := c.messages() // what comes from here on may be about a subscription that is created after we looked
	sub, err := c.look()
	if c.in.looked != nil {
		c.in.looked()
	}
	if err != nil || sub == nil {
		c.refuse(first, err)
		return
	}
	d := newDelivery(sub, s)
	defer func() { c.inFlight.Store(0); c.waiting.Store(0) }()
	if err := d.again(sub); err != nil {
		c.refuse(first, err)
		c.restart(&sub.Config, s.leaderError(err))
		return
	}
	c.putBack(first)
	timer := time.NewTimer(0)
	defer timer.Stop()
	lastUse, changed := s.now(), s.machine.Changed()
	for {
		select {
		case <-changed:
			changed, d.end = s.machine.Changed(), false
		default:
		}
		failed, idle := c.turn(d)
		if failed != nil {
			d.fail(failed)
			c.end(false)
			c.restart(&d.cfg, failed)
			return
		}
		now := s.now()
		push := c.in.pusher != nil && d.cfg.DeliverSubject != ""
		if !idle || push {
			lastUse = now
		} else if now.Sub(lastUse) >= consumerIdle && c.end(true) {
			return
		}
		wait := consumerIdle
		if at := d.wake(); !at.IsZero() {
			wait = max(at.Sub(now), 0)
		}
		switch {
		case d.hungry() && !d.end || d.pushable():
			wait = 0
		case push && !d.pushing && d.waits():
			wait = min(wait, interestEvery)
		}
		timer.Reset(wait)
		var more <-chan struct{}
		if d.hungry() || push {
			more = changed
		}
		select {
		case <-c.kick:
		case <-timer.C:
		case <-more:
		case <-c.ctx.Done():
			d.fail(c.gone())
			c.end(false)
			return
		}
	}
}

// awaitChange waits for what comes of the change that a consumer of the name before this one has given to the store, whose delivery is over. What it says would be in none of the two memories, and
// when it is committed after we look, what it acknowledges would be delivered again. It reports false when the term is over before that.
func (c *consumer) awaitChange() bool {
	c.in.mu.Lock()
	answered := c.in.underway[c.name]
	c.in.mu.Unlock()
	if answered == nil {
		return true
	}
	if c.in.waits != nil {
		c.in.waits()
	}
	select {
	case <-answered:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// look returns the subscription; nil: there is none.
func (c *consumer) look() (*fsm.Subscription, error) {
	sub, _, err := c.in.store.machine.Subscription(c.name)
	return sub, err
}

// restart has a subscription that pushes begin anew after a failure: nobody may come to ask for its events.
func (c *consumer) restart(cfg *api.SubscriptionConfig, failed *api.Error) {
	if c.in.pusher == nil || cfg.DeliverSubject == "" || errors.Is(failed, api.ErrSubscriptionNotFound) {
		return
	}
	pause := time.NewTimer(interestEvery) // what fails again at once must not go round without one
	defer pause.Stop()
	select {
	case <-pause.C:
		c.in.start(c.name)
	case <-c.ctx.Done():
	}
}

// refuse answers what came before the consumer looked with why there is no delivery. What came since goes to a consumer that looks again.
func (c *consumer) refuse(first []message, err error) {
	refused := api.ErrSubscriptionNotFound.With("store %s has no subscription %s; create it with write.subscription.create.%s", c.in.store.Name(), c.name, c.name)
	if err != nil {
		refused = c.in.store.apiError(err)
	}
	for _, m := range first {
		m.fail(refused)
	}
	c.end(false)
}

func (c *consumer) messages() []message {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.inbox
	c.inbox = nil
	return list
}

// putBack has messages come again, before those that came since.
func (c *consumer) putBack(list []message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inbox = append(list[:len(list):len(list)], c.inbox...)
}

// turn does what there is to do now. An error ends the delivery.
func (c *consumer) turn(d *delivery) (failed *api.Error, idle bool) {
	s := c.in.store
	messages := c.messages()
	for i, m := range messages {
		if err := m.do(d, s.now()); err != nil {
			m.fail(err)
			c.putBack(messages[i+1:]) // they may be about a subscription of the same name that was created since
			return err, false
		}
	}
	d.tick(s.now())
	if subject := d.cfg.DeliverSubject; subject != "" && c.in.pusher != nil {
		d.pushing = d.waits() && c.in.pusher.Wanted(subject)
	}
	if d.hungry() && !d.end {
		if err := d.read(); err != nil {
			return s.leaderError(err), false
		}
	}
	if d.servable() || d.pushable() {
		if err := c.confirm(); err != nil {
			return err, false
		}
		err := d.serve(s.now())
		if err == nil && d.pushable() {
			err = c.push(d)
		}
		if err != nil {
			return s.leaderError(err), false
		}
	}
	d.expire(s.now())
	if p := d.next(); p != nil {
		c.propose(d, p)
	}
	c.inFlight.Store(int64(d.flying))
	c.waiting.Store(int64(len(d.fetches)))
	return nil, len(messages) == 0 && d.idle()
}

// push publishes events, a page of them: what else there is to do comes between.
func (c *consumer) push(d *delivery) error {
	events, err := d.take(c.in.store.now(), prefetch)
	for i := range events {
		if err := c.in.pusher.Push(c.in.store, c.name, d.id, &d.cfg, &events[i]); err != nil {
			c.in.store.log.Warn("an event was not pushed; unless the subscription acknowledges what is delivered, it is delivered again later", "subscription", c.name, "position", events[i].Position, "error", err)
		}
	}
	return err
}

// confirm makes sure that no other leader can have committed something that this one does not know: it would deliver again what is acknowledged there.
func (c *consumer) confirm() *api.Error {
	ctx, cancel := context.WithTimeout(c.ctx, confirmTimeout)
	defer cancel()
	err := c.in.store.group.LinearizableRead(ctx)
	if _, term := c.in.store.machine.Applied(); err != nil || term > c.term { // another leader's entries: this one's memory is old
		return c.gone()
	}
	return nil
}

// propose writes the change. It goes on when it is committed. Of a name no other change is under way: a consumer has one at a time, and waits for that of the one before it.
func (c *consumer) propose(d *delivery, p *fsm.SubscriptionProgress) {
	s, change := c.in.store, d.underway
	answered := make(chan struct{})
	if !c.in.proposes(c, answered) { // another consumer may have looked already, and knows nothing of the change
		change.answer(0, c.gone())
		return
	}
	p.Time = s.now().UnixMicro()
	s.door.enter(&pending{body: fsm.ChangeBody(p), answer: func(value any) any { return value }, done: func(value any, err *api.Error) {
		c.in.answered(c.name, answered)
		over := func() { // the delivery is, and has left those who wait for the change to us
			cursor, _ := value.(uint64)
			change.answer(cursor, err)
		}
		m := message{
			do: func(now *delivery, _ time.Time) *api.Error {
				switch {
				case now != d: // it was handed on to the consumer that came after this one, which knows nothing of the change
					over()
				case err == nil:
					d.committed(value.(uint64))
				default:
					return err
				}
				return nil
			},
			fail: func(*api.Error) { over() },
		}
		if !c.take(m) {
			over()
		}
	}})
}

// proposes notes that the consumer gives a change to the store, and refuses when its term is over. The channel is closed when the change is answered.
func (x *dispatcher) proposes(c *consumer, answered <-chan struct{}) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.consumers[c.name] != c {
		return false
	}
	if x.underway == nil {
		x.underway = make(map[string]<-chan struct{})
	}
	x.underway[c.name] = answered
	return true
}

// answered ends what proposes has noted.
func (x *dispatcher) answered(name string, answered chan<- struct{}) {
	x.mu.Lock()
	delete(x.underway, name)
	x.mu.Unlock()
	close(answered)
}

// last implements source.
func (s *Store) last() uint64 { return s.machine.LastPosition() }

// page implements source.
func (s *Store) page(after, upTo uint64, limit int, q *api.Query) (fsm.AllPage, error) {
	return s.machine.ReadAll(fsm.AllQuery{After: after, UpTo: upTo, Limit: limit, MaxBytes: api.MaxPageBytes, Query: q, Now: s.now().UnixMicro()})
}
