package natsbus

import (
	"context"
	"errors"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// maxInflight bounds the writes under way at one store's leader.
const maxInflight = 2048

// Times for which a request is kept while nobody leads its store.
const (
	holdAtMost = 2500 * time.Millisecond // a failover takes less, most of the time
	holdUntil  = 4 * time.Second         // a store without a leader for so long is refused at once
)

// write is a decoded write request.
type write interface {
	// begin hands the write to the local leader; called in the order in which requests came. Unless it returns an error, done is called once with the
	// result, from another goroutine.
	begin(done func(any, *api.Error)) *api.Error
	// payload is the request as it is forwarded: with every id stamped, so that it is the same write wherever it is tried.
	payload() ([]byte, error)
	// repeatable reports whether trying the write again after an unknown outcome yields the first outcome.
	repeatable() bool
	// tells reports whether a refusal also says that an earlier try of unknown outcome has written nothing. One that another try might not meet does not: it came before anybody looked.
	tells(refusal *api.Error) bool
}

// newWrite decodes a request that came to a store's post.
func newWrite(r *request, s *stores.Store) (write, *api.Error) {
	limit := api.MaxAppendRequest
	if r.forwarded {
		limit = api.MaxPayload // bytes that are not JSON grow on the way between nodes
	}
	if n := len(r.message.Data()); n > limit {
		return nil, tooLarge(n)
	}
	if s.Name() == api.ConfigStore {
		return newConfigWrite(r)
	}
	switch r.subject.Verb {
	case "append":
		return newAppend(r, s)
	}
	return newChange(r, s)
}

// appendWrite appends to one stream or several.
type appendWrite struct {
	store  *stores.Store
	append *stores.Append
}

func newAppend(r *request, s *stores.Store) (*appendWrite, *api.Error) {
	a, added, err := decodeAppend(r.message, r.subject.Name)
	if err != nil {
		return nil, err
	}
	r.added = added
	if err := a.Check(); err != nil {
		return nil, err
	}
	return &appendWrite{store: s, append: a}, nil
}

func (w *appendWrite) begin(done func(any, *api.Error)) *api.Error {
	return w.store.Begin(w.append, done)
}

func (w *appendWrite) payload() ([]byte, error) {
	stores.StampIDs(w.append)
	r := api.AppendRequest{Events: w.append.Events, Conditions: w.append.Conditions}
	if w.append.Stream != "" {
		r.ExpectedVersion = &w.append.Expected
	}
	return api.Marshal(r)
}

func (w *appendWrite) repeatable() bool { return true }

// tells: whoever refuses an append for another reason has looked for its ids first.
func (w *appendWrite) tells(refusal *api.Error) bool { return !refusal.Retryable() }

// begin carries out w at this node when it serves the store. Otherwise, or when it ceases to, the request is kept and forwarded.
func (b *Bus) begin(p *post, r *request, w write) {
	if used, ok := r.keep(); !ok {
		r.fail(api.ErrOverloaded.With("node %s has writes to store %s with %d bytes under way, as many as there is room for all other stores; slow down and retry", b.name, p.store.Name(), used))
		return
	}
	if !p.serves() {
		b.spawn(r, func() { b.standIn(p, r, w) })
		return
	}
	weight := int64(0)
	if counts(w) {
		weight = 1
	}
	if p.inflight.Add(weight) > maxInflight && weight > 0 {
		p.inflight.Add(-weight)
		r.fail(api.ErrOverloaded.With("store %s has %d writes under way; slow down and retry", p.store.Name(), maxInflight))
		return
	}
	b.work.add() // until it is answered
	done := func(v any, err *api.Error) {
		defer b.work.done()
		p.inflight.Add(-weight)
		b.settle(p, r, w, v, err)
	}
	if err := w.begin(done); err != nil {
		done(nil, err)
	}
}

// settle answers, unless the write has to be tried at another leader.
func (b *Bus) settle(p *post, r *request, w write, v any, err *api.Error) {
	if !r.forwarded && tryElsewhere(err, w) {
		r.doubt(err)
		b.spawn(r, func() { b.standIn(p, r, w) })
		return
	}
	r.answer(v, err)
}

// tryElsewhere reports whether the write can be tried again without harm: it surely had no effect, or trying it again yields the first outcome.
func tryElsewhere(err *api.Error, w write) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, api.ErrNotLeader), errors.Is(err, api.ErrNoLeader), errors.Is(err, api.ErrShuttingDown):
		return true
	}
	return errors.Is(err, api.ErrOutcomeUnknown) && w.repeatable()
}

// standIn keeps the request until somebody serves the store, and gives it to them: here, or by forwarding it once. A request that was forwarded
// to us is not sent on: it is answered not_leader.
func (b *Bus) standIn(p *post, r *request, w write) {
	hold := min(holdAtMost, holdUntil-p.leaderless())
	ctx, cancel := context.WithTimeout(b.ctx, max(hold, 0))
	defer cancel()
	last := api.ErrNoLeader.With("store %s has no leader that a majority follows; nothing was written; retry shortly", p.store.Name())
	for {
		view, err := p.waitLeader(ctx)
		if err != nil {
			r.giveUp(last)
			return
		}
		var result *api.Error
		switch {
		case view.Role == raftnode.Serving:
			v, err := carryOut(w)
			if !tryElsewhere(err, w) {
				r.settle(w, v, err)
				return
			}
			r.doubt(err)
			result = err
		case r.forwarded:
			e := api.ErrNotLeader.With("store %s is led by %s; nothing was written; retry to reach it", p.store.Name(), raftnode.ServerName(view.Leader))
			e.Leader = raftnode.ServerName(view.Leader)
			r.giveUp(e)
			return
		default:
			var done bool
			if done, result = b.forward(r, w, view.Leader); done {
				return
			}
		}
		last = result
		// That leader did not take it. Wait until we know of another, or ask again in a moment.
		again, stop := context.WithTimeout(ctx, askAgain)
		p.store.WaitLeadership(again, func(l raftnode.Leadership) bool { return l.Leader != view.Leader || l.Role != view.Role })
		stop()
		if ctx.Err() != nil { // waitLeader does not look at it while a leader is known, be it out of reach
			r.giveUp(last)
			return
		}
	}
}

// carryOut is begin, and waits for the result.
func carryOut(w write) (any, *api.Error) {
	type result struct {
		v   any
		err *api.Error
	}
	c := make(chan result, 1)
	if err := w.begin(func(v any, err *api.Error) { c <- result{v, err} }); err != nil {
		return nil, err
	}
	r := <-c
	return r.v, r.err
}

// configWrite creates, changes or drops a store.
type configWrite struct {
	bus  *Bus
	verb string
	name string
	raw  []byte
	put  api.ConfigPutRequest
	drop api.ConfigDeleteRequest
}

func newConfigWrite(r *request) (*configWrite, *api.Error) {
	w := &configWrite{bus: r.bus, verb: r.subject.Verb, name: r.subject.Name, raw: r.message.Data()}
	var into any
	switch w.verb {
	case "put":
		into = &w.put
	case "delete":
		into = &w.drop
	default:
		return nil, api.UnknownVerb(r.subject)
	}
	if w.name == "" {
		return nil, api.ErrBadName.With("the store name is missing; put it behind the verb: %s.<store>", r.message.Subject())
	}
	if err := api.CheckStoreName(w.name); err != nil {
		return nil, err
	}
	return w, api.Unmarshal(w.raw, into)
}

func (w *configWrite) begin(done func(any, *api.Error)) *api.Error {
	w.bus.work.start(func() { // ends with the write, after writeTimeout at the latest
		done(w.carryOut())
	})
	return nil
}

func (w *configWrite) carryOut() (any, *api.Error) {
	ctx, cancel := context.WithTimeout(w.bus.ctx, writeTimeout)
	defer cancel()
	be := w.bus.backend.Load()
	if w.verb == "delete" {
		res, position, err := be.Config.Delete(ctx, w.name, w.drop)
		if err != nil {
			return nil, err
		}
		if err := w.bus.settled(ctx, position); err != nil {
			return nil, api.ErrTimeout.With("store %s is dropped (version %d), but %v; until a majority has, it may take writes, which are gone with it", w.name, res.Version, err)
		}
		return res, nil
	}
	res, err := be.Config.Put(ctx, w.name, w.put)
	if err != nil {
		return nil, err
	}
	q := storeQuestion{w.name, res.Incarnation}
	leader, serr := w.bus.awaitServing(ctx, q) // of an older store too: an earlier try of this request may have created it, and its answer was lost
	if serr != nil {
		return nil, api.ErrTimeout.With("the record of store %s is written (version %d), but no leader serves the store yet: %v; it will be there shortly", w.name, res.Version, serr)
	}
	if res.Created {
		w.bus.askOthers(ctx, subjectRoutes, q)
	}
	res.Leader = raftnode.ServerName(leader)
	return res, nil
}

func (w *configWrite) payload() ([]byte, error) { return w.raw, nil }

func (w *configWrite) repeatable() bool { return false }

func (w *configWrite) tells(refusal *api.Error) bool { return !refusal.Retryable() }
