package client

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/quorate/quorate/api"
)

// ConsumeOptions say how Messages consumes.
type ConsumeOptions struct {
	// Batch is how many events one fetch gets; twice as many wait here at most, since the next batch is fetched while the caller works. Their time to be acknowledged runs
	// meanwhile, so choose it such that two batches take less than the subscription's ack_wait_ms. Default: 100.
	Batch int
	// AckDelay is how long an acknowledgement waits for others to go with it. Default: 10 ms.
	AckDelay time.Duration
}

// Times of a consumer.
const (
	defaultBatch    = 100
	defaultAckDelay = 10 * time.Millisecond
	fetchWait       = 3 * time.Second // one fetch waits so long at the leader
	lastWords       = 5 * time.Second // for what is to be said when the loop has ended
)

// ErrConsumerEnded is returned by a message's Ack, Nack and Park when the loop over Messages has ended. The event will be delivered again; Subscription.Ack still takes it.
var ErrConsumerEnded = errors.New("the loop over Messages has ended")

// Message is an event that was delivered, to be acknowledged. Its methods may be called from any goroutine. They queue what they say and return at once, with an error when it cannot be
// said: then nothing is queued. What is queued is sent in batches, and an error of that ends the loop over Messages; of what is refused, nothing else is held back.
type Message struct {
	api.DeliveredEvent
	from     uint64 // id of the subscription that delivered it
	consumer *consumer
}

// Ack says that the event was processed.
func (m *Message) Ack() error { return m.consumer.queue(verdict{from: m.from, position: m.Position}) }

// Nack says that it was not: it is delivered again, after the delay, which is an hour at most.
func (m *Message) Nack(delay time.Duration) error {
	return m.nack(api.SubscriptionNackRequest{DelayMS: int(delay / time.Millisecond)})
}

// Park gives the event up: it is set aside with the reason, of 256 bytes at most, and the others go on.
func (m *Message) Park(reason string) error {
	return m.nack(api.SubscriptionNackRequest{Park: true, Reason: reason})
}

func (m *Message) nack(how api.SubscriptionNackRequest) error {
	whole := how
	whole.Positions = []uint64{m.Position}
	if err := whole.Check(); err != nil {
		return err
	}
	return m.consumer.queue(verdict{from: m.from, position: m.Position, attempt: m.Attempt, nack: true, how: how})
}

// verdict is what the caller says of one event.
type verdict struct {
	from     uint64 // id of the subscription that delivered it
	position uint64
	attempt  int
	nack     bool
	how      api.SubscriptionNackRequest // without positions
}

// consumer fetches batches and sends what is said of their events.
type consumer struct {
	sub    *Subscription
	o      ConsumeOptions
	cancel context.CancelCauseFunc
	wake   chan struct{} // there is something in said; capacity 1

	mu    sync.Mutex // guards said and ended
	said  []verdict
	ended bool
}

// Messages yields events of the subscription for ever, until ctx is done or an error comes that trying again does not help; either is yielded last. Each event is to be
// acknowledged, or it is delivered again. When the loop ends, what was said is sent, and events that were fetched and not yielded go back as if they had not been; so does what a fetch
// brings that is still under way, for three seconds at most; when the connection is closed before, it gets nothing.
func (p *Subscription) Messages(ctx context.Context, o ConsumeOptions) iter.Seq2[*Message, error] {
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	if o.AckDelay <= 0 {
		o.AckDelay = defaultAckDelay
	}
	return func(yield func(*Message, error) bool) {
		run, cancel := context.WithCancelCause(ctx)
		c := &consumer{sub: p, o: o, cancel: cancel, wake: make(chan struct{}, 1)}
		batches := make(chan batch)
		var work sync.WaitGroup
		go c.fetch(run, batches)        // ends with run, once the fetch that is under way is answered
		work.Go(func() { c.send(run) }) // ends with run, once the request that is under way is answered
		var rest batch
		defer func() {
			cancel(nil)
			work.Wait()
			c.end(context.WithoutCancel(ctx), rest)
		}()
		for run.Err() == nil {
			var b batch
			select {
			case b = <-batches: // empty when fetch has ended, and run with it
			case <-run.Done():
			}
			for i, e := range b.events {
				rest = batch{b.from, b.events[i+1:]}
				if !yield(&Message{e, b.from, c}, nil) {
					return
				}
				if run.Err() != nil {
					break
				}
			}
		}
		yield(nil, context.Cause(run))
	}
}

// batch is what one fetch got, from the subscription with the id.
type batch struct {
	from   uint64
	events []api.DeliveredEvent
}

// fetch gives batches to the caller, one ahead, until ctx is done. A fetch that is under way then is seen to its end, and what it gets goes back: the leader would give events
// to it all the same, and nobody else would see them until their time is over.
func (c *consumer) fetch(ctx context.Context, batches chan<- batch) {
	defer close(batches)
	through, cancel := outlive(ctx, fetchWait+lastWords)
	defer cancel()
	for ctx.Err() == nil {
		res, err := c.sub.Fetch(through, c.o.Batch, fetchWait)
		if err != nil {
			c.cancel(err)
			return
		}
		if len(res.Events) == 0 {
			continue
		}
		got := batch{res.ID, res.Events}
		select {
		case batches <- got:
		case <-ctx.Done():
			c.giveBack(through, got)
		}
	}
}

// outlive returns a context that is done so long after ctx is.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	through, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(by, cancel) })
	return through, func() { stop(); cancel() }
}

// giveBack says of events that nobody has looked at them.
func (c *consumer) giveBack(ctx context.Context, b batch) {
	var said []verdict
	for _, e := range b.events {
		said = append(said, verdict{from: b.from, position: e.Position, attempt: e.Attempt, nack: true, how: api.SubscriptionNackRequest{Unseen: true}})
	}
	_, _ = c.flush(ctx, said) // what does not get through is delivered again, later
}

// queue takes what is said of an event.
func (c *consumer) queue(v verdict) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return ErrConsumerEnded
	}
	c.said = append(c.said, v)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// send sends what is said, a moment after the first of it, until ctx is done. A request that is under way then is seen to its end: sent again without need, a nack would meet the next
// delivery of the event, which somebody else may have processed by then.
func (c *consumer) send(ctx context.Context) {
	through, cancel := outlive(ctx, lastWords)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		timer.Reset(c.o.AckDelay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		said := c.said
		c.said = nil
		c.mu.Unlock()
		if left, err := c.flush(through, said); err != nil {
			c.mu.Lock()
			c.said = append(left, c.said...) // the end of the loop tries once more what was not refused
			c.mu.Unlock()
			c.cancel(err)
			return
		}
	}
}

// end sends what is left when the loop has ended, and gives back what was not yielded.
func (c *consumer) end(ctx context.Context, rest batch) {
	c.mu.Lock()
	said := c.said
	c.said, c.ended = nil, true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	_, _ = c.flush(ctx, said) // what does not get through is delivered again
	c.giveBack(ctx, rest)
}

// flush sends acknowledgements, and the others by what they say. What is refused is dropped and the rest sent all the same; an error that is no refusal ends it. It returns what was
// not sent, and the first error.
func (c *consumer) flush(ctx context.Context, said []verdict) (left []verdict, first error) {
	for len(said) > 0 {
		how, nack, from := said[0].how, said[0].nack, said[0].from
		var positions []uint64
		var attempts []int
		var others []verdict
		for _, v := range said {
			if v.from == from && v.nack == nack && v.how.DelayMS == how.DelayMS && v.how.Park == how.Park && v.how.Reason == how.Reason && v.how.Unseen == how.Unseen && len(positions) < api.MaxFetch {
				positions, attempts = append(positions, v.position), append(attempts, v.attempt)
			} else {
				others = append(others, v)
			}
		}
		var err error
		if nack {
			how.Positions, how.Attempts, how.ID = positions, attempts, from
			_, err = c.sub.Nack(ctx, how)
		} else {
			_, err = c.sub.settle(ctx, "ack", safe, api.SubscriptionAckRequest{Positions: positions, ID: from})
		}
		if errors.Is(err, api.ErrSubscriptionNotFound) { // deleted since, and what it remembered with it; if no other has its name, the next fetch says so
			err = nil
		}
		if err != nil {
			if first == nil {
				first = err
			}
			if again, maybe := retryable(err); again || maybe { // ctx is done, or the connection closed
				return said, first
			}
		}
		said = others
	}
	return nil, first
}
