package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/quorate/quorate/api"
)

// Decision is a decision that must hold against everything it was made from: the events that Query selects, in whatever streams they are. That is the dynamic
// consistency boundary (dcb.events): nothing is locked, and a decision conflicts only with events that it would have looked at.
type Decision[S any] struct {
	// Query selects what the decision depends on. In it, stream prefixes need types, type prefixes or tags beside them.
	Query api.Query
	// State is what Evolve begins with. When it holds maps or pointers, make it anew for every decision.
	State S
	// Evolve returns the state after an event.
	Evolve func(S, api.Event) (S, error)
	// Decide returns the events to append, or why there are none. Every event may name its stream; those that do not go to Stream. It may be called several times,
	// and must have no effects of its own.
	Decide func(S) ([]api.NewEvent, error)
	// Stream is where events go that name none.
	Stream string
	// Attempts bounds how often it is decided anew because something was written meanwhile. Default: 30.
	Attempts int
}

const defaultAttempts = 30

// Decide reads what the decision depends on, decides, and appends the events if nothing that it depends on was written meanwhile; if something was, it reads that and
// decides again. It returns the state that was decided on, and where the events are; a decision for no events appends nothing and returns no response.
//
// The error of d.Decide is returned as it is. When the attempts are used up the error matches api.ErrCondition; when the store was dropped and created again since it was read first, ErrStoreRecreated, unless that happens between the last read and the append.
func Decide[S any](ctx context.Context, s *Store, d Decision[S]) (S, *api.AppendSeveralResponse, error) {
	known := decided[S]{state: d.State}
	attempts := d.Attempts
	if attempts <= 0 {
		attempts = defaultAttempts
	}
	for attempt := 1; ; attempt++ {
		if err := known.fold(ctx, s, &d); err != nil {
			return known.state, nil, err
		}
		events, err := d.Decide(known.state)
		if err != nil || len(events) == 0 {
			return known.state, nil, err
		}
		for i := range events {
			if events[i].Stream == "" {
				events[i].Stream = d.Stream
			}
		}
		res, err := s.AppendSeveral(ctx, events, NothingNew(d.Query, known.after))
		if !errors.Is(err, api.ErrCondition) {
			return known.state, res, err
		}
		if attempt == attempts {
			return known.state, nil, fmt.Errorf("decided %d times, and each time something was written meanwhile: %w", attempts, err)
		}
		giveWay(ctx, attempt)
	}
}

// giveWay waits for a moment, longer with every attempt, so that those who decide on the same events do not all fail one another.
func giveWay(ctx context.Context, attempt int) {
	timer := time.NewTimer(rand.N(time.Millisecond << min(attempt, 6)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// decided is what a decision is made on.
type decided[S any] struct {
	state S
	after uint64 // how far it has looked
	of    uint64 // the incarnation of the store that it looked at; 0: none has been told
}

// fold evolves the state by what the query selects behind what it has looked at.
func (k *decided[S]) fold(ctx context.Context, s *Store, d *Decision[S]) error {
	for {
		r := request{
			subject: s.client.subjects.Read(s.name, "query", ""), body: api.ReadAllRequest{After: &k.after, Limit: defaultPageSize, Query: &d.Query},
		}
		res, err := call[api.ReadResponse](ctx, s.client, r)
		if err != nil {
			return err
		}
		if k.of > 0 && res.Incarnation > 0 && res.Incarnation != k.of {
			return fmt.Errorf("%s: %w", r.subject, recreated(res.Incarnation, k.of))
		}
		k.of = max(k.of, res.Incarnation)
		for _, e := range res.Events {
			if k.state, err = d.Evolve(k.state, e); err != nil {
				return fmt.Errorf("event %d, %s of stream %s: %w", e.Position, e.Type, e.Stream, err)
			}
		}
		k.after = res.Next
		if res.Scanned != nil {
			k.after = *res.Scanned
		}
		if res.End {
			return nil
		}
	}
}
