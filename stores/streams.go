package stores

import (
	"bytes"
	"context"
	"unicode/utf8"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// DeleteStream deletes a stream; see Begin for what it returns and when done is called. The result is an *api.StreamStateResponse, as of the others here.
func (s *Store) DeleteStream(stream string, r api.DeleteStreamRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	c := &fsm.StreamChange{Op: fsm.StreamDelete, Stream: stream, Expected: orAny(r.ExpectedVersion)}
	if r.Hard {
		c.Op = fsm.StreamTombstone
	}
	return s.changeStream(c, done)
}

// TruncateStream cuts the head of a stream off.
func (s *Store) TruncateStream(stream string, r api.TruncateStreamRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	return s.changeStream(&fsm.StreamChange{Op: fsm.StreamTruncate, Stream: stream, Expected: orAny(r.ExpectedVersion), Before: r.Before}, done)
}

// PutStreamMetadata replaces the metadata of a stream.
func (s *Store) PutStreamMetadata(stream string, r api.StreamMetadataRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	if !utf8.Valid(r.Custom) { // not in Check, which members of an older version ask too when they apply it
		return api.ErrBadRequest.With("custom is not valid UTF-8, and so no JSON")
	}
	c := &fsm.StreamChange{
		Op: fsm.StreamMetadata, Stream: stream, Expected: orAny(r.ExpectedVersion), MaxAge: r.MaxAge, MaxCount: r.MaxCount, Custom: api.CompactJSON(r.Custom),
	}
	if len(c.Custom) > 0 {
		if err := s.admitMetadata(c); err != nil {
			return err
		}
	}
	return s.changeStream(c, done)
}

// admitMetadata refuses metadata when the store is full, unless the stream has them already.
func (s *Store) admitMetadata(c *fsm.StreamChange) *api.Error {
	refused := s.admitBytes()
	if refused == nil {
		return nil
	}
	state, _, _, err := s.machine.StreamState(c.Stream)
	switch {
	case err != nil:
		return s.apiError(err)
	case state.MaxAge != c.MaxAge || state.MaxCount != c.MaxCount || !bytes.Equal(state.Custom, c.Custom):
		return refused
	}
	return nil
}

func (s *Store) changeStream(c *fsm.StreamChange, done Done) *api.Error {
	c.Time = s.now().UnixMicro()
	return s.change(c, func(value any) any {
		v := value.(fsm.StreamResult)
		return &api.StreamStateResponse{Reply: api.Reply{Type: api.TypeStreamState}, Store: s.Name(), StreamState: v.State, Changed: v.Changed}
	}, done)
}

// StreamState returns what there is of a stream beside its events.
func (s *Store) StreamState(ctx context.Context, stream string, r api.StreamStateRequest) (*api.StreamStateResponse, *api.Error) {
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	state, exists, applied, err := s.machine.StreamState(stream)
	switch {
	case err != nil:
		return nil, s.apiError(err)
	case !exists:
		return nil, api.ErrStreamNotFound.With("stream %s has neither events nor metadata; check the name", stream)
	}
	return &api.StreamStateResponse{Reply: api.Reply{Type: api.TypeStreamState}, Store: s.Name(), StreamState: state, Applied: applied}, nil
}

func orAny(expected *int64) int64 {
	if expected == nil {
		return api.ExpectAny
	}
	return *expected
}
