package stores

import (
	"cmp"
	"container/heap"
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
	last    uint64 // position of the store's last event, as far as it was seen

	items    map[uint64]*item // selected, looked at and not done
	order    []*item          // selected and above the floor, in position order; the first is not done
	skip     map[uint64]bool  // above scanned and done
	attempts map[uint64]int   // above scanned and not done
	ready    itemHeap         // items that may be delivered, lowest position first
	timers   itemHeap         // items that are in flight or delayed, in order of time
	lanes    map[string]*lane // of an ordered subscription, by stream
	flying   int              // events in flight; with AckNone also those whose change is not committed
	cached   int              // bytes of events that are kept until they are delivered
	fetches  []*fetch         // that wait, in order of arrival
	pending  change           // what the next change says
	underway *change          // not committed yet
	tried    map[uint64]int   // attempts that the next change says
	lazyAt   time.Time        // when what is only good to know is written; zero: there is none
}

// source is where events are read from.
type source interface {
	// page reads what the query selects behind the position: up to limit events. next is how far it looked.
	page(after uint64, limit int, q *api.Query) (fsm.AllPage, error)
}

// item is a selected event that is not done.
type item struct {
	position uint64
	stream   string
	tries    int // deliveries in vain
	state    itemState
	at       time.Time // end of the flight or of the delay
	event    *api.Event
	size     int
	index    [2]int // places in ready and timers, from 1; 0: not there
	reason   string // of one that is to be parked
	counts   bool   // with AckNone: it counts as in flight until the change is committed
}

type itemState byte

const (
	itemWaits   itemState = iota // to be delivered
	itemFlies                    // a consumer has it
	itemDelayed                  // to be delivered later
	itemSettles                  // a change that says it is done is on its way
	itemDone
)

// lane is the items of one stream, in position order: the first is delivered while no other is in flight.
type lane struct {
	items  []*item
	flying int
}

// fetch is a consumer that waits for events.
type fetch struct {
	limit int
	until time.Time
	done  func(events []api.DeliveredEvent, lag uint64, err *api.Error)
}

// change is what a change says, and who waits for it.
type change struct {
	acked  []uint64
	parked []*item
	items  []*item // that are done when it is committed
	waits  []func(cursor uint64, err *api.Error)
	lazy   bool // also what is only good to know
}

// Bounds of a delivery's memory.
const (
	lookAhead     = 4096            // selected events above the floor, beyond the events in flight: done ones behind one that is not, and waiting ones
	prefetch      = 256             // events that are read before somebody asks
	prefetchBytes = 1 << 20         // and what they hold; of others the event is read again
	lazyAfter     = 2 * time.Second // until attempts and a floor that moved over events that are not selected are written
)

const timedOut = "not acknowledged in time"

func newDelivery(s *fsm.Subscription, events source) *delivery {
	d := &delivery{
		name: s.Name, id: s.ID, cfg: s.Config, events: events, floor: s.Floor, scanned: s.Floor, last: s.LastPosition,
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

func (d *delivery) lag() uint64 { return d.last - min(d.floor, d.last) }

// hungry reports whether more events should be read.
func (d *delivery) hungry() bool {
	if len(d.order) >= d.cfg.MaxInFlight+lookAhead {
		return false
	}
	wanted := 0
	for _, f := range d.fetches {
		wanted += f.limit
	}
	return d.ready.Len() < min(wanted, d.capacity())
}

// read looks at one more page.
func (d *delivery) read() error {
	limit := min(max(prefetch, d.fetches0()), d.cfg.MaxInFlight+lookAhead-len(d.order))
	page, err := d.events.page(d.scanned, limit, d.cfg.Query)
	if err != nil {
		return err
	}
	for i := range page.Events {
		d.see(&page.Events[i])
	}
	d.scanned, d.end, d.last = page.Next, page.End, page.LastPosition
	return nil
}

// fetches0 is what the first fetch asks for.
func (d *delivery) fetches0() int {
	if len(d.fetches) == 0 {
		return 0
	}
	return d.fetches[0].limit
}

// see takes an event that was looked at for the first time.
func (d *delivery) see(e *api.Event) {
	if d.skip[e.Position] {
		delete(d.skip, e.Position)
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
	page, err := d.events.page(position-1, 1, q)
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

func eventBytes(e *api.Event) int { return len(e.Data) + len(e.DataBase64) + len(e.Metadata) + 256 }

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

// serve answers the fetches that wait, in their order, as far as there are events.
func (d *delivery) serve(now time.Time) error {
	for d.servable() {
		f := d.fetches[0]
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
	if park || d.cfg.MaxAttempts > 0 && it.tries >= d.cfg.MaxAttempts {
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

// fetch adds a consumer that waits.
func (d *delivery) fetch(f *fetch) { d.fetches = append(d.fetches, f) }

// tick does what is due: flights and delays that end.
func (d *delivery) tick(now time.Time) {
	for d.timers.Len() > 0 && !d.timers.items[0].at.After(now) {
		it := d.timers.items[0]
		if it.state == itemDelayed {
			d.timers.remove(it)
			it.state = itemWaits
			d.offer(it.stream, it)
			continue
		}
		d.failed(it, now, 0, false, timedOut)
		d.later(now)
	}
	if !d.lazyAt.IsZero() && !d.lazyAt.After(now) {
		d.pending.lazy = true
	}
}

// expire answers fetches that have waited long enough. It comes after serve: one that does not want to wait gets what is there.
func (d *delivery) expire(now time.Time) {
	looking := d.hungry() && !d.end // there may be events; it is soon known
	d.fetches = slices.DeleteFunc(d.fetches, func(f *fetch) bool {
		over := !looking && !f.until.After(now)
		if over {
			f.done(nil, d.lag(), nil)
		}
		return over
	})
	if d.end && len(d.order) == 0 && d.scanned > d.floor { // the filter selects nothing of it
		d.later(now)
	}
}

// later has what is only good to know written in a while.
func (d *delivery) later(now time.Time) {
	if d.lazyAt.IsZero() {
		d.lazyAt = now.Add(lazyAfter)
	}
}

// wake returns when tick has something to do next; zero: never.
func (d *delivery) wake() (at time.Time) {
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if d.timers.Len() > 0 {
		sooner(d.timers.items[0].at)
	}
	for _, f := range d.fetches {
		sooner(f.until)
	}
	if !d.lazyAt.IsZero() && d.underway == nil {
		sooner(d.lazyAt)
	}
	return at
}

// ack acknowledges events: those in flight, those that were and have to be delivered again, and those that this leader has not come to yet, which an earlier one
// delivered. done is called when that is committed.
func (d *delivery) ack(r *api.SubscriptionAckRequest, done func(n int, cursor uint64, err *api.Error)) error {
	n := 0
	for _, position := range r.Positions {
		it := d.items[position]
		switch {
		case it != nil && it.state != itemSettles:
			d.settle(it)
			n++
		case it == nil && position > d.scanned && !d.skip[position] && len(d.skip) < lookAhead:
			e, err := d.one(position, d.cfg.Query)
			if err != nil {
				return err
			}
			if e != nil {
				d.skip[position] = true
				delete(d.attempts, position)
				d.pending.acked = append(d.pending.acked, position)
				n++
			}
		}
	}
	if r.UpTo > 0 {
		for _, it := range d.inFlight(r.UpTo) {
			d.settle(it)
			n++
		}
	}
	d.await(func(cursor uint64, err *api.Error) { done(n, cursor, err) })
	return nil
}

// inFlight returns the items in flight up to the position.
func (d *delivery) inFlight(upTo uint64) []*item {
	var list []*item
	for _, it := range d.timers.items {
		if it.state == itemFlies && it.position <= upTo {
			list = append(list, it)
		}
	}
	return list
}

// nack ends flights in vain. done is called when that is committed.
func (d *delivery) nack(now time.Time, r *api.SubscriptionNackRequest, done func(n int, cursor uint64, err *api.Error)) {
	n := 0
	for _, position := range r.Positions {
		if it := d.items[position]; it != nil && it.state == itemFlies {
			d.failed(it, now, time.Duration(r.DelayMS)*time.Millisecond, r.Park, r.Reason)
			n++
		}
	}
	d.await(func(cursor uint64, err *api.Error) { done(n, cursor, err) })
}

// await calls fn when all that was said until now is committed.
func (d *delivery) await(fn func(cursor uint64, err *api.Error)) {
	d.pending.waits = append(d.pending.waits, fn)
}

// next returns the change to write now, if there is one. Until committed is called there is no other.
func (d *delivery) next() *fsm.SubscriptionProgress {
	if d.underway != nil {
		return nil
	}
	c := &d.pending
	if len(c.acked)+len(c.parked) == 0 && len(d.tried) == 0 && !c.lazy {
		for _, fn := range c.waits { // nothing to write, and all before is committed
			fn(d.floor, nil)
		}
		c.waits = nil
		return nil
	}
	if len(c.acked)+len(c.parked)+len(c.waits) == 0 && !c.lazy { // attempts that nobody waits for
		return nil
	}
	p := &fsm.SubscriptionProgress{Name: d.name, ID: d.id, Floor: d.scanned, Acked: c.acked}
	if i := slices.IndexFunc(d.order, func(it *item) bool { return it.state != itemSettles && it.state != itemDone }); i >= 0 {
		p.Floor = d.order[i].position - 1
	}
	slices.Sort(p.Acked)
	for position, n := range d.tried {
		p.Attempts = append(p.Attempts, fsm.Attempt{Position: position, N: n})
	}
	slices.SortFunc(p.Attempts, func(a, b fsm.Attempt) int { return cmp.Compare(a.Position, b.Position) })
	for _, it := range c.parked {
		p.Parked = append(p.Parked, fsm.Park{Attempt: fsm.Attempt{Position: it.position, N: it.tries}, Reason: it.reason})
	}
	slices.SortFunc(p.Parked, func(a, b fsm.Park) int { return cmp.Compare(a.Position, b.Position) })
	taken := *c
	d.underway, d.pending, d.lazyAt = &taken, change{}, time.Time{}
	clear(d.tried)
	return p
}

// committed says that the change is, and where the floor is now.
func (d *delivery) committed(floor uint64) {
	c := d.underway
	d.underway, d.floor = nil, floor
	for _, it := range c.items {
		it.state = itemDone
		delete(d.items, it.position)
		if it.counts {
			d.flying--
		}
		if l := d.lanes[it.stream]; d.cfg.Ordered && l != nil {
			l.items = slices.DeleteFunc(l.items, func(other *item) bool { return other == it })
			if len(l.items) == 0 {
				delete(d.lanes, it.stream)
			} else {
				d.offer(it.stream, l.items[0])
			}
		}
	}
	n := 0
	for n < len(d.order) && d.order[n].state == itemDone {
		n++
	}
	d.order = slices.Delete(d.order, 0, n)
	for _, fn := range c.waits {
		fn(floor, nil)
	}
}

// fail answers everybody who waits with the error. Nothing may be called afterwards.
func (d *delivery) fail(err *api.Error) {
	for _, f := range d.fetches {
		f.done(nil, 0, err)
	}
	waits := d.pending.waits
	if d.underway != nil {
		waits = append(waits, d.underway.waits...)
	}
	for _, fn := range waits {
		fn(0, err)
	}
	d.fetches, d.pending, d.underway = nil, change{}, nil
}

// idle reports whether nothing would be lost with the delivery.
func (d *delivery) idle() bool {
	return len(d.fetches) == 0 && d.flying == 0 && d.timers.Len() == 0 && d.underway == nil && len(d.pending.items)+len(d.pending.acked)+len(d.pending.waits)+len(d.tried) == 0 && d.lazyAt.IsZero()
}

// itemHeap is a heap of items, each of which knows its place.
type itemHeap struct {
	items []*item
	slot  int // of item.index
	less  func(a, b *item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index[h.slot], h.items[j].index[h.slot] = i+1, j+1
}
func (h *itemHeap) Push(v any) {
	it := v.(*item)
	h.items = append(h.items, it)
	it.index[h.slot] = len(h.items)
}
func (h *itemHeap) Pop() any {
	it := h.items[len(h.items)-1]
	h.items[len(h.items)-1] = nil
	h.items = h.items[:len(h.items)-1]
	it.index[h.slot] = 0
	return it
}

func (h *itemHeap) add(it *item) {
	if it.index[h.slot] == 0 {
		heap.Push(h, it)
	}
}

func (h *itemHeap) remove(it *item) {
	if i := it.index[h.slot]; i > 0 {
		heap.Remove(h, i-1)
	}
}
