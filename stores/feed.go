package stores

import (
	"context"
	"sync"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// feedPage bounds how much of a backlog is read at once.
const feedPage = 512

// Feed delivers a store's committed events in position order, from this replica's state: each once, without a gap between what was there and what comes.
type Feed struct {
	store *Store
	after uint64
}

// Feed starts behind the position.
func (s *Store) Feed(after uint64) *Feed { return &Feed{store: s, after: after} }

// Next returns the events that follow, at least one, waiting for it until ctx is done.
func (f *Feed) Next(ctx context.Context) ([]api.Event, error) {
	for {
		changed := f.store.machine.Changed()
		page, err := f.store.machine.ReadAll(fsm.AllQuery{After: f.after, Limit: feedPage, MaxBytes: api.MaxPageBytes, Now: f.store.now().UnixMicro()})
		if err != nil {
			return nil, err
		}
		f.after = page.Next // also over events that are gone
		if len(page.Events) > 0 {
			return page.Events, nil
		}
		if !page.End {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Position returns the position up to which events were delivered.
func (f *Feed) Position() uint64 { return f.after }

// liveFeed hands events to their publisher: those whose entry has the term in which this replica leads, in position order, each once. An old
// leader goes on with the entries of its own term, so a hand-over leaves neither a gap nor a double; only a crash does, since live
// events are at most once.
type liveFeed struct {
	store   *Store
	publish func(*Store, []api.Event)
	listens func(s *Store, stream string) bool // nil: somebody always does

	mu      sync.Mutex // guards what follows
	term    uint64     // the last term in which this replica was elected
	spans   []span     // positions to publish, ascending; neighbours are joined
	running bool
	closed  bool
	idle    *sync.Cond // signalled when running becomes false
}

type span struct{ next, last uint64 }

func newLiveFeed(s *Store, publish func(*Store, []api.Event), listens func(*Store, string) bool) *liveFeed {
	f := &liveFeed{store: s, publish: publish, listens: listens}
	f.idle = sync.NewCond(&f.mu)
	return f
}

// leads is told of every change of leadership.
func (f *liveFeed) leads(l raftnode.Leadership) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.Role == raftnode.Elected {
		f.term = l.Term
	}
}

// appended is called by the state machine after the events of one append are durable, in position order. What nobody listens to is not read back.
func (f *liveFeed) appended(term uint64, stream string, first, last uint64) {
	if f.publish == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if term != f.term || f.closed || f.listens != nil && !f.listens(f.store, stream) {
		return
	}
	if n := len(f.spans); n > 0 && f.spans[n-1].last+1 == first {
		f.spans[n-1].last = last
	} else { // what other leaders appended in between is not ours, or nobody wants it
		f.spans = append(f.spans, span{first, last})
	}
	if !f.running {
		f.running = true
		go f.run() // ends when nothing waits or the feed is closed
	}
}

func (f *liveFeed) run() {
	for {
		f.mu.Lock()
		if len(f.spans) == 0 || f.closed {
			f.running = false
			f.idle.Broadcast()
			f.mu.Unlock()
			return
		}
		todo := f.spans[0]
		f.mu.Unlock()
		page, err := f.store.machine.ReadAll(fsm.AllQuery{
			After: todo.next - 1, Limit: int(min(todo.last-todo.next+1, feedPage)), MaxBytes: api.MaxPageBytes, Gone: true,
		})
		events := upTo(page.Events, todo.last)
		if err != nil || len(events) == 0 {
			f.store.log.Error("live events are lost", "from", todo.next, "to", todo.last, "error", err)
			f.advance(todo.last)
			continue
		}
		f.publish(f.store, events)
		f.advance(events[len(events)-1].Position)
	}
}

// upTo returns the events up to the position: a page has others behind them in the place of those that were scavenged meanwhile.
func upTo(events []api.Event, last uint64) []api.Event {
	for n := len(events); n > 0 && events[n-1].Position > last; n-- {
		events = events[:n-1]
	}
	return events
}

// advance says that everything up to done is published. Only run takes from the front.
func (f *liveFeed) advance(done uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spans[0].next = done + 1
	if f.spans[0].next > f.spans[0].last {
		f.spans = f.spans[1:]
	}
}

// close waits for the publisher.
func (f *liveFeed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for f.running {
		f.idle.Wait()
	}
}
