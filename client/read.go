package client

import (
	"context"
	"errors"
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
}

// Times and sizes of reading.
const (
	followWait      = 10 * time.Second // one request of a follower waits so long at the node
	defaultPageSize = 3000
	pagesAhead      = 1 // besides the page that the caller works on and the one that is being fetched
)

// ReadStream yields the stream's events. It ends with the first error. A stream that does not exist is an error, except with Follow, which waits for it.
func (s *Store) ReadStream(ctx context.Context, stream string, o ReadOptions) iter.Seq2[api.Event, error] {
	return s.read(ctx, o, func(ctx context.Context, ro api.ReadOptions, next *uint64, limit, waitMS int) (*api.ReadResponse, error) {
		return call[api.ReadResponse](ctx, s.client, request{
			subject: s.client.subjects.Read(s.name, "stream", stream), wait: time.Duration(waitMS) * time.Millisecond,
			body: api.ReadStreamRequest{
				ReadOptions: ro, From: next, Limit: limit, Backward: o.Backward, WaitMS: waitMS,
			},
		})
	})
}

// ReadAll yields the store's events in position order, or those that o.Query selects. With Follow there is neither a gap nor a double between what was there and what
// comes, whatever happens to leaders, nodes and connections meanwhile. It ends with the first error that trying again does not help.
func (s *Store) ReadAll(ctx context.Context, o ReadOptions) iter.Seq2[api.Event, error] {
	verb := "all"
	if o.Query != nil {
		verb = "query"
	}
	return s.read(ctx, o, func(ctx context.Context, ro api.ReadOptions, next *uint64, limit, waitMS int) (*api.ReadResponse, error) {
		return call[api.ReadResponse](ctx, s.client, request{
			subject: s.client.subjects.Read(s.name, verb, ""), wait: time.Duration(waitMS) * time.Millisecond,
			body: api.ReadAllRequest{
				ReadOptions: ro, After: next, Limit: limit, Backward: o.Backward, WaitMS: waitMS, Query: o.Query,
			},
		})
	})
}

// fetch reads the page at next; nil stands for the end when reading backward.
type fetch func(ctx context.Context, ro api.ReadOptions, next *uint64, limit, waitMS int) (*api.ReadResponse, error)

// page is what a fetch got.
type page struct {
	events []api.Event
	err    error
}

func (s *Store) read(ctx context.Context, o ReadOptions, fetch fetch) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		pages := make(chan page, pagesAhead)
		ended := make(chan struct{})
		complete := false // set before pages is closed
		defer func() { cancel(); <-ended }()
		go func() { // fetches while the caller works; ends with the last page, or when the caller does not want more
			defer close(ended)
			defer close(pages)
			complete = fetchPages(ctx, o, fetch, func(p page) bool {
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
// The first page is as consistent as the caller wants it. Those that follow need not ask the leader again: it is enough that the node has all that the first one knew of.
func fetchPages(ctx context.Context, o ReadOptions, fetch fetch, send func(page) bool) (complete bool) {
	ro := api.ReadOptions{Consistency: o.Consistency, MinPosition: o.MinPosition}
	next := &o.From
	switch {
	case o.FromEnd && o.Backward:
		next = nil
	case o.FromEnd && o.Follow:
		begin, err := behindTheEnd(ctx, ro, fetch)
		if err != nil {
			return send(page{err: err})
		}
		next = &begin
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
		res, err := fetch(ctx, ro, next, size, wait)
		if err != nil {
			if o.Follow && errors.Is(err, api.ErrStreamNotFound) && ctx.Err() == nil {
				continue // the node waited for it, and will again
			}
			return send(page{err: err})
		}
		if len(res.Events) > 0 && !send(page{events: res.Events}) {
			return false
		}
		ro.Consistency, ro.MinPosition = api.Local, max(ro.MinPosition, res.LastPosition)
		left -= len(res.Events)
		if res.End && !o.Follow || o.Limit > 0 && left <= 0 {
			return true
		}
		next = &res.Next
	}
}

// behindTheEnd returns where a follower begins that wants nothing of what is there already.
func behindTheEnd(ctx context.Context, ro api.ReadOptions, fetch fetch) (uint64, error) {
	last := uint64(math.MaxInt64)
	res, err := fetch(ctx, ro, &last, 1, 0)
	switch {
	case errors.Is(err, api.ErrStreamNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case res.LastVersion != nil: // a stream: from is inclusive
		return uint64(*res.LastVersion + 1), nil
	}
	return res.LastPosition, nil
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
