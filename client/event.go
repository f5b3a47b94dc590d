package client

import (
	"encoding/json"
	"fmt"

	"github.com/quorate/quorate/api"
)

// Event makes an event whose data is v as JSON. It panics when v cannot be JSON, which is a mistake in the program: a channel, a function, a NaN.
func Event(typ string, v any, tags ...string) api.NewEvent {
	data, err := api.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("client.Event %s: %v", typ, err))
	}
	return api.NewEvent{Type: typ, Data: data, Tags: tags}
}

// Data returns the event's data as a T.
func Data[T any](e api.Event) (T, error) {
	var v T
	if err := json.Unmarshal(e.Body(), &v); err != nil {
		return v, fmt.Errorf("event %d, %s of stream %s: its data is no %T: %w", e.Position, e.Type, e.Stream, v, err)
	}
	return v, nil
}

// CloudEvent returns an event of the store as a CloudEvent in structured mode: JSON of media type application/cloudevents+json, with the same attributes and extensions
// that live events have in their headers.
func (s *Store) CloudEvent(e api.Event) ([]byte, error) {
	return e.CloudEvent(s.client.subjects.Source(s.name))
}
