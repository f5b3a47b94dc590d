package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/quorate/quorate/api"
)

// ReadOptions say what to read. The zero value reads everything there is, forward.
type ReadOptions struct {
	From        uint64     // a stream: the first version; all: the position behind which to begin. Ignored with FromEnd
	FromEnd     bool       // begin at the end: backward from the last event; with Follow behind it, at the next one
	Backward    bool       // newest first
	Limit       int        // how many events at most; 0: no limit
	Follow      bool       // go on with events that come, until ctx is done
	Query       *api.Query // ReadAll: only what it selects; nil: everything
	Consistency string     // api.Linearizable (default): everything that was acknowledged before; or api.Local
	MinPosition uint64     // the node must have applied this position: with api.Local, reads one's own writes
	PageSize    int        // events a request; default 3,000, or Limit when it is less
	OnPage      func()     // called for each answer, also one without events, from another goroutine; nil: nobody is told
}

// Times and sizes of reading.
const (
	followWait      = 10 * time.Second // one request of a follower waits so long at the node
	defaultPageSize = 3000
	staleAgain      = 250 * time.Millisecond // until a node is asked again that knows an older store only
	pagesAhead      = 1                      // besides the page that the caller works on and the one that is being fetched
)

// ErrStoreRecreated is matched by the error of a read, or a backup, that found another store behind the name than the one with which it began: what was read before and its
// positions and versions belong to a store that is gone. Read the new one from its beginning, if that is what it takes the place of. Who waits for events in the instant of the drop may be told
// api.ErrStoreNotFound instead.
var ErrStoreRecreated = errors.New("the store was dropped and created again")

// recreated is ErrStoreRecreated with both incarnations.
func recreated(now, before uint64) error {
	return fmt.Errorf("%w meanwhile: this is incarnation %d, and it began with %d, whose positions and versions say nothing any more; begin anew", ErrStoreRecreated, now, before)
}

// ReadStream yields the stream's events. It ends with the first error. A stream that does not exist is an error, except with Follow, which waits for it. As with ReadAll, that
// the store was dropped and created again ends it with ErrStoreRecreated; a follower of a stream that the new store does not have is told when it has.
func (s *Store) ReadStream(ctx context.Context, stream string, o ReadOptions) iter.Seq2[api.Event, error] {
	return s.read(ctx, o, func(ro api.ReadOptions, next *uint64, limit, waitMS int) request {
		return request{
			subject: s.client.subjects.Read(s.name, "stream", stream), wait: time.Duration(waitMS) * time.Millisecond,
			body: api.ReadStreamRequest{
				ReadOptions: ro, From: next, Limit: limit, Backward: o.Backward, WaitMS: waitMS,
			},
		}
	})
}

// ReadAll yields the store's events in position order, or those that o.Query selects. With Follow there is neither a gap nor a double between what was there and what
// comes, whatever happens to leaders, nodes and connections meanwhile. It ends with the first error that trying again does not help; ErrStoreRecreated is one.
func (s *Store) ReadAll(ctx context.Context, o ReadOptions) iter.Seq2[api.Event, error] {
	verb := "all"
	if o.Query != nil {
		verb = "query"
	}
	return s.read(ctx, o, func(ro api.ReadOptions, next *uint64, limit, waitMS int) request {
		return request{
			subject: s.client.subjects.Read(s.name, verb, ""), wait: time.Duration(waitMS) * time.Millisecond,
			body: api.ReadAllRequest{
				ReadOptions: ro, After: next, Limit: limit, Backward: o.Backward, WaitMS: waitMS, Query: o.Query,
			},
		}
	})
}

// pageRequest asks for the page at next; nil stands for the end when reading backward.
type pageRequest func(ro api.ReadOptions, next *uint64, limit, waitMS int) request

// page is a part of what is read.
type page struct {
	events []api.Event
	err    error
}

func (s *Store) read(ctx context.Context, o ReadOptions, ask pageRequest) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		pages := make(chan page, pagesAhead)
		ended := make(chan struct{})
		complete := false // set before pages is closed
		defer func() { cancel(); <-ended }()
		go func() { // fetches while the caller works; ends with the last page, or when the caller does not want more
			defer close(ended)
			defer close(pages)
			complete = s.fetchPages(ctx, o, ask, func(p page) bool {
				select {
				case pages <- p:
					return true
				case <-ctx.Done():
					return false
				}
			})
		}()
		for p := range pages {
			for i := range p.events {
				if !yield(p.events[i], nil) {
					return
				}
			}
			if p.err != nil {
				yield(api.Event{}, p.err)
				return
			}
		}
		if err := context.Cause(ctx); err != nil && !complete {
			yield(api.Event{}, err)
		}
	}
}

// fetchPages gives page after page to send until there are no more, one is an error, or send returns false. It reports whether it got to the end.
//
// The first page is as consistent as the caller wants it. Those that follow need not ask the leader again: it is enough that the node has all that the first one knew of, so that
// the end is not told before that. A follower does not even need that, for it goes on at the end, and its place lies in what it has seen.
func (s *Store) fetchPages(ctx context.Context, o ReadOptions, ask pageRequest, send func(page) bool) (complete bool) {
	ro := api.ReadOptions{Consistency: o.Consistency, MinPosition: o.MinPosition}
	next := &o.From
	of := uint64(0) // the incarnation that is read; 0: no page has said
	switch {
	case o.FromEnd && o.Backward:
		next = nil
	case o.FromEnd && o.Follow:
		begin, incarnation, err := s.behindTheEnd(ctx, ro, ask)
		if err != nil {
			return send(page{err: err})
		}
		next, of = &begin, incarnation
	}
	size := o.PageSize
	if size <= 0 {
		size = defaultPageSize
	}
	wait := 0
	if o.Follow {
		wait = int(followWait / time.Millisecond)
	}
	for left := o.Limit; ; {
		if o.Limit > 0 {
			size = min(size, left)
		}
		r := ask(ro, next, size, wait)
		if of > 0 {
			r.final = api.ErrPositionAhead
		}
		res, err := call[api.ReadResponse](ctx, s.client, r)
		if of > 0 && errors.Is(err, api.ErrPositionAhead) { // a node that is behind; or another store, which may never get there: this page tells of which it is
			res, err = call[api.ReadResponse](ctx, s.client, ask(api.ReadOptions{}, next, size, wait))
		}
		if err == nil && of > 0 && res.Incarnation > 0 && res.Incarnation < of { // a node that came back and has not heard yet that the store was dropped; incarnations only grow
			timer := time.NewTimer(staleAgain)
			select {
			case <-timer.C:
				continue
			case <-ctx.Done():
				timer.Stop()
				return send(page{err: ctx.Err()})
			}
		}
		if err == nil && of > 0 && res.Incarnation > of { // 0: a node of an older version does not say
			err = fmt.Errorf("%s: %w", r.subject, recreated(res.Incarnation, of))
		}
		if err != nil {
			if o.Follow && errors.Is(err, api.ErrStreamNotFound) && ctx.Err() == nil {
				continue // the node waited for it, and will again
			}
			return send(page{err: err})
		}
		if o.OnPage != nil {
			o.OnPage()
		}
		if len(res.Events) > 0 && !send(page{events: res.Events}) {
			return false
		}
		of = max(of, res.Incarnation)
		ro.Consistency, ro.MinPosition = api.Local, max(ro.MinPosition, res.LastPosition)
		if o.Follow {
			ro.MinPosition = 0
		}
		left -= len(res.Events)
		if res.End && !o.Follow || o.Limit > 0 && left <= 0 {
			return true
		}
		next = &res.Next
	}
}

// behindTheEnd returns where a follower begins that wants nothing of what is there already, and of which incarnation that is.
func (s *Store) behindTheEnd(ctx context.Context, ro api.ReadOptions, ask pageRequest) (begin, incarnation uint64, err error) {
	last := uint64(math.MaxInt64)
	res, err := call[api.ReadResponse](ctx, s.client, ask(ro, &last, 1, 0))
	switch {
	case errors.Is(err, api.ErrStreamNotFound):
		return 0, 0, nil
	case err != nil:
		return 0, 0, err
	case res.LastVersion != nil: // a stream: from is inclusive
		return uint64(*res.LastVersion + 1), res.Incarnation, nil
	}
	return res.LastPosition, res.Incarnation, nil
}

// Streams yields the store's streams whose names begin with prefix, in name order.
func (s *Store) Streams(ctx context.Context, prefix string) iter.Seq2[api.StreamInfo, error] {
	return func(yield func(api.StreamInfo, error) bool) {
		for after := ""; ; {
			res, err := call[api.StreamsResponse](ctx, s.client, request{
				subject: s.client.subjects.Read(s.name, "streams", ""), body: api.StreamsRequest{After: after, Prefix: prefix, Limit: 1000},
			})
			if err != nil {
				yield(api.StreamInfo{}, err)
				return
			}
			for _, st := range res.Streams {
				if !yield(st, nil) {
					return
				}
			}
			if res.End {
				return
			}
			after = res.Next
		}
	}
}

// Info describes the store.
func (s *Store) Info(ctx context.Context) (*api.StoreInfoResponse, error) {
	return call[api.StoreInfoResponse](ctx, s.client, request{subject: s.client.subjects.Read(s.name, "info", ""), body: api.InfoRequest{}})
}
