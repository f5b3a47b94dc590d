package stores

import (
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
	if err := s.admitBytes(); err != nil {
		return err
	}
	c := &fsm.SnapshotChange{
		Op: fsm.SnapshotPut, Stream: stream, Version: r.Version, Time: s.now().UnixMicro(), Keep: r.Keep, Type: r.Type, Data: r.DataBase64, Metadata: api.CompactJSON(r.Metadata),
	}
	if r.Data != nil {
		c.Data, c.JSON = api.CompactJSON(r.Data), true
	}
	return s.change(c, func(value any) any {
		v := value.(fsm.SnapshotResult)
		return &api.SnapshotPutResponse{
			Reply: api.Reply{Type: api.TypeSnapshotPut}, Store: s.Name(), Stream: stream, Version: r.Version, Replaced: v.Replaced, Dropped: v.Dropped,
		}
	}, done)
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

// withSnapshot finds the snapshot that a read of a stream asks for, and has the events begin behind it unless the read says where.
func (s *Store) withSnapshot(stream string, r *api.ReadStreamRequest, q *fsm.StreamQuery) (*api.Snapshot, *api.Error) {
	switch {
	case r.SnapshotAt != nil && !r.Snapshot:
		return nil, api.ErrBadRequest.With("snapshot_at goes with \"snapshot\":true")
	case !r.Snapshot:
		return nil, nil
	case r.Backward:
		return nil, api.ErrBadRequest.With("snapshot and backward do not go together: the events behind a snapshot are read forward")
	}
	found, _, err := s.machine.AggregateSnapshot(stream, atMost(r.SnapshotAt))
	if err != nil {
		return nil, s.apiError(err)
	}
	if found != nil && r.From == nil {
		q.From = found.Version + 1
	}
	return found, nil
}

func atMost(version *uint64) uint64 {
	if version == nil {
		return math.MaxUint64
	}
	return *version
}
