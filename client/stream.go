package client

import (
	"context"

	"github.com/quorate/quorate/api"
)

// DeleteStream deletes the stream: its events are gone for readers, and the next append brings it back at the version that follows. With Hard it can never be written again.
// Give it the version that was read as ExpectedVersion, and it is retried; without one a second try might delete what somebody appended meanwhile, so after a time-out the error is ErrOutcomeUnknown.
// It is that too when a try behind a time-out is refused, since somebody may have brought the stream back after the first one had deleted it; StreamState tells what is there.
func (s *Store) DeleteStream(ctx context.Context, stream string, r api.DeleteStreamRequest) (*api.StreamStateResponse, error) {
	twice := single
	switch {
	case r.Hard: // once it took effect no other try is refused
		twice = safe
	case r.ExpectedVersion != nil && *r.ExpectedVersion >= 0: // Any and Exists also hold of what somebody appends meanwhile
		twice = guarded
	}
	return s.changeStream(ctx, "delete", stream, r, twice)
}

// TruncateStream cuts the head of the stream off; Before is the first version that stays. Keep a snapshot of version Before-1 or later first, if there are any.
func (s *Store) TruncateStream(ctx context.Context, stream string, r api.TruncateStreamRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "truncate", stream, r, safe)
}

// SetStreamMetadata replaces the stream's metadata: how old its events get and how many stay, and an object of the caller's own. It is not retried after a time-out, which is
// ErrOutcomeUnknown: a second try might replace what somebody has set since, also with an ExpectedVersion, which metadata does not move.
func (s *Store) SetStreamMetadata(ctx context.Context, stream string, r api.StreamMetadataRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "metadata", stream, r, single)
}

// changeStream sends a change. What is so already is answered as such, whatever the expected version says.
func (s *Store) changeStream(ctx context.Context, verb, stream string, r any, twice effect) (*api.StreamStateResponse, error) {
	return call[api.StreamStateResponse](ctx, s.client, request{subject: s.client.subjects.Write(s.name, verb, stream), effect: twice, body: r})
}

// StreamState returns what there is of the stream beside its events: metadata, first and last version, whether it is deleted.
func (s *Store) StreamState(ctx context.Context, stream string) (*api.StreamState, error) {
	res, err := call[api.StreamStateResponse](ctx, s.client, request{subject: s.client.subjects.Read(s.name, "metadata", stream), body: api.ReadOptions{}})
	if err != nil {
		return nil, err
	}
	return &res.StreamState, nil
}
