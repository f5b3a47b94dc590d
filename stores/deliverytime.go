package stores

import (
	"slices"
	"time"
)

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
	looking := d.hungry() && !d.end // there may be events; most of the time it is soon known
	d.fetches = slices.DeleteFunc(d.fetches, func(f *fetch) bool {
		over := !f.until.After(now) && (!looking || now.Sub(f.until) >= lookGrace)
		if over {
			f.done(nil, d.lag(), nil)
		}
		return over
	})
	if len(d.order) == 0 && d.scanned > d.floor {
		// The filter selects nothing of it, and what comes behind need not be known for that: who asks seldom, and does not wait long, gets to an event that is rare only if the next look begins
		// where this one ended. While a catch-up goes on it is written once in lazyAfter.
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
