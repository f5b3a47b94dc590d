package client

import (
	"context"
	"encoding/json"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// Trace says what caused a write. It travels in the context, and the cluster keeps it in the metadata of every event that is appended, unless an event has its own.
type Trace struct {
	Parent      string // W3C traceparent
	State       string // W3C tracestate
	Correlation string // what all events of one conversation share
	Causation   string // the id of the event or command that caused this one
}

type traceKey struct{}

// WithTrace returns a context whose appends are caused by t. Fields that are empty are taken from the trace that ctx has already.
func WithTrace(ctx context.Context, t Trace) context.Context {
	old := TraceFrom(ctx)
	for _, f := range []struct{ got, was *string }{
		{&t.Parent, &old.Parent}, {&t.State, &old.State}, {&t.Correlation, &old.Correlation}, {&t.Causation, &old.Causation},
	} {
		if *f.got == "" {
			*f.got = *f.was
		}
	}
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceFrom returns the context's trace.
func TraceFrom(ctx context.Context) Trace {
	t, _ := ctx.Value(traceKey{}).(Trace)
	return t
}

// TraceOf returns what caused the event.
func TraceOf(e api.Event) Trace {
	var m map[string]any
	if len(e.Metadata) == 0 || json.Unmarshal(e.Metadata, &m) != nil {
		return Trace{}
	}
	text := func(key string) string { s, _ := m[key].(string); return s }
	return Trace{text(api.HeaderTraceparent), text(api.HeaderTracestate), text(api.HeaderCorrelation), text(api.HeaderCausation)}
}

// CausedBy returns a context for what is done because of the event: the event's trace goes on, its id is the causation, and its correlation, or its id when it begins
// the conversation, is the correlation. What an append takes no more, as a correlation of more than 512 bytes, is left out as if the event did not have it.
func CausedBy(ctx context.Context, e api.Event) context.Context {
	t := TraceOf(e)
	for i, value := range []*string{&t.Parent, &t.State, &t.Correlation} { // metadata that came with an event may hold anything
		if api.CheckTraceHeader(api.TraceHeaders[i], *value) != nil {
			*value = ""
		}
	}
	t.Causation = e.ID
	if t.Correlation == "" {
		t.Correlation = e.ID
	}
	return WithTrace(ctx, t)
}

func traceHeader(ctx context.Context) nats.Header { return TraceFrom(ctx).header() }

func (t Trace) header() nats.Header {
	if t == (Trace{}) {
		return nil
	}
	h := nats.Header{}
	for i, value := range []string{t.Parent, t.State, t.Correlation, t.Causation} {
		if value != "" {
			h[api.TraceHeaders[i]] = []string{value}
		}
	}
	return h
}
