package api

import "encoding/json"

// TypeStreamState is the type of a StreamStateResponse.
const TypeStreamState = "io.quorate.v1.stream_state_response"

// DeleteStreamRequest deletes a stream. Its events are gone for readers; versions go on when the stream is written again, and positions stay what they are.
type DeleteStreamRequest struct {
	ExpectedVersion *int64 `json:"expected_version,omitempty"` // the stream's last version, or ExpectExists
	Hard            bool   `json:"hard,omitempty"`             // a tombstone: the stream can never be written again
}

// TruncateStreamRequest cuts the head of a stream off.
type TruncateStreamRequest struct {
	Before          uint64 `json:"before"` // the first version that stays; versions below it are gone. It never moves back
	ExpectedVersion *int64 `json:"expected_version,omitempty"`
}

// StreamMetadataRequest replaces what a stream's metadata says. A field that is left out is no limit. The stream need not exist yet.
type StreamMetadataRequest struct {
	MaxAge          uint64          `json:"max_age,omitempty"`   // seconds; events that are older are gone
	MaxCount        uint64          `json:"max_count,omitempty"` // events; only so many of the last ones stay
	Custom          json.RawMessage `json:"custom,omitempty"`    // a JSON object of the client's own, at most MaxStreamMetadata bytes
	ExpectedVersion *int64          `json:"expected_version,omitempty"`
}

// StreamState is what there is of a stream beside its events.
type StreamState struct {
	Stream       string          `json:"stream"`
	FirstVersion uint64          `json:"first_version"` // of the first event that is not gone; version+1 when all are
	Version      int64           `json:"version"`       // of the last event that was ever written; -1: none was
	Deleted      bool            `json:"deleted"`       // by delete; the next append brings the stream back, at version+1
	Tombstoned   bool            `json:"tombstoned"`    // by a hard delete; appends are refused for ever
	MaxAge       uint64          `json:"max_age,omitempty"`
	MaxCount     uint64          `json:"max_count,omitempty"`
	Custom       json.RawMessage `json:"custom,omitempty"`
}

// StreamStateResponse answers write.delete, write.truncate, write.metadata and read.metadata.
type StreamStateResponse struct {
	Reply
	Store string `json:"store,omitempty"`
	StreamState
	Changed bool   `json:"changed"` // the write changed something; false when it was so already, as after a retry
	Applied uint64 `json:"applied,omitempty"`
}

// StreamStateRequest asks what there is of a stream beside its events.
type StreamStateRequest struct{ ReadOptions }

// Limits of what a stream's metadata says.
const (
	MaxStreamMetadata = 64 << 10              // bytes of custom
	MaxMaxAge         = 300 * 366 * 24 * 3600 // seconds: three hundred years
)

// Check reports the first thing that is wrong with the request.
func (r *DeleteStreamRequest) Check() *Error { return checkWritten(r.ExpectedVersion) }

// Check reports the first thing that is wrong with the request.
func (r *TruncateStreamRequest) Check() *Error { return checkWritten(r.ExpectedVersion) }

// Check reports the first thing that is wrong with the request.
func (r *StreamMetadataRequest) Check() *Error {
	switch {
	case r.MaxAge > MaxMaxAge:
		return ErrBadRequest.With("max_age is %d seconds; at most %d are possible; leave it out for no limit", r.MaxAge, int64(MaxMaxAge))
	case len(r.Custom) > 0 && !isObject(r.Custom):
		return ErrBadRequest.With("custom must be a JSON object")
	case len(r.Custom) > MaxStreamMetadata:
		return ErrTooLarge.With("custom has %d bytes; at most %d are allowed; keep large things in events", len(r.Custom), MaxStreamMetadata)
	}
	return CheckExpected(r.ExpectedVersion)
}

// CheckExpected refuses what is no expected version; nil stands for any.
func CheckExpected(expected *int64) *Error {
	if expected != nil && *expected < ExpectAny && *expected != ExpectExists {
		return ErrBadRequest.With("expected_version %d is not a version; use n, -1 (must not exist), -2 (any) or -4 (must exist)", *expected)
	}
	return nil
}

// checkWritten is CheckExpected for what needs a stream that was written.
func checkWritten(expected *int64) *Error {
	if expected != nil && *expected == ExpectNoStream {
		return ErrBadRequest.With("expected_version -1 (must not exist) makes no sense here: there must be a stream; use n, -2 (any) or -4 (must exist)")
	}
	return CheckExpected(expected)
}
