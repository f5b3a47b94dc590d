package client

import (
	"context"
	"encoding/json"

	"github.com/quorate/quorate/api"
)

// PutSnapshot keeps a state of the stream's aggregate; r.Version is that of the last event in it.
func (s *Store) PutSnapshot(ctx context.Context, stream string, r api.SnapshotPutRequest) (*api.SnapshotPutResponse, error) {
	return call[api.SnapshotPutResponse](ctx, s.client, request{subject: s.client.subjects.Write(s.name, "snapshot", stream), effect: safe, body: r})
}

// Snapshot returns the stream's newest snapshot. It is api.ErrSnapshotNotFound when there is none.
func (s *Store) Snapshot(ctx context.Context, stream string) (*api.Snapshot, error) {
	return s.snapshot(ctx, stream, nil)
}

// SnapshotAt returns the stream's newest snapshot that is not above the version.
func (s *Store) SnapshotAt(ctx context.Context, stream string, version uint64) (*api.Snapshot, error) {
	return s.snapshot(ctx, stream, &version)
}

func (s *Store) snapshot(ctx context.Context, stream string, at *uint64) (*api.Snapshot, error) {
	res, err := call[api.SnapshotResponse](ctx, s.client, request{subject: s.client.subjects.Read(s.name, "snapshot", stream), body: api.SnapshotRequest{At: at}})
	if err != nil {
		return nil, err
	}
	return res.Snapshot, nil
}

// Snapshots lists the stream's snapshots, newest first, without their data.
func (s *Store) Snapshots(ctx context.Context, stream string) ([]api.SnapshotInfo, error) {
	res, err := call[api.SnapshotsResponse](ctx, s.client, request{subject: s.client.subjects.Read(s.name, "snapshots", stream), body: api.SnapshotsRequest{}})
	if err != nil {
		return nil, err
	}
	return res.Snapshots, nil
}

// DeleteSnapshots drops snapshots of the stream, all with the zero request, and returns how many. After a retry it may be fewer than were dropped. The zero request is not retried
// after a time-out, which is ErrOutcomeUnknown: it might drop one that was put since.
func (s *Store) DeleteSnapshots(ctx context.Context, stream string, r api.SnapshotDeleteRequest) (int, error) {
	res, err := call[api.SnapshotDeleteResponse](ctx, s.client, request{subject: s.client.subjects.Write(s.name, "snapshot_delete", stream), effect: unless(r.Version != nil || r.UpTo != nil), body: r})
	if err != nil {
		return 0, err
	}
	return res.Deleted, nil
}

// readAggregate reads a first page of the stream: its newest snapshot and the events behind it.
func (s *Store) readAggregate(ctx context.Context, stream string, withSnapshot bool) (*api.ReadResponse, error) {
	return call[api.ReadResponse](ctx, s.client, request{
		subject: s.client.subjects.Read(s.name, "stream", stream), body: api.ReadStreamRequest{Snapshot: withSnapshot, Limit: defaultPageSize},
	})
}

// snapshotData makes a snapshot's data of bytes: JSON as it is, anything else as base64.
func snapshotData(r *api.SnapshotPutRequest, data []byte) {
	if json.Valid(data) {
		r.Data = data
	} else {
		r.DataBase64 = data
	}
}
