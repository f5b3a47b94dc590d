package stores

import (
	"sync"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// door is where appends wait to become Raft entries. While an entry is on its way, what comes gathers and then goes as one entry: one round of the majority
// and one fsync for all of them. A lone append goes at once; nobody waits for a timer. A second entry goes beside the first only when so much waits that it
// is worth a round of its own: two half-empty ones cost more and bring nobody his answer sooner.
//
// Appends take effect in the order in which they came to the door, and are answered in it.
type door struct {
	store   *Store
	propose func(entry []byte) (proposal, error) // keeps the order of calls

	mu       sync.Mutex // guards what follows
	turn     *sync.Cond // on mu: an entry was answered, or a goroutine ended
	waiting  []*pending
	size     int // of the commands that wait, in bytes
	inflight int
	running  int    // goroutines that have an entry to answer
	proposed uint64 // entries so far
	answered uint64 // of those, in order
}

func newDoor(s *Store, propose func(entry []byte) (proposal, error)) *door {
	d := &door{store: s, propose: propose}
	d.turn = sync.NewCond(&d.mu)
	return d
}

// proposal is an entry on its way.
type proposal interface {
	Wait() (result any, err error)
}

// pending is an append or a change that is not answered yet.
type pending struct {
	body   fsm.Body            // the encoded command
	stream string              // the one it goes to, or the first of several
	lists  bool                // the request names no stream, so the reply lists them
	answer func(value any) any // of a change: makes the reply of what the machine answered; nil: an append
	done   func(reply any, err *api.Error)
}

const (
	entriesInFlight = 2
	entryBytes      = 1 << 20 // of commands in one entry, one command at least
	entryCommands   = 1024
	worthBytes      = 256 << 10 // what must wait for an entry beside another one …
	worthCommands   = 128       // … or so many commands
)

// enter takes an append; its done is called once, from another goroutine.
func (d *door) enter(p *pending) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = append(d.waiting, p)
	d.size += len(p.body.Data)
	if d.inflight == 0 || d.inflight < entriesInFlight && d.worthLocked() {
		d.inflight++
		d.running++
		go d.run(d.proposeLocked()) // ends when nothing waits, or others take what does
	}
}

// worthLocked reports whether what waits is worth an entry beside those in flight.
func (d *door) worthLocked() bool { return d.size >= worthBytes || len(d.waiting) >= worthCommands }

// entry is a batch on its way to a majority.
type entry struct {
	number   uint64 // how many were proposed before
	batch    []*pending
	proposal proposal
	err      error // it is not on its way
}

// proposeLocked makes one entry of what waits. Holding the lock keeps entries in order; raft's queue has room, since so few are in flight.
func (d *door) proposeLocked() entry {
	n, size := 0, 0
	for n < len(d.waiting) && n < entryCommands && (n == 0 || size+len(d.waiting[n].body.Data) <= entryBytes) {
		size += len(d.waiting[n].body.Data)
		n++
	}
	d.size -= size
	e := entry{number: d.proposed, batch: d.waiting[:n:n]}
	d.proposed++
	if d.waiting = d.waiting[n:]; len(d.waiting) == 0 {
		d.waiting = nil // lets the array go
	}
	bodies := make([]fsm.Body, n)
	for i, p := range e.batch {
		bodies[i], p.body = p.body, fsm.Body{}
	}
	e.proposal, e.err = d.propose(fsm.EncodeBodies(bodies))
	return e
}

func (d *door) run(e entry) {
	for {
		result, err := any(nil), e.err
		if err == nil {
			result, err = e.proposal.Wait()
		}
		// The next entry goes before this one's callers are answered: the disk need not wait for them.
		d.mu.Lock()
		more := len(d.waiting) > 0 && (d.inflight == 1 || d.worthLocked())
		var next entry
		if more {
			next = d.proposeLocked()
		} else {
			d.inflight--
		}
		for d.answered != e.number { // whoever is told of a change is told of those before it first
			d.turn.Wait()
		}
		d.mu.Unlock()
		d.answer(e.batch, result, err)
		d.mu.Lock()
		d.answered++
		if !more {
			d.running--
		}
		d.turn.Broadcast()
		d.mu.Unlock()
		if !more {
			return
		}
		e = next
	}
}

func (d *door) answer(batch []*pending, result any, err error) {
	s := d.store
	r, ok := result.(fsm.Result)
	ok = ok && len(r.Append) == len(batch)
	for i, p := range batch {
		switch {
		case err != nil:
			p.done(nil, s.apiError(err))
		case !ok: // committed, but this replica could not apply it
			p.done(nil, api.ErrOutcomeUnknown.With("store %s failed on this node while the write was under way; send it again to find out, an append with the same event ids", s.Name()))
		case r.Append[i].Err != nil:
			p.done(nil, r.Append[i].Err)
		case p.answer != nil:
			p.done(p.answer(r.Append[i].Value), nil)
		default:
			p.done(s.reply(p, &r.Append[i]), nil)
		}
	}
}

// reply returns the api.AppendResponse, or the api.AppendSeveralResponse when the request named no stream.
func (s *Store) reply(p *pending, a *fsm.AppendResult) any {
	common := api.Reply{Type: api.TypeAppend}
	if !p.lists {
		return &api.AppendResponse{
			Reply: common, Store: s.Name(), Stream: p.stream,
			FirstVersion: a.FirstVersion, Version: a.Version, FirstPosition: a.FirstPosition, Position: a.Position, Duplicate: a.Duplicate,
		}
	}
	results := a.Streams
	if results == nil {
		results = []api.StreamResult{{
			Stream: p.stream, FirstVersion: a.FirstVersion, Version: a.Version, FirstPosition: a.FirstPosition, Position: a.Position,
		}}
	}
	return &api.AppendSeveralResponse{
		Reply: common, Store: s.Name(), FirstPosition: a.FirstPosition, Position: a.Position, Duplicate: a.Duplicate, Results: results,
	}
}

// close waits until everything is answered. The group must be closing, so that nothing new is taken.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.running > 0 {
		d.turn.Wait()
	}
}

// busy reports whether anything is on its way.
func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inflight > 0
}
