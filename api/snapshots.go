package api

import (
	"encoding/json"
	"time"
)

// SnapshotPutRequest keeps the state of an aggregate as it was after a version of its stream. A snapshot of the same version is replaced.
type SnapshotPutRequest struct {
	Version    uint64          `json:"version"`               // of the last event that is in it; the stream must have got there
	Type       string          `json:"type,omitempty"`        // what it is a snapshot of, and in which format; at most MaxEventType bytes
	Data       json.RawMessage `json:"data,omitempty"`        // kept as sent
	DataBase64 []byte          `json:"data_base64,omitempty"` // instead of data, for bytes that are not JSON
	Metadata   json.RawMessage `json:"metadata,omitempty"`    // a JSON object
	Keep       int             `json:"keep,omitempty"`        // so many of the newest stay, older ones are dropped; 0: all, MaxSnapshots at most
}

// SnapshotPutResponse is the result of a put.
type SnapshotPutResponse struct {
	Reply
	Store    string `json:"store,omitempty"`
	Stream   string `json:"stream,omitempty"`
	Version  uint64 `json:"version"`
	Replaced bool   `json:"replaced,omitempty"` // there was one of that version
	Dropped  int    `json:"dropped,omitempty"`  // older ones, by keep
}

// SnapshotDeleteRequest drops snapshots of a stream: one, those up to a version, or all.
type SnapshotDeleteRequest struct {
	Version *uint64 `json:"version,omitempty"` // only this one
	UpTo    *uint64 `json:"up_to,omitempty"`   // this one and older ones
}

// SnapshotDeleteResponse says how many were dropped.
type SnapshotDeleteResponse struct {
	Reply
	Store   string `json:"store,omitempty"`
	Stream  string `json:"stream,omitempty"`
	Deleted int    `json:"deleted"`
}

// SnapshotRequest reads the newest snapshot of a stream, or the newest that is not above a version.
type SnapshotRequest struct {
	ReadOptions
	At *uint64 `json:"at,omitempty"` // at most this version; left out: the newest
}

// Snapshot is a kept state of an aggregate.
type Snapshot struct {
	Version    uint64          `json:"version"`
	Type       string          `json:"type,omitempty"`
	Time       time.Time       `json:"time"`
	Data       json.RawMessage `json:"data,omitempty"`
	DataBase64 []byte          `json:"data_base64,omitempty"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
}

// Body returns the snapshot's data as bytes, whichever of the two forms holds it.
func (s *Snapshot) Body() []byte {
	if s.Data != nil {
		return s.Data
	}
	return s.DataBase64
}

// SnapshotResponse is one snapshot.
type SnapshotResponse struct {
	Reply
	Store    string    `json:"store,omitempty"`
	Stream   string    `json:"stream,omitempty"`
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Applied  uint64    `json:"applied"`
}

// SnapshotsRequest lists the snapshots of a stream, newest first.
type SnapshotsRequest struct{ ReadOptions }

// SnapshotInfo describes a snapshot without its data.
type SnapshotInfo struct {
	Version uint64    `json:"version"`
	Type    string    `json:"type,omitempty"`
	Time    time.Time `json:"time"`
	Bytes   int       `json:"bytes"` // of data
}

// SnapshotsResponse lists snapshots, newest first.
type SnapshotsResponse struct {
	Reply
	Store     string         `json:"store,omitempty"`
	Stream    string         `json:"stream,omitempty"`
	Snapshots []SnapshotInfo `json:"snapshots"`
	Applied   uint64         `json:"applied"`
}

// Check reports the first thing that is wrong with the request.
func (r *SnapshotPutRequest) Check() *Error {
	switch {
	case r.Data == nil && r.DataBase64 == nil:
		return ErrBadRequest.With("data is missing; a snapshot is data, or data_base64 for bytes that are not JSON")
	case r.Data != nil && r.DataBase64 != nil:
		return ErrBadRequest.With("data and data_base64 are both given; send one of them")
	case r.Keep < 0 || r.Keep > MaxSnapshots:
		return ErrBadRequest.With("keep %d is out of range; use 0 (all) to %d", r.Keep, MaxSnapshots)
	case len(r.Metadata) > 0 && !isObject(r.Metadata):
		return ErrBadRequest.With("metadata must be a JSON object")
	}
	if what := notText(r.Data, r.Metadata); what != "" {
		return ErrBadRequest.With("%s is not valid UTF-8, and so no JSON; send bytes as data_base64", what)
	}
	if r.Type != "" {
		if err := CheckEventType(r.Type); err != nil {
			return err.With("type: %s", err.Description)
		}
	}
	if n := len(r.Data) + len(r.DataBase64) + len(r.Metadata); n > MaxEventData {
		return ErrTooLarge.With("data and metadata of the snapshot have %d bytes; at most %d are allowed; keep large states elsewhere and a reference here", n, MaxEventData)
	}
	return nil
}
