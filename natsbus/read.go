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

func (b *Bus) readStore(r *request) {
	name := r.subject.Name
	switch r.subject.Verb {
	case "stream":
		var q api.ReadStreamRequest
		if s, ctx, cancel := b.openRead(r, &q, func() int { return q.WaitMS }); s != nil {
			defer cancel()
			v, err := s.ReadStream(ctx, name, q)
			r.answer(v, err)
		}
	case "snapshot":
		var q api.SnapshotRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Snapshot(ctx, name, q)
			r.answer(v, err)
		}
	case "snapshots":
		var q api.SnapshotsRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Snapshots(ctx, name, q)
			r.answer(v, err)
		}
	case "metadata":
		var q api.StreamStateRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.StreamState(ctx, name, q)
			r.answer(v, err)
		}
	case "subscriptions":
		var q api.ReadOptions
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Subscriptions(ctx, q)
			r.answer(v, err)
		}
	case "subscription":
		var q api.ReadOptions
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Subscription(ctx, name, q)
			r.answer(v, err)
		}
	case "parked":
		var q api.ParkedRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Parked(ctx, name, q)
			r.answer(v, err)
		}
	case "all", "query":
		var q api.ReadAllRequest
		if s, ctx, cancel := b.openRead(r, &q, func() int { return q.WaitMS }); s != nil {
			defer cancel()
			v, err := s.ReadAll(ctx, q)
			r.answer(v, err)
		}
	case "backup":
		var q api.BackupRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.BackupEvents(ctx, q)
			r.answer(v, err)
		}
	case "backup_keys":
		var q api.BackupKeysRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.BackupKeys(ctx, q)
			r.answer(v, err)
		}
	case "streams":
		var q api.StreamsRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Streams(ctx, q)
			r.answer(v, err)
		}
	case "info":
		var q api.InfoRequest
		if s, ctx, cancel := b.openRead(r, &q, nil); s != nil {
			defer cancel()
			v, err := s.Info(ctx, q)
			if err == nil {
				v.Node = b.name
			}
			r.answer(v, err)
		}
	default:
		r.fail(api.UnknownVerb(r.subject))
	}
}

// openRead decodes the request and finds its store. When it returns no store, the request is answered.
func (b *Bus) openRead(r *request, into any, waitMS func() int) (*stores.Store, context.Context, context.CancelFunc) {
	if !r.nameFits() {
		return nil, nil, nil
	}
	if !r.decode(into) {
		return nil, nil, nil
	}
	limit := readTimeout
	if waitMS != nil {
		limit += time.Duration(min(max(waitMS(), 0), api.MaxWait)) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	s, err := b.store(ctx, r.subject.Store)
	if err != nil {
		cancel()
		elsewhere := errors.Is(err, api.ErrReplicaDamaged) && !r.forwarded
		if !elsewhere || !b.forwardRead(r, limit) {
			r.fail(err)
		}
		return nil, nil, nil
	}
	return s, ctx, cancel
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
	s, err := be.Stores.Wait(ctx, name)
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
