package client

import (
	"context"

	"github.com/quorate/quorate/api"
)

// DeleteStream deletes the stream: its events are gone for readers, versions go on when it is written again. With Hard it can never be written again.
func (s *Store) DeleteStream(ctx context.Context, stream string, r api.DeleteStreamRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "delete", stream, r, r.ExpectedVersion)
}

// TruncateStream cuts the head of the stream off; before is the first version that stays.
func (s *Store) TruncateStream(ctx context.Context, stream string, r api.TruncateStreamRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "truncate", stream, r, r.ExpectedVersion)
}

// SetStreamMetadata replaces the stream's metadata: how old its events get and how many stay, and an object of the caller's own.
func (s *Store) SetStreamMetadata(ctx context.Context, stream string, r api.StreamMetadataRequest) (*api.StreamStateResponse, error) {
	return s.changeStream(ctx, "metadata", stream, r, r.ExpectedVersion)
}

// changeStream sends a change. Without an expected version a retry has the effect of the first try; with one it might be refused because of it.
func (s *Store) changeStream(ctx context.Context, verb, stream string, r any, expected *int64) (*api.StreamStateResponse, error) {
	twice := safe
	if expected != nil {
		twice = single
	}
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
