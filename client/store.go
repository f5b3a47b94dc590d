package client

import (
	"context"
	"iter"
	"time"

	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
)

// Expected versions that are not a version.
const (
	NoStream = api.ExpectNoStream // the stream must not exist
	Any      = api.ExpectAny      // no expectation
	Exists   = api.ExpectExists   // the stream must exist
)

// Store is a handle on one event store. It may be used concurrently.
type Store struct {
	client *Client
	name   string
}

// Name returns the store's name.
func (s *Store) Name() string { return s.name }

// Append appends the events to the stream, all or none. Events without an id get one here, so the append is retried until ctx is done
// without ever being written twice.
//
// Errors to match with errors.Is: api.ErrWrongVersion (the stream is elsewhere), api.ErrOutcomeUnknown (ctx ended before an answer
// came; appending the same events again, with their ids, tells), and the rest of the table in package api.
func (s *Store) Append(ctx context.Context, stream string, events []api.NewEvent, expected int64) (*api.AppendResponse, error) {
	for i := range events {
		if events[i].ID == "" {
			events[i].ID = nuid.Next()
		}
	}
	var res api.AppendResponse
	err := s.client.call(ctx, s.client.subjects.Write(s.name, "append", stream), api.AppendRequest{Events: events, ExpectedVersion: &expected}, true, &res)
	if err != nil {
		return nil, err
	}
	return &res, nil
}

// ReadOptions say what to read. The zero value reads everything there is, forward.
type ReadOptions struct {
	From        uint64 // stream: first version; all: exclusive position. Ignored when Backward and FromEnd
	FromEnd     bool   // with Backward: begin at the end
	Backward    bool
	Limit       int        // how many events at most; 0: no limit
	Follow      bool       // go on with events that come, until ctx is done
	Query       *api.Query // ReadAll: only what it selects; nil: everything
	Consistency string     // api.Linearizable (default) or api.Local
	PageSize    int        // events a request; default 500
}

// followWait is how long one request of a follower waits at the node.
const followWait = 20 * time.Second

// ReadStream yields the stream's events. It ends with the first error.
func (s *Store) ReadStream(ctx context.Context, stream string, o ReadOptions) iter.Seq2[api.Event, error] {
	return s.read(ctx, o, func(ctx context.Context, next *uint64, limit, waitMS int, into *api.ReadResponse) error {
		return s.client.callWithin(ctx, s.client.try+time.Duration(waitMS)*time.Millisecond, s.client.subjects.Read(s.name, "stream", stream), api.ReadStreamRequest{
			ReadOptions: api.ReadOptions{Consistency: o.Consistency}, From: next, Limit: limit, Backward: o.Backward, WaitMS: waitMS,
		}, true, into)
	})
}

// ReadAll yields the store's events in position order, or those that o.Query selects. With Follow there is neither a gap nor a double between what was there and what
// comes. It ends with the first error.
func (s *Store) ReadAll(ctx context.Context, o ReadOptions) iter.Seq2[api.Event, error] {
	verb := "all"
	if o.Query != nil {
		verb = "query"
	}
	return s.read(ctx, o, func(ctx context.Context, next *uint64, limit, waitMS int, into *api.ReadResponse) error {
		return s.client.callWithin(ctx, s.client.try+time.Duration(waitMS)*time.Millisecond, s.client.subjects.Read(s.name, verb, ""), api.ReadAllRequest{
			ReadOptions: api.ReadOptions{Consistency: o.Consistency}, After: next, Limit: limit, Backward: o.Backward, WaitMS: waitMS, Query: o.Query,
		}, true, into)
	})
}

type fetch func(ctx context.Context, next *uint64, limit, waitMS int, into *api.ReadResponse) error

func (s *Store) read(ctx context.Context, o ReadOptions, page fetch) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		from := o.From
		next := &from
		if o.Backward && o.FromEnd {
			next = nil
		}
		size := o.PageSize
		if size == 0 {
			size = 500
		}
		for left := o.Limit; ; {
			if o.Limit > 0 {
				size = min(size, left)
			}
			wait := 0
			if o.Follow {
				wait = int(followWait / time.Millisecond)
			}
			var res api.ReadResponse
			if err := page(ctx, next, size, wait, &res); err != nil {
				yield(api.Event{}, err)
				return
			}
			for _, e := range res.Events {
				if !yield(e, nil) {
					return
				}
			}
			left -= len(res.Events)
			if res.End && !o.Follow || o.Limit > 0 && left <= 0 {
				return
			}
			next = &res.Next
		}
	}
}

// Streams yields the store's streams whose names begin with prefix, in name order.
func (s *Store) Streams(ctx context.Context, prefix string) iter.Seq2[api.StreamInfo, error] {
	return func(yield func(api.StreamInfo, error) bool) {
		for after := ""; ; {
			var res api.StreamsResponse
			err := s.client.call(ctx, s.client.subjects.Read(s.name, "streams", ""), api.StreamsRequest{After: after, Prefix: prefix, Limit: 1000}, true, &res)
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
	var res api.StoreInfoResponse
	err := s.client.call(ctx, s.client.subjects.Read(s.name, "info", ""), api.InfoRequest{}, true, &res)
	return &res, err
}
