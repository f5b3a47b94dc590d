package api

import (
	"bytes"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Expected versions that are not a version.
const (
	ExpectNoStream int64 = -1 // the stream must not exist
	ExpectAny      int64 = -2 // no expectation; the default
	ExpectExists   int64 = -4 // the stream must exist, at whatever version
)

// NewEvent is an event as a client asks for it to be appended.
type NewEvent struct {
	ID         string          `json:"id,omitempty"`          // unique in the store; stamped by the leader when missing
	Stream     string          `json:"stream,omitempty"`      // where it goes, in an append over several streams
	Type       string          `json:"type"`                  // 1 to 256 bytes
	Data       json.RawMessage `json:"data,omitempty"`        // kept as sent, without white space between its tokens
	DataBase64 []byte          `json:"data_base64,omitempty"` // instead of Data, for bytes that are not JSON
	Metadata   json.RawMessage `json:"metadata,omitempty"`    // a JSON object, kept as sent
	Tags       []string        `json:"tags,omitempty"`        // at most 64
}

// Event is a committed event.
type Event struct {
	Position   uint64          `json:"position"` // in the store's total order, dense from 1
	Stream     string          `json:"stream"`
	Version    uint64          `json:"version"` // in its stream, dense from 0
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	Time       time.Time       `json:"time"` // when the leader accepted it, UTC
	Data       json.RawMessage `json:"data,omitempty"`
	DataBase64 []byte          `json:"data_base64,omitempty"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	Tags       []string        `json:"tags,omitempty"`
}

// Body returns the event's data as bytes, whichever of the two forms holds it.
func (e *Event) Body() []byte {
	if e.Data != nil {
		return e.Data
	}
	return e.DataBase64
}

// Check reports the first thing that is wrong with the event, naming it as events[i].
func (e *NewEvent) Check(i int) *Error {
	if err := e.CheckKept(i); err != nil {
		return err
	}
	if what := notText(e.Data, e.Metadata); what != "" { // one such event would make every page it is on something else than JSON
		return ErrBadRequest.With("events[%d]: %s is not valid UTF-8, and so no JSON; send bytes as data_base64", i, what)
	}
	return nil
}

// CheckKept is Check of an event that a store has kept, in a backup for instance: stores took data and metadata that are not UTF-8 once.
func (e *NewEvent) CheckKept(i int) *Error {
	at := func(err *Error) *Error { return err.With("events[%d]: %s", i, err.Description) }
	if e.ID != "" {
		if err := CheckEventID(e.ID); err != nil {
			return at(err)
		}
	}
	if err := CheckEventType(e.Type); err != nil {
		return at(err)
	}
	if e.Data != nil && e.DataBase64 != nil {
		return ErrBadRequest.With("events[%d]: data and data_base64 are both given; send one of them", i)
	}
	if len(e.Tags) > MaxTags {
		return ErrBadRequest.With("events[%d]: %d tags; at most %d are allowed", i, len(e.Tags), MaxTags)
	}
	for _, tag := range e.Tags {
		if err := CheckTag(tag); err != nil {
			return at(err)
		}
	}
	if len(e.Metadata) > 0 && !isObject(e.Metadata) {
		return ErrBadRequest.With("events[%d]: metadata must be a JSON object", i)
	}
	if n := len(e.Data) + len(e.DataBase64) + len(e.Metadata); n > MaxEventData {
		return ErrTooLarge.With("events[%d]: data and metadata have %d bytes; at most %d are allowed; keep large bodies elsewhere and append a reference", i, n, MaxEventData)
	}
	return nil
}

// notText names the first of what a client sent as JSON that is not UTF-8, and empty when both are. Nobody else looks: package encoding/json takes any bytes inside a JSON string.
func notText(data, metadata json.RawMessage) string {
	switch {
	case !utf8.Valid(data):
		return "data"
	case !utf8.Valid(metadata):
		return "metadata"
	}
	return ""
}

func isObject(raw json.RawMessage) bool {
	t := bytes.TrimLeft(raw, " \t\r\n")
	return len(t) > 0 && t[0] == '{'
}
