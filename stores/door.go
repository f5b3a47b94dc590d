package stores

import (
	"sync"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// door is where appends wait to become Raft entries. While entriesInFlight entries are on their way, what comes gathers and then goes as one entry:
// one round of the majority and one fsync for all of them. A lone append goes at once; nobody waits for a timer.
//
// Appends take effect in the order in which they came to the door.
type door struct {
	store *Store
	wg    sync.WaitGroup // entries in flight

	mu       sync.Mutex // guards what follows
	waiting  []*pending
	inflight int
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
)

// enter takes an append; its done is called once, from another goroutine.
func (d *door) enter(p *pending) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = append(d.waiting, p)
	if d.inflight < entriesInFlight {
		d.inflight++
		d.wg.Add(1)
		go d.run(d.proposeLocked()) // ends when nothing waits
	}
}

// entry is a batch on its way to a majority.
type entry struct {
	batch    []*pending
	proposal *raftnode.Proposal
	err      error // it is not on its way
}

// proposeLocked makes one entry of what waits. Holding the lock keeps entries in order; raft's queue has room, since so few are in flight.
func (d *door) proposeLocked() entry {
	n, size := 0, 0
	for n < len(d.waiting) && n < entryCommands && (n == 0 || size+len(d.waiting[n].body.Data) <= entryBytes) {
		size += len(d.waiting[n].body.Data)
		n++
	}
	e := entry{batch: d.waiting[:n:n]}
	if d.waiting = d.waiting[n:]; len(d.waiting) == 0 {
		d.waiting = nil // lets the array go
	}
	bodies := make([]fsm.Body, n)
	for i, p := range e.batch {
		bodies[i], p.body = p.body, fsm.Body{}
	}
	e.proposal, e.err = d.store.group.Propose(fsm.EncodeBodies(bodies))
	return e
}

func (d *door) run(e entry) {
	defer d.wg.Done()
	for {
		result, err := any(nil), e.err
		if err == nil {
			result, err = e.proposal.Wait()
		}
		// The next entry goes before this one's callers are answered: the disk need not wait for them.
		d.mu.Lock()
		more := len(d.waiting) > 0
		var next entry
		if more {
			next = d.proposeLocked()
		} else {
			d.inflight--
		}
		d.mu.Unlock()
		d.answer(e.batch, result, err)
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
			p.done(nil, api.ErrOutcomeUnknown.With("store %s failed on this node while the append was under way; retry with the same event ids to find out", s.Name()))
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
func (d *door) close() { d.wg.Wait() }

// busy reports whether anything is on its way.
func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inflight > 0
}
