package client

import (
	"context"

	"github.com/quorate/quorate/api"
)

// DeleteStream deletes the stream: its events are gone for readers, and the next append brings it back at the version that follows. With Hard it can never be written
// again. Give ExpectedVersion, so that a retry cannot delete what somebody appended meanwhile.
func (s *Store) DeleteStream(ctx context.Context, stream string, r api.DeleteStreamRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "delete", stream, r)
}

// TruncateStream cuts off the events below a version.
func (s *Store) TruncateStream(ctx context.Context, stream string, r api.TruncateStreamRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "truncate", stream, r)
}

// SetStreamMetadata replaces the stream's metadata: how old its events may become, how many it keeps, and what the client notes there.
func (s *Store) SetStreamMetadata(ctx context.Context, stream string, r api.StreamMetadataRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "metadata", stream, r)
}

func (s *Store) changeStream(ctx context.Context, verb, stream string, r any) (*api.StreamStateResponse, error) {
	var res api.StreamStateResponse
	if err := s.client.call(ctx, s.client.subjects.Write(s.name, verb, stream), r, true, &res); err != nil {
		return nil, err
	}
	return &res, nil
}

// StreamState returns what there is of a stream beside its events.
func (s *Store) StreamState(ctx context.Context, stream string) (*api.StreamStateResponse, error) {
	var res api.StreamStateResponse
	if err := s.client.call(ctx, s.client.subjects.Read(s.name, "metadata", stream), api.StreamStateRequest{}, true, &res); err != nil {
		return nil, err
	}
	return &res, nil
}
