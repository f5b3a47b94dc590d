package stores

import (
	"context"
	"errors"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

const defaultLimit = 100

// Catchup makes this replica fit to be read as o asks: linearizable reads go through the read index, min_position waits until it is applied.
func (s *Store) Catchup(ctx context.Context, o api.ReadOptions) *api.Error {
	switch o.Consistency {
	case "", api.Linearizable:
		if err := s.group.LinearizableRead(ctx); errors.Is(err, raftnode.ErrClosed) {
			return s.closed()
		} else if err != nil {
			return s.apiError(err)
		}
	case api.Local:
	default:
		return api.ErrBadRequest.With("consistency %q is not known; use %q (default) or %q", o.Consistency, api.Linearizable, api.Local)
	}
	if o.MinPosition > 0 {
		if err := s.machine.WaitPosition(ctx, o.MinPosition); err != nil {
			return api.ErrPositionAhead.With("store %s has not reached position %d on this node; retry, or ask for a lower min_position", s.Name(), o.MinPosition)
		}
	}
	return nil
}

// ReadStream reads a page of one stream. With WaitMS it waits for a first event.
func (s *Store) ReadStream(ctx context.Context, stream string, r api.ReadStreamRequest) (*api.ReadResponse, *api.Error) {
	if err := api.CheckStreamName(stream); err != nil {
		return nil, err
	}
	limit, err := checkPage(r.Limit, r.WaitMS, r.Backward)
	if err != nil {
		return nil, err
	}
	q := fsm.StreamQuery{Limit: limit, MaxBytes: api.MaxPageBytes, Backward: r.Backward, FromEnd: r.Backward && r.From == nil, Now: s.now().UnixMicro()}
	if r.From != nil {
		q.From = *r.From
	}
	if err := withSnapshot(&r, &q); err != nil {
		return nil, err
	}
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	var page fsm.StreamPage
	err = s.poll(ctx, r.WaitMS, func() (bool, error) {
		var err error
		page, err = s.machine.ReadStream(stream, q)
		return len(page.Events) > 0 || err == nil && !page.End, err
	})
	if err != nil {
		return nil, err
	}
	last := page.LastVersion
	return &api.ReadResponse{
		Reply: api.Reply{Type: api.TypeRead}, Store: s.Name(), Incarnation: s.spec.Incarnation, Stream: stream, Snapshot: page.Snapshot, Events: notNil(page.Events),
		Next: page.Next, End: page.End, LastVersion: &last, LastPosition: page.LastPosition, Applied: page.Applied,
	}, nil
}

// ReadAll reads a page of the store in position order, of what the query selects if there is one. With WaitMS it waits for a first event, or until a query has looked as
// far as one page does.
func (s *Store) ReadAll(ctx context.Context, r api.ReadAllRequest) (*api.ReadResponse, *api.Error) {
	limit, err := checkPage(r.Limit, r.WaitMS, r.Backward)
	if err == nil && r.Query != nil {
		err = r.Query.Check("query")
	}
	if err != nil {
		return nil, err
	}
	q := fsm.AllQuery{Limit: limit, MaxBytes: api.MaxPageBytes, Backward: r.Backward, FromEnd: r.Backward && r.After == nil, Query: r.Query, Now: s.now().UnixMicro()}
	if r.After != nil {
		q.After = *r.After
	}
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	var page fsm.AllPage
	err = s.poll(ctx, r.WaitMS, func() (bool, error) {
		var err error
		page, err = s.machine.ReadAll(q)
		if err == nil && r.WaitMS > 0 {
			q.After = page.Next // what was looked at is not looked at again
		}
		return len(page.Events) > 0 || !page.End, err
	})
	if err != nil {
		return nil, err
	}
	res := &api.ReadResponse{
		Reply: api.Reply{Type: api.TypeRead}, Store: s.Name(), Incarnation: s.spec.Incarnation, Events: notNil(page.Events),
		Next: page.Next, End: page.End, LastPosition: page.LastPosition, Applied: page.Applied,
	}
	if r.Query != nil {
		res.Scanned = &page.Next
	}
	return res, nil
}

// lookAgain bounds how many waiting reads of a store look again at once. An append wakes all of them, which may be thousands; the node's other stores must not wait until the last one
// has looked.
const lookAgain = 2

// poll reads until something is found, waitMS have passed or EndWaits was called. A stream that does not exist yet is waited for as well. Who waits when the store is about to be closed is told at
// once.
func (s *Store) poll(ctx context.Context, waitMS int, read func() (found bool, err error)) *api.Error {
	wait, cancel := context.WithTimeout(ctx, time.Duration(waitMS)*time.Millisecond)
	defer cancel()
	changed := s.machine.Changed()
	found, err := read()
	for !found && waitMS > 0 && (err == nil || isNotFound(err)) {
		select {
		case <-changed:
		case <-s.waits.over:
			cancel()
		case <-s.waits.gone:
			return s.closed()
		case <-wait.Done():
		}
		select {
		case <-wait.Done(): // what was found before stands
		case <-s.waits.gone:
			return s.closed()
		case s.looking <- struct{}{}:
			changed = s.machine.Changed()
			found, err = read()
			<-s.looking
		}
		if wait.Err() != nil {
			break
		}
	}
	if err != nil {
		return s.apiError(err)
	}
	return nil
}

func isNotFound(err error) bool { return api.AsError(err).ErrCode == api.ErrStreamNotFound.ErrCode }

func checkPage(limit, waitMS int, backward bool) (int, *api.Error) {
	switch {
	case limit < 0 || limit > api.MaxReadLimit:
		return 0, api.ErrBadRequest.With("limit %d is out of range; 1 to %d, or leave it out for %d", limit, api.MaxReadLimit, defaultLimit)
	case waitMS < 0 || waitMS > api.MaxWait:
		return 0, api.ErrBadRequest.With("wait_ms %d is out of range; 0 to %d", waitMS, api.MaxWait)
	case waitMS > 0 && backward:
		return 0, api.ErrBadRequest.With("wait_ms and backward do not go together; new events come at the end")
	case limit == 0:
		return defaultLimit, nil
	}
	return limit, nil
}

func notNil(events []api.Event) []api.Event {
	if events == nil {
		return []api.Event{}
	}
	return events
}

// Streams lists streams in name order.
func (s *Store) Streams(ctx context.Context, r api.StreamsRequest) (*api.StreamsResponse, *api.Error) {
	limit, aerr := checkPage(r.Limit, 0, false)
	if aerr != nil {
		return nil, aerr
	}
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	applied, _ := s.machine.Applied() // before the page, which may show more than that and never less
	page, next, end, err := s.machine.Streams(r.Prefix, r.After, limit)
	if err != nil {
		return nil, s.apiError(err)
	}
	res := &api.StreamsResponse{Reply: api.Reply{Type: api.TypeStreams}, Store: s.Name(), Streams: page, End: end, Applied: applied}
	if page == nil {
		res.Streams = []api.StreamInfo{}
	}
	if !end {
		res.Next = next
	}
	return res, nil
}

// Info describes the store as this replica sees it. Node is left for the caller to fill. A store that rests goes on to rest, and with api.Local one that is not used otherwise comes to rest.
func (s *Store) Info(ctx context.Context, r api.InfoRequest) (*api.StoreInfoResponse, *api.Error) {
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	info, err := s.machine.Info()
	if err != nil {
		return nil, s.apiError(err)
	}
	l := s.Leadership()
	res := &api.StoreInfoResponse{
		Reply: api.Reply{Type: api.TypeStoreInfo}, Store: s.Name(), Incarnation: s.spec.Incarnation,
		Leader: raftnode.ServerName(l.Leader), Term: l.Term,
		Streams: info.Streams, Events: info.Events, LastPosition: info.LastPosition, DiskBytes: info.DiskBytes, Bytes: info.Bytes, Limits: s.Limits(), Restoring: info.Restoring, Applied: info.Applied,
	}
	for _, id := range s.Members() {
		res.Members = append(res.Members, raftnode.ServerName(id))
	}
	return res, nil
}

// LastVersion returns the version of the stream's last event in this replica, or api.ExpectNoStream.
func (s *Store) LastVersion(stream string) (int64, error) {
	info, exists, err := s.machine.Stream(stream)
	if err != nil || !exists {
		return api.ExpectNoStream, err
	}
	return info.Version, nil
}

// Hash returns a digest of the replica's logical state. Replicas that applied the same entries have the same.
func (s *Store) Hash() ([]byte, error) { return s.machine.Hash() }

// Applied returns the Raft index this replica has applied.
func (s *Store) Applied() uint64 {
	index, _ := s.machine.Applied()
	return index
}
