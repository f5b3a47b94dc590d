package natsbus

import (
	"bytes"
	"encoding/json"

	"github.com/quorate/quorate/api"
)

// traceOf returns the headers that say what caused an append: W3C trace context, correlation and causation. CloudEvents' extensions for them, which speak of the
// event itself, go before headers, which speak of the message.
func traceOf(h map[string]string) (map[string]string, *api.Error) {
	var trace map[string]string
	for _, name := range api.TraceHeaders {
		value := h["ce-"+api.ExtensionOf(name)]
		if value == "" {
			value = h[name]
		}
		if value == "" {
			continue
		}
		if err := api.CheckTraceHeader(name, value); err != nil {
			return nil, err
		}
		if trace == nil {
			trace = map[string]string{}
		}
		trace[name] = value
	}
	return trace, nil
}

// isTrace reports whether a CloudEvents attribute, as its header is named, is kept as the trace header it stands for.
func isTrace(header string) bool {
	for _, name := range api.TraceHeaders {
		if header == "ce-"+api.ExtensionOf(name) {
			return true
		}
	}
	return false
}

// addTrace adds to the event's metadata what of the trace it does not have itself. Metadata that is no object is left for the check to refuse.
func addTrace(e *api.NewEvent, trace map[string]string) {
	if len(trace) == 0 {
		return
	}
	own := map[string]json.RawMessage{}
	if len(e.Metadata) > 0 && json.Unmarshal(e.Metadata, &own) != nil {
		return
	}
	raw := bytes.TrimRight(e.Metadata, " \t\r\n")
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	raw = bytes.Clone(raw[:len(raw)-1]) // what is there stays as it was sent, without the closing brace
	first := len(own) == 0
	for _, name := range api.TraceHeaders {
		value, given := trace[name]
		if _, has := own[name]; !given || has {
			continue
		}
		text, err := api.Marshal(value)
		if err != nil {
			continue // no text fails to become JSON
		}
		if !first {
			raw = append(raw, ',')
		}
		first = false
		raw = append(append(append(raw, '"'), name...), `":`...)
		raw = append(raw, text...)
	}
	e.Metadata = append(raw, '}')
}
