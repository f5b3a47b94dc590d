package natsbus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// onRead serves every read subject. Any node can.
func (b *Bus) onRead(m micro.Request) {
	r := b.accept(natsMessage{m})
	if r == nil {
		return
	}
	b.spawn(r, func() {
		switch r.subject.Store {
		case api.ConfigStore:
			b.readConfig(r)
		case api.ClusterStore:
			b.readCluster(r)
		default:
			b.readStore(r)
		}
	})
}

// storeReads are the verbs of reads of a store, and how each is answered.
var storeReads = map[string]func(*Bus, *request){
	"stream":        namedRead((*stores.Store).ReadStream, func(q *api.ReadStreamRequest) int { return q.WaitMS }),
	"all":           plainRead((*stores.Store).ReadAll, func(q *api.ReadAllRequest) int { return q.WaitMS }),
	"query":         plainRead((*stores.Store).ReadAll, func(q *api.ReadAllRequest) int { return q.WaitMS }),
	"streams":       plainRead((*stores.Store).Streams, nil),
	"metadata":      namedRead((*stores.Store).StreamState, nil),
	"snapshot":      namedRead((*stores.Store).Snapshot, nil),
	"snapshots":     namedRead((*stores.Store).Snapshots, nil),
	"subscription":  namedRead((*stores.Store).Subscription, nil),
	"subscriptions": plainRead((*stores.Store).Subscriptions, nil),
	"parked":        namedRead((*stores.Store).Parked, nil),
	"backup":        plainRead((*stores.Store).BackupEvents, nil),
	"backup_keys":   plainRead((*stores.Store).BackupKeys, nil),
}

func (b *Bus) readStore(r *request) {
	switch read, ok := storeReads[r.subject.Verb]; {
	case ok:
		read(b, r)
	case r.subject.Verb == "info": // it says which node has answered
		plainRead(func(s *stores.Store, ctx context.Context, q api.InfoRequest) (*api.StoreInfoResponse, *api.Error) {
			v, err := s.Info(ctx, q)
			if err == nil {
				v.Node = b.name
			}
			return v, err
		}, nil)(b, r)
	default:
		r.fail(api.UnknownVerb(r.subject))
	}
}

// plainRead answers a verb that takes no name. waitMS is how long the request asks to wait; nil: it cannot.
func plainRead[Q, V any](read func(*stores.Store, context.Context, Q) (V, *api.Error), waitMS func(*Q) int) func(*Bus, *request) {
	return namedRead(func(s *stores.Store, ctx context.Context, _ string, q Q) (V, *api.Error) { return read(s, ctx, q) }, waitMS)
}

// namedRead answers a verb with a name behind it.
func namedRead[Q, V any](read func(*stores.Store, context.Context, string, Q) (V, *api.Error), waitMS func(*Q) int) func(*Bus, *request) {
	return func(b *Bus, r *request) {
		var q Q
		wait := func() int { return 0 }
		if waitMS != nil {
			wait = func() int { return waitMS(&q) }
		}
		if s, ctx, cancel := b.openRead(r, &q, wait); s != nil {
			defer cancel()
			v, err := read(s, ctx, r.subject.Name, q)
			switch {
			case errors.Is(err, api.ErrStoreNotFound) && s.IsClosing():
				err = b.whileClosing(ctx, r.subject.Store, err)
			case errors.Is(err, api.ErrReplicaDamaged) && !r.forwarded:
				if b.askMembers(r, readLimit(wait)) { // once: if the request is what is wrong, each of them fails over it
					if b.soundWithout(r, s, readLimit(wait)) {
						s.SetAside()
					}
					return
				}
			}
			r.answer(v, err)
		}
	}
}

// whileClosing is what a read is told whose store was dropped while it waited. A node that comes back opens the stores that it knows of, and may hear only then that a name was dropped and created again: the
// store is there.
func (b *Bus) whileClosing(ctx context.Context, store string, gone *api.Error) *api.Error {
	known, err := b.knows(ctx, store)
	switch {
	case err != nil:
		return err
	case known:
		return api.ErrNotReady.With("store %s was dropped and created again, and node %s is about to open the new one; retry shortly", store, b.name)
	}
	return gone
}

// openRead decodes the request and finds its store. When it returns no store, the request is answered.
func (b *Bus) openRead(r *request, into any, waitMS func() int) (*stores.Store, context.Context, context.CancelFunc) {
	if !r.nameFits() {
		return nil, nil, nil
	}
	if !r.decode(into) {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(b.ctx, readLimit(waitMS))
	s, err := b.store(ctx, r.subject.Store)
	if err != nil {
		cancel()
		if !errors.Is(err, api.ErrReplicaDamaged) || !b.elsewhere(r, waitMS) {
			r.fail(err)
		}
		return nil, nil, nil
	}
	return s, ctx, cancel
}

// readLimit is how long a read may take that asks to wait.
func readLimit(waitMS func() int) time.Duration {
	return readTimeout + time.Duration(min(max(waitMS(), 0), api.MaxWait))*time.Millisecond
}

// elsewhere has another member answer a read that this node's replica cannot, and reports whether one did. A read that was forwarded goes no further: the node that sent it asks the next.
func (b *Bus) elsewhere(r *request, waitMS func() int) bool {
	return !r.forwarded && b.forwardRead(r, readLimit(waitMS))
}

// nameFits refuses a name behind a verb that takes none, and one that cannot be a stream's where the verb needs one.
func (r *request) nameFits() bool {
	verb, known := api.FindVerb(r.subject)
	if !known || verb.Name == "" {
		return r.noName()
	}
	check := api.CheckStreamName
	if verb.Name == "<name>" {
		check = api.CheckSubscriptionName
	}
	if err := check(r.subject.Name); err != nil {
		r.fail(err)
		return false
	}
	return true
}

// noName refuses a name behind a verb that takes none.
func (r *request) noName() bool {
	if r.subject.Name == "" {
		return true
	}
	r.fail(api.ErrBadSubject.With("%s.%s takes no name; leave %q out", r.subject.Class, r.subject.Verb, r.subject.Name))
	return false
}

// store returns the open store, waiting for one that was created a moment ago.
func (b *Bus) store(ctx context.Context, name string) (*stores.Store, *api.Error) {
	be := b.backend.Load()
	if s, ok := be.Stores.Get(name); ok {
		return s, nil
	}
	known, aerr := b.knows(ctx, name)
	if aerr != nil {
		return nil, aerr
	}
	if !known {
		return nil, b.storeNotFound(name)
	}
	s, err := be.Stores.Wait(ctx, name, 0)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, context.DeadlineExceeded):
		return nil, api.ErrNotReady.With("store %s is not open on node %s yet; retry shortly", name, b.name)
	}
	return nil, api.ErrReplicaDamaged.With("node %s cannot open its replica of store %s (%v); ask again to reach another node", b.name, name, err)
}

func (b *Bus) readConfig(r *request) {
	be := b.backend.Load()
	var o api.ReadOptions
	if !r.decode(&o) {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, readTimeout)
	defer cancel()
	switch r.subject.Verb {
	case "get":
		v, err := be.Config.Get(ctx, r.subject.Name, o)
		r.answer(v, err)
	case "list":
		if r.noName() {
			v, err := be.Config.List(ctx, o)
			r.answer(v, err)
		}
	default:
		r.fail(api.UnknownVerb(r.subject))
	}
}
