package raftnode

import (
	"math/rand/v2"
	"slices"
	"time"
)

// standing is what a member says of its replica of a group.
type standing struct {
	member    string
	open      bool
	leads     bool   // was elected, whether it serves yet or not
	stands    bool   // is a candidate, or was elected
	candidate bool   // is a candidate
	queued    bool   // it is its turn to stand, and it does as soon as fewer elections are under way
	term      uint64 // the newest it knows
	lastTerm  uint64 // of its last entry
	lastIndex uint64
}

type verdict struct {
	leader string // a member that says it leads
	stand  string // or the one that should stand; empty: too few have answered
	queued bool   // that one has its turn, and will
	busy   bool   // another one stands already
	tied   bool   // this one stands and another one too, in the same term: most likely neither gets a majority
}

// choose decides for a group from the answers of its members, this one's own among them: with an answer from a majority, and nobody leading, the
// replica with the best log stands, and among equals the members take turns by the store's number (see turns).
func choose(members []string, store uint64, self string, answers []standing) verdict {
	open, newest, leader := 0, uint64(0), standing{}
	var own standing
	for _, a := range answers {
		if !a.open {
			continue
		}
		open++
		newest = max(newest, a.term)
		switch {
		case a.member == self:
			own = a
		case a.leads && a.term >= leader.term:
			leader = a
		}
	}
	if leader.member != "" && leader.term >= newest {
		return verdict{leader: leader.member}
	}
	if open < majority(len(members)) || len(members) == 0 {
		return verdict{}
	}
	order := turns(members, store)
	var v verdict
	var best *standing
	for i := range answers {
		a := &answers[i]
		if !a.open {
			continue
		}
		if a.member != self {
			v.busy = v.busy || a.stands
			v.tied = v.tied || a.candidate && own.candidate && a.term == own.term
		}
		if !slices.Contains(members, a.member) {
			continue
		}
		if best == nil || a.lastTerm > best.lastTerm || a.lastTerm == best.lastTerm && (a.lastIndex > best.lastIndex ||
			a.lastIndex == best.lastIndex && slices.Index(order, a.member) < slices.Index(order, best.member)) {
			best = a
		}
	}
	if best != nil { // else no member has answered, but strangers
		v.stand, v.queued = best.member, best.queued
	}
	return v
}

// turns orders the members for a store: which is first goes round with the store's number, and so does, among the stores that have the same first, which of the others is next. So
// leaderships spread over all nodes, and those of a node that dies over all the others.
func turns(members []string, store uint64) []string {
	sorted := slices.Sorted(slices.Values(members))
	n := uint64(len(sorted))
	order := rotate(sorted, store%n)
	if n > 2 {
		rotate(order[1:], store/n%(n-1))
	}
	return order
}

// rotate moves the first n to the end.
func rotate(list []string, n uint64) []string {
	slices.Reverse(list[:n])
	slices.Reverse(list[n:])
	slices.Reverse(list)
	return list
}

// orphan is what is remembered of a group between two rounds.
type orphan struct {
	since   time.Time
	stood   time.Time // when this replica stood last
	tries   int       // how many elections it has begun; one that stands once more to break a tie goes on with the same
	patient time.Time // until then another replica, the better one, is to stand
}

const (
	standAgain  = time.Second            // when the first election has not succeeded; each later one is given twice as long
	moreTime    = 3                      // times: 8 s. A vote is waited for IOTimeout, behind four syncs of one's own: what takes longer cannot be won, and only keeps the next one waiting
	tieBreak    = 150 * time.Millisecond // sooner, when another one stands in the same term: votes of others have come by then
	betterFirst = 400 * time.Millisecond // for the better replica to stand, up to twice
	queueAtMost = 3 * time.Second        // one that says that it is queued is waited for: its node has many elections, and gets on with them
)

// given is how long the newest election of this replica has. One takes four to eight syncs of two disks in a row, so where a sync takes 200 ms none ends within a second; to stand again
// ends the earlier one (see stand), and who does so every second is never elected, though a majority lives and writes. The first ones stay short, since most that fail have failed by then.
func (o *orphan) given() time.Duration { return standAgain << min(max(o.tries-1, 0), moreTime) }

// underWay reports whether an election of this replica has had no time to fail.
func (o *orphan) underWay(now time.Time) bool { return now.Sub(o.stood) < o.given() }

// holdsPlace reports whether it counts among those that a node has under way. One that takes longer waits for disks, and lets others have its place.
func (o *orphan) holdsPlace(now time.Time) bool {
	return o.underWay(now) && now.Sub(o.stood) < queueAtMost
}

// yields reports whether an election of another replica is to be left alone. That is seen as a candidate long after it has failed, so the wait ends; like one's own it grows.
func (o *orphan) yields(now time.Time) bool {
	if o.tries > 1 {
		return now.Sub(o.stood) < o.given()*3/2
	}
	return now.Sub(o.since) < standAgain
}

// begin notes that this replica stands now, for the first time or once more.
func (o *orphan) begin(now time.Time) {
	if !o.underWay(now) {
		o.tries++
	}
	o.stood, o.patient = now, time.Time{}
}

// turn reports whether this replica is to stand now. The better one stands at once; if it does not, another one does after a while. When both do and split the votes, the better
// one stands once more, and the other keeps still meanwhile.
func (o *orphan) turn(v verdict, self string, now time.Time) bool {
	stand := v.stand == self
	if o.underWay(now) {
		return stand && v.tied && now.Sub(o.stood) >= tieBreak
	}
	if v.stand != "" && !stand {
		if o.patient.IsZero() || v.queued && now.Sub(o.since) < queueAtMost {
			o.patient = now.Add(betterFirst + rand.N(betterFirst))
		}
		stand = now.After(o.patient)
	}
	return stand && !(v.busy && o.yields(now))
}
