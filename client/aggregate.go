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

// loadAttempts bounds how often Load begins anew because the stream was cut meanwhile.
const loadAttempts = 10

// errCut says that two pages of a stream are not of one state: a delete or cut came between them.
var errCut = errors.New("its events were cut off or deleted between two pages")

// Load returns the aggregate as it is now: its newest snapshot, if snapshots are kept, and the events behind it. A stream without events is an aggregate at version NoStream.
// Of a stream whose head was cut off, and that has no snapshot which the rest follows, the rest makes the state.
func (a *Aggregates[S]) Load(ctx context.Context, stream string) (*Aggregate[S], error) {
	for attempt := 1; ; attempt++ {
		g, err := a.load(ctx, stream)
		if !errors.Is(err, errCut) {
			return g, err
		}
		if attempt == loadAttempts {
			return nil, fmt.Errorf("aggregate %s: %w, %d times in a row; load it again when nobody cuts it", stream, err, attempt)
		}
		giveWay(ctx, attempt)
	}
}

// load is an attempt of Load. Events of one page are of one state, also where some between them are too old and gone. That pages are of one state too shows in that each begins
// where the one before ended: whatever is cut or deleted takes the stream's head, so it leaves a gap there.
func (a *Aggregates[S]) load(ctx context.Context, stream string) (*Aggregate[S], error) {
	g, res, err := a.firstPage(ctx, stream)
	if errors.Is(err, api.ErrStreamNotFound) {
		return &Aggregate[S]{Stream: stream, State: a.fresh(), Version: NoStream}, nil
	}
	if err != nil {
		return nil, err
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
		next, incarnation := res.Next, res.Incarnation
		res, err = call[api.ReadResponse](ctx, a.Store.client, request{
			subject: a.Store.client.subjects.Read(a.Store.name, "stream", stream), body: api.ReadStreamRequest{From: &next, Limit: defaultPageSize},
		})
		if errors.Is(err, api.ErrStreamNotFound) {
			return nil, errCut
		}
		if err != nil {
			return nil, err
		}
		if res.Incarnation != incarnation && res.Incarnation > 0 && incarnation > 0 || g.Version != NoStream && begins(res) != next {
			return nil, errCut
		}
	}
}

// firstPage returns the state of the newest snapshot, or a fresh one, and the first page of the events that follow it.
func (a *Aggregates[S]) firstPage(ctx context.Context, stream string) (*Aggregate[S], *api.ReadResponse, error) {
	g := &Aggregate[S]{Stream: stream, State: a.fresh(), Version: NoStream}
	unfit := int64(NoStream) // the version of a snapshot that the events do not follow
	for attempt := 1; a.SnapshotEvery > 0; attempt++ {
		res, err := a.Store.readAggregate(ctx, stream, true)
		if err != nil || res.Snapshot == nil {
			return g, res, err
		}
		version := int64(res.Snapshot.Version)
		state, err := a.decode(res.Snapshot)
		if err == nil && begins(res) == res.Snapshot.Version+1 {
			g.State, g.Version = state, version
			return g, res, nil
		}
		if err == nil && version != unfit && attempt < loadAttempts {
			unfit = version // whoever cut the events kept a newer snapshot before, which is there by now; or did not, and it is the same again
			continue
		}
		if err == nil {
			err = fmt.Errorf("behind the snapshot of version %d events are gone up to version %d; the events are read instead; keep a snapshot before events are cut", version, begins(res))
		}
		a.snapshotFailed(stream, err)
		break
	}
	res, err := a.Store.readAggregate(ctx, stream, false)
	return g, res, err
}

// begins returns the version of a page's first event, or that of the next one that can come.
func begins(res *api.ReadResponse) uint64 {
	switch {
	case len(res.Events) > 0:
		return res.Events[0].Version
	case res.End && res.LastVersion != nil:
		return uint64(*res.LastVersion + 1)
	}
	return res.Next
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
// when it is time. Events whose ids are in the stream already, as those of a command that is carried out again, are not written twice, whoever wrote the stream since; g is then brought
// up to date with them unless it was. What SaveIf demands beside that are conditions on other streams or on queries.
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
	if err := a.follow(ctx, g, events, res); err != nil {
		return res, err
	}
	if n := int64(a.SnapshotEvery); n > 0 && (g.Version+1)/n > (before+1)/n {
		if err := a.snapshot(ctx, g.Stream); err != nil {
			a.snapshotFailed(g.Stream, err)
		}
	}
	return res, nil
}

// follow brings g up to date with events that are in the stream now, as res says. A duplicate was written by somebody who sent the same events, maybe long ago.
func (a *Aggregates[S]) follow(ctx context.Context, g *Aggregate[S], events []api.NewEvent, res *api.AppendResponse) error {
	switch {
	case res.Duplicate && int64(res.Version) <= g.Version:
		return nil // they are in the state
	case res.Duplicate && (g.Version < 0 || int64(res.FirstVersion) != g.Version+1):
		loaded, err := a.Load(ctx, g.Stream) // somebody else's events lie between, or the stream was deleted since
		if err == nil {
			*g = *loaded
		}
		return err
	}
	written, now := make([]api.Event, len(events)), time.Now().UTC()
	for i, e := range events {
		written[i] = api.Event{
			Position: res.FirstPosition + uint64(i), Stream: g.Stream, Version: res.FirstVersion + uint64(i),
			ID: e.ID, Type: e.Type, Time: now, Data: e.Data, DataBase64: e.DataBase64, Metadata: e.Metadata, Tags: e.Tags,
		}
	}
	return a.evolve(g, written)
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
