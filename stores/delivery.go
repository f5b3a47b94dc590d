package stores

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// delivery is what the leader remembers of a subscription: which events its consumers have, until when, and which come next. It has no clock and no goroutine, and
// writes nothing: consumer (consumer.go) owns it, tells it the time, gives its changes to the store and tells it when they are committed. It can be lost at any
// moment; a new one begins with what is committed, and delivers what is not acknowledged there again.
//
// Its one invariant: an event is done only when a change that says so is committed, and what is done is not delivered again.
type delivery struct {
	name   string
	id     uint64
	cfg    api.SubscriptionConfig
	events source

	floor   uint64 // committed: everything up to here is done or not selected
	scanned uint64 // everything up to here was looked at
	end     bool   // nothing lay behind scanned when it was looked at last

	items    map[uint64]*item // selected, looked at and not done
	order    []*item          // selected, above the floor and looked at, in position order; the first is not done
	skip     map[uint64]bool  // above scanned and done
	attempts map[uint64]int   // above scanned and not done
	ready    itemHeap         // items that may be delivered, lowest position first
	timers   itemHeap         // items that are in flight or delayed, in order of time
	lanes    map[string]*lane // of an ordered subscription, by stream
	flying   int              // events in flight; with AckNone also those whose change is not committed
	cached   int              // bytes of events that are kept until they are delivered
	fetches  []*fetch         // that wait, in order of arrival
	pushing  bool             // somebody listens where events are pushed
	pending  change           // what the next change says
	underway *change          // not committed yet
	tried    map[uint64]int   // attempts that the next change says
	parked   uint64           // how many are, as far as is known
	lazyAt   time.Time        // when what is only good to know is written; zero: there is none
}

// source is where events are read from.
type source interface {
	// page reads what the query selects behind the position after and, unless that is 0, up to the position upTo: up to limit events. next is how far it looked.
	page(after, upTo uint64, limit int, q *api.Query) (fsm.AllPage, error)
	// last returns the position of the last event there is. It reads nothing.
	last() uint64
}

// fetch is a consumer that waits for events.
type fetch struct {
	limit int
	until time.Time
	done  func(events []api.DeliveredEvent, lag uint64, err *api.Error)
	gone  func() bool // whether nobody would get the answer any more; nil: that cannot be told
}

// change is what a change says, and who waits for it.
type change struct {
	acked  []uint64
	parked []*item
	items  []*item // that are done when it is committed
	waits  []func(cursor uint64, err *api.Error)
	lazy   bool // also what is only good to know
}

// answer tells those who wait what came of the change.
func (c *change) answer(cursor uint64, err *api.Error) {
	for _, fn := range c.waits {
		fn(cursor, err)
	}
	c.waits = nil
}

// Bounds of a delivery's memory.
const (
	lookAhead     = 4096                   // selected events above the floor, beyond the events in flight: done ones behind one that is not, and waiting ones; see room
	prefetch      = 256                    // events that are read before somebody asks
	prefetchBytes = 1 << 20                // and what they hold; of others the event is read again
	lookGrace     = 500 * time.Millisecond // so much longer a fetch waits while it is not known whether there is something for it
	lazyAfter     = 2 * time.Second        // until attempts and a floor that moved over events that are not selected are written
)

// fullDelay is when an event that should be parked is tried again, while no more can be parked.
const fullDelay = time.Minute

const timedOut = "not acknowledged in time"

func newDelivery(s *fsm.Subscription, events source) *delivery {
	d := &delivery{
		name: s.Name, id: s.ID, cfg: s.Config, events: events, floor: s.Floor, scanned: s.Floor, parked: s.Parked,
		items: make(map[uint64]*item), skip: make(map[uint64]bool), attempts: make(map[uint64]int), lanes: make(map[string]*lane), tried: make(map[uint64]int),
		ready:  itemHeap{slot: 0, less: func(a, b *item) bool { return a.position < b.position }},
		timers: itemHeap{slot: 1, less: func(a, b *item) bool { return a.at.Before(b.at) }},
	}
	for _, position := range s.Done {
		d.skip[position] = true
	}
	for _, a := range s.Attempts {
		d.attempts[a.Position] = a.N
	}
	return d
}

// capacity is how many more events may be in flight.
func (d *delivery) capacity() int { return max(d.cfg.MaxInFlight-d.flying, 0) }

func (d *delivery) lag() uint64 {
	last := d.events.last()
	return last - min(d.floor, last)
}

// room is how many more events may be looked at while the first one that is not done holds the floor. What is done above scanned does not take room: an earlier leader came so far from
// the same floor and with the same room, so it is among the events that this one may look at too, and they must be looked at for what lies between and is not done.
func (d *delivery) room() int {
	if len(d.order) == 0 {
		return api.MaxReadLimit
	}
	return d.cfg.MaxInFlight + lookAhead - len(d.order)
}

// hungry reports whether more events should be read.
func (d *delivery) hungry() bool {
	if d.room() <= 0 {
		return false
	}
	wanted := 0
	for _, f := range d.fetches {
		wanted += f.limit
	}
	if d.pushing {
		wanted += prefetch
	}
	return d.ready.Len() < min(wanted, d.capacity())
}

// read looks at one more page.
func (d *delivery) read() error {
	limit := prefetch
	if len(d.fetches) > 0 {
		limit = max(limit, d.fetches[0].limit)
	}
	page, err := d.events.page(d.scanned, 0, min(limit, d.room()), d.cfg.Query)
	if err != nil {
		return err
	}
	for i := range page.Events {
		d.see(&page.Events[i])
	}
	d.scanned, d.end = page.Next, page.End
	d.miss()
	return nil
}

// miss takes what was looked at and not seen: events that are gone from the store. Those that are done are so in the replicated state too, until the floor is above them, and count there.
func (d *delivery) miss() {
	seen := len(d.order)
	for position := range d.skip {
		if position <= d.scanned {
			delete(d.skip, position)
			d.order = append(d.order, &item{position: position, state: itemDone})
		}
	}
	maps.DeleteFunc(d.attempts, func(position uint64, _ int) bool { return position <= d.scanned })
	if len(d.order) > seen {
		slices.SortFunc(d.order, func(a, b *item) int { return cmp.Compare(a.position, b.position) })
		d.trim()
	}
}

// trim takes out what is done and has nothing before it that is not.
func (d *delivery) trim() {
	n := 0
	for n < len(d.order) && d.order[n].state == itemDone {
		n++
	}
	d.order = slices.Delete(d.order, 0, n)
}

// see takes an event that was looked at for the first time.
func (d *delivery) see(e *api.Event) {
	if d.skip[e.Position] {
		delete(d.skip, e.Position)
		if len(d.order) > 0 { // it counts, as long as something before it is not done
			d.order = append(d.order, &item{position: e.Position, state: itemDone})
		}
		return
	}
	it := &item{position: e.Position, stream: e.Stream, tries: d.attempts[e.Position]}
	delete(d.attempts, e.Position)
	d.order = append(d.order, it)
	d.keep(it, e)
	d.add(it)
}

// again takes the events that were parked and are to be delivered again.
func (d *delivery) again(s *fsm.Subscription) error {
	d.parked = s.Parked
	for _, position := range s.Again {
		if d.items[position] != nil {
			continue
		}
		it := &item{position: position}
		for _, a := range s.Attempts {
			if a.Position == position {
				it.tries = a.N
			}
		}
		e, err := d.one(position, nil)
		if err != nil {
			return err
		}
		d.items[position] = it
		if e == nil { // it is gone from the store
			d.settle(it)
			continue
		}
		it.stream = e.Stream
		d.keep(it, e)
		d.add(it)
	}
	return nil
}

// one reads the event at the position; nil: there is none, or the query does not select it.
func (d *delivery) one(position uint64, q *api.Query) (*api.Event, error) {
	page, err := d.events.page(position-1, position, 1, q)
	if err != nil || len(page.Events) == 0 || page.Events[0].Position != position {
		return nil, err
	}
	return &page.Events[0], nil
}

// keep keeps the event for its delivery, when there is room.
func (d *delivery) keep(it *item, e *api.Event) {
	if size := eventBytes(e); d.cached+size <= prefetchBytes {
		it.event, it.size = e, size
		d.cached += size
	}
}

func (d *delivery) drop(it *item) {
	d.cached -= it.size
	it.event, it.size = nil, 0
}

// eventBytes is about what an event takes, on a page too: there its texts may have twice the bytes, since names, ids, types and tags hold no control characters, and base64 a third more.
func eventBytes(e *api.Event) int {
	n := len(e.Data) + len(e.DataBase64) + len(e.Metadata) + len(e.Stream) + len(e.ID) + len(e.Type) + 256
	for _, tag := range e.Tags {
		n += len(tag) + 4 // with its quotes and comma
	}
	return n
}

// add begins with an item that waits.
func (d *delivery) add(it *item) {
	d.items[it.position] = it
	if d.cfg.Ordered {
		l := d.lanes[it.stream]
		if l == nil {
			l = &lane{}
			d.lanes[it.stream] = l
		}
		i, _ := slices.BinarySearchFunc(l.items, it.position, func(it *item, position uint64) int { return cmp.Compare(it.position, position) })
		l.items = slices.Insert(l.items, i, it)
	}
	d.offer(it.stream, it)
}

// offer makes the item ready, or in an ordered subscription the first of its stream, unless something else comes first.
func (d *delivery) offer(stream string, it *item) {
	if d.cfg.Ordered {
		l := d.lanes[stream]
		if l == nil || len(l.items) == 0 || l.flying > 0 {
			return
		}
		it = l.items[0]
	}
	if it.state == itemWaits {
		d.ready.add(it)
	}
}

// first returns the item that is delivered next; nil: there is none.
func (d *delivery) first() *item {
	for d.ready.Len() > 0 {
		it := d.ready.items[0]
		if !d.cfg.Ordered || d.lanes[it.stream].items[0] == it && d.lanes[it.stream].flying == 0 {
			return it
		}
		d.ready.remove(it) // an earlier one came back; it is offered again when its turn comes
	}
	return nil
}

// servable reports whether somebody waits for an event that may be delivered.
func (d *delivery) servable() bool { return len(d.fetches) > 0 && d.capacity() > 0 && d.first() != nil }

// pushable reports whether there is an event to push to somebody who listens.
func (d *delivery) pushable() bool { return d.pushing && d.capacity() > 0 && d.first() != nil }

// waits reports whether there may be an event to deliver, whoever wants it.
func (d *delivery) waits() bool { return d.first() != nil || !d.end }

// serve answers the fetches that wait, in their order, as far as there are events. One whose consumer has gone gets none: they would be in flight until their time is over.
func (d *delivery) serve(now time.Time) error {
	for d.servable() {
		f := d.fetches[0]
		if f.gone != nil && f.gone() {
			d.fetches = d.fetches[1:]
			f.done(nil, d.lag(), nil)
			continue
		}
		events, err := d.take(now, f.limit)
		if err != nil {
			return err
		}
		if len(events) > 0 { // none: what was ready is gone from the store
			d.fetches = d.fetches[1:]
			f.done(events, d.lag(), nil)
		}
	}
	return nil
}

// take delivers up to limit events, and a page's bytes, at least one event if there is one.
func (d *delivery) take(now time.Time, limit int) ([]api.DeliveredEvent, error) {
	var events []api.DeliveredEvent
	size := 0
	for limit = min(limit, d.capacity()); len(events) < limit; {
		it := d.first()
		if it == nil {
			break
		}
		e := it.event
		if e == nil {
			var err error
			if e, err = d.one(it.position, nil); err != nil {
				return nil, err
			}
		}
		if e == nil { // gone from the store
			d.ready.remove(it)
			d.settle(it)
			continue
		}
		if size += eventBytes(e); size > api.MaxPageBytes && len(events) > 0 {
			break
		}
		d.ready.remove(it)
		d.drop(it)
		d.fly(it, now)
		events = append(events, api.DeliveredEvent{Event: *e, Attempt: it.tries + 1})
	}
	return events, nil
}

func (d *delivery) fly(it *item, now time.Time) {
	d.flying++
	if d.cfg.Ack == api.AckNone {
		it.counts = true
		d.settle(it)
		return
	}
	it.state, it.at = itemFlies, now.Add(time.Duration(d.cfg.AckWaitMS)*time.Millisecond)
	d.timers.add(it)
	if d.cfg.Ordered {
		d.lanes[it.stream].flying++
	}
}

// extend begins the flight of an event anew, and returns whether it was in flight as 0 or 1.
func (d *delivery) extend(now time.Time, position uint64) int {
	it := d.items[position]
	if it == nil || it.state != itemFlies {
		return 0
	}
	d.timers.remove(it)
	it.at = now.Add(time.Duration(d.cfg.AckWaitMS) * time.Millisecond)
	d.timers.add(it)
	return 1
}

// land ends the flight of an item.
func (d *delivery) land(it *item) {
	if it.state == itemFlies {
		d.flying--
		if d.cfg.Ordered {
			d.lanes[it.stream].flying--
		}
	}
	d.timers.remove(it)
	d.ready.remove(it)
}

// settle has the next change say that the item is done: acknowledged, or parked when it has a reason.
func (d *delivery) settle(it *item) {
	d.land(it)
	d.drop(it)
	it.state = itemSettles
	d.pending.items = append(d.pending.items, it)
	if it.reason != "" {
		d.pending.parked = append(d.pending.parked, it)
	} else {
		d.pending.acked = append(d.pending.acked, it.position)
	}
	delete(d.tried, it.position)
	d.offer(it.stream, it)
}

// failed ends a delivery in vain: the event is delivered again after the delay, or parked when that was the last attempt.
func (d *delivery) failed(it *item, now time.Time, delay time.Duration, park bool, reason string) {
	it.tries++
	if park = park || d.cfg.MaxAttempts > 0 && it.tries >= d.cfg.MaxAttempts; park && d.full() {
		park, delay = false, fullDelay
	}
	if park {
		if it.reason = reason; reason == "" {
			it.reason = "not acknowledged"
		}
		d.settle(it)
		return
	}
	d.land(it)
	d.tried[it.position] = it.tries
	if delay > 0 {
		it.state, it.at = itemDelayed, now.Add(delay)
		d.timers.add(it)
	} else {
		it.state = itemWaits
	}
	d.offer(it.stream, it)
}

// unseen ends a delivery that was none: the event is delivered again as if it had not been.
func (d *delivery) unseen(it *item) {
	d.land(it)
	it.state = itemWaits
	d.offer(it.stream, it)
}

// full reports whether no more events can be parked.
func (d *delivery) full() bool {
	n := d.parked + uint64(len(d.pending.parked))
	if d.underway != nil {
		n += uint64(len(d.underway.parked))
	}
	return n >= api.MaxParked
}

// fetch adds a consumer that waits.
func (d *delivery) fetch(f *fetch) { d.fetches = append(d.fetches, f) }

// fail answers everybody who waits with the error, but for those who wait for the change under way: it may be written whatever becomes of the delivery, so they are told what comes of it,
// by whoever gave it to the store. Nothing may be called afterwards.
func (d *delivery) fail(err *api.Error) {
	for _, f := range d.fetches {
		f.done(nil, 0, err)
	}
	d.pending.answer(0, err)
	d.fetches, d.pending, d.underway = nil, change{}, nil
}

// idle reports whether nothing would be lost with the delivery: how far it has looked neither, as long as all that was selected is done.
func (d *delivery) idle() bool {
	return len(d.fetches) == 0 && d.flying == 0 && d.timers.Len() == 0 && d.underway == nil && len(d.pending.items)+len(d.pending.acked)+len(d.pending.waits)+len(d.tried) == 0 && d.lazyAt.IsZero()
}
