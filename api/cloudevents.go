package api

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Headers of an append that say what caused it. They are kept in the metadata of its events under the same names, unless an event has its own, and go out with live
// events again. CloudEvents' extensions for them have the same names without the hyphen.
const (
	HeaderTraceparent = "traceparent" // W3C Trace Context
	HeaderTracestate  = "tracestate"
	HeaderCorrelation = "correlation-id" // what all events of one conversation share
	HeaderCausation   = "causation-id"   // the id of the event or command that caused this one
)

// TraceHeaders lists them.
var TraceHeaders = []string{HeaderTraceparent, HeaderTracestate, HeaderCorrelation, HeaderCausation}

// MaxTraceHeader bounds the value of a header that says what caused an append.
const MaxTraceHeader = 512

// ExtensionOf returns the CloudEvents extension of a header that says what caused an append.
func ExtensionOf(header string) string { return strings.ReplaceAll(header, "-", "") }

// CheckTraceHeader returns nil when value may be kept: at most MaxTraceHeader bytes of UTF-8 without control characters.
func CheckTraceHeader(name, value string) *Error {
	return checkField("header "+name, value, MaxTraceHeader)
}

// CloudAttributes returns the event's CloudEvents attributes, by name: the required ones, subject (the stream), time, datacontenttype, and the extensions version, position
// and tags. Attributes that came with the event go out as they came in, except those that say where it is stored. source stands for one that did not come.
func (e *Event) CloudAttributes(source string) map[string]string {
	a := map[string]string{"source": source, "time": e.Time.Format(time.RFC3339Nano), "datacontenttype": "application/json"}
	if e.Data == nil {
		a["datacontenttype"] = "application/octet-stream"
	}
	if len(e.Metadata) > 0 {
		var metadata map[string]any
		_ = json.Unmarshal(e.Metadata, &metadata) // it was checked when it was appended
		for key, value := range metadata {
			text, ok := value.(string)
			if !ok || strings.ContainsAny(text, "\r\n\x00") { // metadata that came as JSON may hold anything; headers may not
				continue
			}
			if name, ok := strings.CutPrefix(key, "ce-"); ok && isAttribute(name) {
				a[name] = text
			} else if key == "content-type" {
				a["datacontenttype"] = text
			}
		}
		for _, h := range TraceHeaders {
			if text, ok := metadata[h].(string); ok && CheckTraceHeader(h, text) == nil {
				a[ExtensionOf(h)] = text
			}
		}
	}
	a["specversion"], a["id"], a["type"], a["subject"] = "1.0", e.ID, e.Type, e.Stream
	a["version"], a["position"] = strconv.FormatUint(e.Version, 10), strconv.FormatUint(e.Position, 10)
	if len(e.Tags) > 0 {
		a["tags"] = strings.Join(e.Tags, ",")
	}
	return a
}

// isAttribute reports whether name may name a CloudEvents attribute: lower-case letters and digits.
func isAttribute(name string) bool {
	for i := 0; i < len(name); i++ {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != "" && name != "data"
}

// CloudEvent returns the event as a CloudEvent in structured mode: one JSON object, of media type application/cloudevents+json.
func (e *Event) CloudEvent(source string) ([]byte, error) {
	object := map[string]any{}
	for name, value := range e.CloudAttributes(source) {
		object[name] = value
	}
	switch {
	case e.Data != nil:
		object["data"] = e.Data
	case e.DataBase64 != nil:
		object["data_base64"] = e.DataBase64
	}
	return marshal(object)
}
