package client

import (
	"context"

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

// Append appends the events to the stream, all or none, if the stream's last version is the expected one and all conditions hold. Events without an id get one, in the
// caller's slice, so the append is retried until ctx is done without ever being written twice, and the caller may do the same afterwards.
//
// Errors to match with errors.Is: api.ErrWrongVersion (the stream is elsewhere), api.ErrCondition (the *api.Error has all that failed), ErrOutcomeUnknown (nobody
// answered in time; appending the same events again tells), and the rest of the table in package api.
func (s *Store) Append(ctx context.Context, stream string, events []api.NewEvent, expected int64, conditions ...api.Condition) (*api.AppendResponse, error) {
	stamp(events)
	return call[api.AppendResponse](ctx, s.client, request{
		subject: s.client.subjects.Write(s.name, "append", stream), effect: safe, header: traceHeader(ctx),
		body: api.AppendRequest{Events: events, ExpectedVersion: &expected, Conditions: conditions},
	})
}

// AppendSeveral appends events to the streams that they name themselves, all or none, if all conditions hold. Ids, retries and errors are as with Append.
func (s *Store) AppendSeveral(ctx context.Context, events []api.NewEvent, conditions ...api.Condition) (*api.AppendSeveralResponse, error) {
	stamp(events)
	return call[api.AppendSeveralResponse](ctx, s.client, request{
		subject: s.client.subjects.Write(s.name, "append", ""), effect: safe, header: traceHeader(ctx),
		body: api.AppendRequest{Events: events, Conditions: conditions},
	})
}

func stamp(events []api.NewEvent) {
	for i := range events {
		if events[i].ID == "" {
			events[i].ID = nuid.Next()
		}
	}
}

// StreamAt is the condition that a stream, which the append may write to or not, is at the version: a number, NoStream or Exists.
func StreamAt(stream string, version int64) api.Condition {
	return api.Condition{Stream: stream, Version: &version}
}

// NothingNew is the condition that no event that the query selects lies behind the position: the dynamic consistency boundary. Decide uses it.
func NothingNew(query api.Query, after uint64) api.Condition {
	return api.Condition{Query: &query, After: after}
}

// Select makes a query of items, of which an event has to match one.
func Select(items ...api.QueryItem) api.Query { return api.Query{Items: items} }
