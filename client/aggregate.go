package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quorate/quorate/api"
)

// Aggregates loads and saves the aggregates of one kind: states of type S, each made of the events of its own stream.
type Aggregates[S any] struct {
	// Store is where the streams are.
	Store *Store
	// New returns the state of an aggregate that has no events. Left out: the zero value.
	New func() S
	// Evolve returns the state after an event. Of an event that Save has just written it sees the time of this machine; Load gives the cluster's, and a snapshot is
	// of a state that was loaded.
	Evolve func(S, api.Event) (S, error)
	// SnapshotEvery keeps a snapshot whenever so many events have come since the last multiple; 0: none are kept or used.
	SnapshotEvery int
	// SnapshotType names the state's format. A snapshot of another type is not used, so change it when S or Evolve change, as "Cart/1" to "Cart/2".
	SnapshotType string
	// SnapshotKeep is how many snapshots of a stream stay. Default: 2.
	SnapshotKeep int
	// Encode and Decode make bytes of a state and back. Default: JSON, which needs a state with exported fields.
	Encode func(S) ([]byte, error)
	Decode func([]byte) (S, error)
	// SnapshotFailed is told when a snapshot could not be kept or used. The events are written and nothing is lost, so it is no error of Save.
	SnapshotFailed func(stream string, err error)
	// Attempts bounds how often Update decides anew because somebody else wrote the stream. Default: 30.
	Attempts int
}

// Aggregate is the state of one stream.
type Aggregate[S any] struct {
	Stream  string
	State   S
	Version int64 // of the last event in State; NoStream: there is none
}

// Load returns the aggregate as it is now: its newest snapshot, if snapshots are kept, and the events behind it. A stream without events is an aggregate at version NoStream.
func (a *Aggregates[S]) Load(ctx context.Context, stream string) (*Aggregate[S], error) {
	res, err := a.Store.readAggregate(ctx, stream, a.SnapshotEvery > 0)
	if errors.Is(err, api.ErrStreamNotFound) {
		return &Aggregate[S]{Stream: stream, State: a.fresh(), Version: NoStream}, nil
	}
	if err != nil {
		return nil, err
	}
	g := &Aggregate[S]{Stream: stream, State: a.fresh(), Version: NoStream}
	if snap := res.Snapshot; snap != nil {
		state, err := a.decode(snap)
		if err != nil {
			a.snapshotFailed(stream, err)
			if res, err = a.Store.readAggregate(ctx, stream, false); err != nil { // the events, from the first
				return nil, err
			}
		} else {
			g.State, g.Version = state, int64(snap.Version)
		}
	}
	for {
		if err := a.evolve(g, res.Events); err != nil {
			return nil, err
		}
		if res.End {
			if res.LastVersion != nil {
				g.Version = max(g.Version, *res.LastVersion) // also when the last events are gone
			}
			return g, nil
		}
		res, err = call[api.ReadResponse](ctx, a.Store.client, request{
			subject: a.Store.client.subjects.Read(a.Store.name, "stream", stream), body: api.ReadStreamRequest{From: &res.Next, Limit: defaultPageSize},
		})
		if err != nil {
			return nil, err
		}
	}
}

func (a *Aggregates[S]) fresh() S {
	if a.New != nil {
		return a.New()
	}
	var zero S
	return zero
}

func (a *Aggregates[S]) evolve(g *Aggregate[S], events []api.Event) error {
	for _, e := range events {
		state, err := a.Evolve(g.State, e)
		if err != nil {
			return fmt.Errorf("aggregate %s, version %d, %s: %w", g.Stream, e.Version, e.Type, err)
		}
		g.State, g.Version = state, int64(e.Version)
	}
	return nil
}

// Save appends events to the aggregate, if nobody else has written its stream since it was loaded (else api.ErrWrongVersion), brings g up to date with them, and keeps a snapshot
// when it is time. What SaveIf demands beside that are conditions on other streams or on queries.
func (a *Aggregates[S]) Save(ctx context.Context, g *Aggregate[S], events ...api.NewEvent) (*api.AppendResponse, error) {
	return a.SaveIf(ctx, g, nil, events...)
}

// SaveIf is Save under conditions.
func (a *Aggregates[S]) SaveIf(ctx context.Context, g *Aggregate[S], conditions []api.Condition, events ...api.NewEvent) (*api.AppendResponse, error) {
	if len(events) == 0 {
		return nil, nil
	}
	res, err := a.Store.Append(ctx, g.Stream, events, g.Version, conditions...)
	if err != nil {
		return nil, err
	}
	before := g.Version
	written, now := make([]api.Event, len(events)), time.Now().UTC()
	for i, e := range events {
		written[i] = api.Event{
			Position: res.FirstPosition + uint64(i), Stream: g.Stream, Version: res.FirstVersion + uint64(i),
			ID: e.ID, Type: e.Type, Time: now, Data: e.Data, DataBase64: e.DataBase64, Metadata: e.Metadata, Tags: e.Tags,
		}
	}
	if err := a.evolve(g, written); err != nil {
		return res, err
	}
	if n := int64(a.SnapshotEvery); n > 0 && (g.Version+1)/n > (before+1)/n {
		if err := a.snapshot(ctx, g.Stream); err != nil {
			a.snapshotFailed(g.Stream, err)
		}
	}
	return res, nil
}

// Update loads the aggregate, has decide choose the events, and saves them; when somebody else wrote the stream meanwhile it does so again. It returns the aggregate with
// the events. decide may be called several times, and must have no effects of its own; its error is returned as it is.
func (a *Aggregates[S]) Update(ctx context.Context, stream string, decide func(S) ([]api.NewEvent, error)) (*Aggregate[S], error) {
	attempts := a.Attempts
	if attempts <= 0 {
		attempts = defaultAttempts
	}
	for attempt := 1; ; attempt++ {
		g, err := a.Load(ctx, stream)
		if err != nil {
			return nil, err
		}
		events, err := decide(g.State)
		if err != nil {
			return g, err
		}
		if _, err = a.Save(ctx, g, events...); !errors.Is(err, api.ErrWrongVersion) {
			return g, err
		}
		if attempt == attempts {
			return nil, fmt.Errorf("decided %d times, and each time somebody else wrote the stream meanwhile: %w", attempts, err)
		}
		giveWay(ctx, attempt)
	}
}

// snapshot keeps the state as it is made of the events that are stored.
func (a *Aggregates[S]) snapshot(ctx context.Context, stream string) error {
	g, err := a.Load(ctx, stream)
	if err != nil {
		return err
	}
	encode := a.Encode
	if encode == nil {
		encode = func(s S) ([]byte, error) { return api.Marshal(s) }
	}
	data, err := encode(g.State)
	if err != nil {
		return err
	}
	keep := a.SnapshotKeep
	if keep <= 0 {
		keep = 2
	}
	r := api.SnapshotPutRequest{Version: uint64(g.Version), Type: a.SnapshotType, Keep: keep}
	snapshotData(&r, data)
	_, err = a.Store.PutSnapshot(ctx, g.Stream, r)
	return err
}

func (a *Aggregates[S]) decode(snap *api.Snapshot) (S, error) {
	state := a.fresh()
	if snap.Type != a.SnapshotType {
		return state, fmt.Errorf("the snapshot of version %d has type %q, wanted %q; the events are read instead", snap.Version, snap.Type, a.SnapshotType)
	}
	if a.Decode != nil {
		return a.Decode(snap.Body())
	}
	err := json.Unmarshal(snap.Body(), &state)
	return state, err
}

func (a *Aggregates[S]) snapshotFailed(stream string, err error) {
	if a.SnapshotFailed != nil {
		a.SnapshotFailed(stream, fmt.Errorf("snapshot of %s: %w", stream, err))
	}
}
