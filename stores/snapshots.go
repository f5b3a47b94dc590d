package stores

import (
	"bytes"
	"context"
	"math"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// PutSnapshot keeps a snapshot of an aggregate; see Begin for what it returns and when done is called. The result is an *api.SnapshotPutResponse.
func (s *Store) PutSnapshot(stream string, r api.SnapshotPutRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	c := &fsm.SnapshotChange{
		Op: fsm.SnapshotPut, Stream: stream, Version: r.Version, Time: s.now().UnixMicro(), Keep: r.Keep, Type: r.Type, Data: r.DataBase64, Metadata: api.CompactJSON(r.Metadata),
	}
	if r.Data != nil {
		c.Data, c.JSON = api.CompactJSON(r.Data), true
	}
	if err := s.admitSnapshot(c); err != nil {
		return err
	}
	return s.change(c, func(value any) any {
		v := value.(fsm.SnapshotResult)
		return &api.SnapshotPutResponse{
			Reply: api.Reply{Type: api.TypeSnapshotPut}, Store: s.Name(), Stream: stream, Version: r.Version, Replaced: v.Replaced, Dropped: v.Dropped,
		}
	}, done)
}

// admitSnapshot refuses a snapshot when the store is full, and one of a version that the stream does not have any more: it may be of the stream's life before a delete, which took its
// snapshots, and would be put before the events of the new one. One that is there already is let through, as a retry.
//
// What is under way when it looks is not seen: a snapshot that comes while its stream is deleted and appended to again, all within the same moment, is kept. Members of an older version could
// not refuse it when it is applied.
func (s *Store) admitSnapshot(c *fsm.SnapshotChange) *api.Error {
	refused := s.admitBytes()
	if refused == nil {
		state, _, _, err := s.machine.StreamState(c.Stream)
		switch {
		case err != nil:
			return s.apiError(err)
		case c.Version >= state.FirstVersion || state.Deleted || state.Tombstoned: // the last two are refused when it is applied
			return nil
		}
		refused = api.ErrWrongVersion.With("the snapshot is of version %d, and of stream %s there are the versions %d to %d: what it was made of is gone; make one of what is there", c.Version, c.Stream, state.FirstVersion, state.Version)
		refused.ActualVersion = &state.Version
	}
	there, _, err := s.machine.AggregateSnapshot(c.Stream, c.Version)
	switch {
	case err != nil:
		return s.apiError(err)
	case there == nil || there.Version != c.Version || there.Type != c.Type || (there.Data != nil) != c.JSON || !bytes.Equal(there.Body(), c.Data) || !bytes.Equal(there.Metadata, c.Metadata):
		return refused
	}
	return nil
}

// DeleteSnapshots drops snapshots of a stream. The result is an *api.SnapshotDeleteResponse.
func (s *Store) DeleteSnapshots(stream string, r api.SnapshotDeleteRequest, done Done) *api.Error {
	c := &fsm.SnapshotChange{Op: fsm.SnapshotDropAll, Stream: stream}
	switch {
	case r.Version != nil && r.UpTo != nil:
		return api.ErrBadRequest.With("version and up_to are both given; send one of them, or none to drop all snapshots of the stream")
	case r.Version != nil:
		c.Op, c.Version = fsm.SnapshotDrop, *r.Version
	case r.UpTo != nil:
		c.Op, c.Version = fsm.SnapshotDropUpTo, *r.UpTo
	}
	return s.change(c, func(value any) any {
		return &api.SnapshotDeleteResponse{Reply: api.Reply{Type: api.TypeSnapshotDelete}, Store: s.Name(), Stream: stream, Deleted: value.(fsm.SnapshotResult).Dropped}
	}, done)
}

// Snapshot reads the newest snapshot of the stream, or the newest that is not above a version.
func (s *Store) Snapshot(ctx context.Context, stream string, r api.SnapshotRequest) (*api.SnapshotResponse, *api.Error) {
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	found, applied, err := s.machine.AggregateSnapshot(stream, atMost(r.At))
	switch {
	case err != nil:
		return nil, s.apiError(err)
	case found == nil && r.At != nil:
		return nil, api.ErrSnapshotNotFound.With("stream %s has no snapshot at version %d or below", stream, *r.At)
	case found == nil:
		return nil, api.ErrSnapshotNotFound.With("stream %s has no snapshot; keep one with write.snapshot.%s", stream, stream)
	}
	return &api.SnapshotResponse{Reply: api.Reply{Type: api.TypeSnapshot}, Store: s.Name(), Stream: stream, Snapshot: found, Applied: applied}, nil
}

// Snapshots lists the snapshots of the stream, newest first.
func (s *Store) Snapshots(ctx context.Context, stream string, r api.SnapshotsRequest) (*api.SnapshotsResponse, *api.Error) {
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	list, applied, err := s.machine.AggregateSnapshots(stream)
	if err != nil {
		return nil, s.apiError(err)
	}
	if list == nil {
		list = []api.SnapshotInfo{}
	}
	return &api.SnapshotsResponse{Reply: api.Reply{Type: api.TypeSnapshots}, Store: s.Name(), Stream: stream, Snapshots: list, Applied: applied}, nil
}

// withSnapshot has the query ask for the snapshot that a read of a stream asks for, and the events begin behind it unless the read says where.
func withSnapshot(r *api.ReadStreamRequest, q *fsm.StreamQuery) *api.Error {
	switch {
	case r.SnapshotAt != nil && !r.Snapshot:
		return api.ErrBadRequest.With("snapshot_at goes with \"snapshot\":true")
	case r.Snapshot && r.Backward:
		return api.ErrBadRequest.With("snapshot and backward do not go together: the events behind a snapshot are read forward")
	}
	q.Snapshot, q.SnapshotAt, q.Behind = r.Snapshot, atMost(r.SnapshotAt), r.From == nil
	return nil
}

func atMost(version *uint64) uint64 {
	if version == nil {
		return math.MaxUint64
	}
	return *version
}
