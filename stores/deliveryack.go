package stores

import (
	"cmp"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// ack acknowledges events: those in flight, those that were and have to be delivered again, and those that this leader has not come to yet, which an earlier one
// delivered. done is called when that is committed.
func (d *delivery) ack(r *api.SubscriptionAckRequest, done func(n int, cursor uint64, err *api.Error)) error {
	early := 0
	for _, position := range r.Positions {
		if d.early(position) {
			early++
		}
	}
	if early > 0 && len(d.order)+len(d.skip)+early > fsm.MaxDone { // never what an earlier leader delivered: that is max_in_flight at most, of what it had room for
		done(0, 0, api.ErrOverloaded.With("%d events above the cursor of subscription %s are acknowledged or wait, and %d of the positions were not delivered; acknowledge what was; nothing was written",
			len(d.order)+len(d.skip), d.name, early))
		return nil
	}
	n := 0
	for _, position := range r.Positions {
		it := d.items[position]
		switch {
		case it != nil && it.state != itemSettles:
			d.settle(it)
			n++
		case it == nil && d.early(position):
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

// early reports whether this leader has not come to the position, and does not know it as done.
func (d *delivery) early(position uint64) bool { return position > d.scanned && !d.skip[position] }

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
	for i, position := range r.Positions {
		it := d.items[position]
		if it == nil || it.state != itemFlies || len(r.Attempts) > 0 && r.Attempts[i] != it.tries+1 {
			continue
		}
		if n++; r.Unseen {
			d.unseen(it)
			continue
		}
		d.failed(it, now, time.Duration(r.DelayMS)*time.Millisecond, r.Park, r.Reason)
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
		c.answer(d.floor, nil) // nothing to write, and all before is committed
		return nil
	}
	if len(c.acked)+len(c.parked)+len(c.waits) == 0 && !c.lazy { // attempts that nobody waits for
		return nil
	}
	p := &fsm.SubscriptionProgress{Name: d.name, ID: d.id, Floor: d.scanned, Acked: c.acked}
	if i := slices.IndexFunc(d.order, func(it *item) bool { return it.state != itemSettles && it.state != itemDone }); i >= 0 {
		p.Floor = d.order[i].position - 1
	}
	if c.lazy && p.Floor <= d.floor && len(c.acked)+len(c.parked)+len(c.waits)+len(d.tried) == 0 { // another change said it already
		c.lazy, d.lazyAt = false, time.Time{}
		return nil
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
	d.parked += uint64(len(c.parked))
	for _, it := range c.items {
		it.state = itemDone
		delete(d.items, it.position)
		if it.counts {
			d.flying--
		}
		if l := d.lanes[it.stream]; d.cfg.Ordered && l != nil {
			l.drop(it)
			if len(l.items) == 0 {
				delete(d.lanes, it.stream)
			} else {
				d.offer(it.stream, l.items[0])
			}
		}
	}
	d.trim()
	c.answer(floor, nil)
}
