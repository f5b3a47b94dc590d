package natsbus

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

const structuredMode = "application/cloudevents+json"

// decodeAppend reads an append in one of its three forms: our JSON, a CloudEvent in binary mode (attributes in ce-* headers, any body), or a
// CloudEvent in structured mode. CloudEvents 1.0.2, NATS protocol binding 1.0.2. stream is the one the subject names; without one, every event names its own. added is how many bytes the
// trace headers have added to the events.
func decodeAppend(m message, stream string) (a *stores.Append, added int, _ *api.Error) {
	h := lower(m.Header())
	expected, err := expectedVersion(h)
	if err != nil {
		return nil, 0, err
	}
	mediaType := mediaTypeOf(h["content-type"])
	trace, err := traceOf(h)
	if err != nil {
		return nil, 0, err
	}
	a = &stores.Append{Stream: stream, Expected: api.ExpectAny}
	if expected != nil {
		if stream == "" {
			return nil, 0, errNoStreamToExpect
		}
		a.Expected = *expected
	}
	structured := mediaType == structuredMode || mediaType == "" && !hasAttributes(h) && isStructured(m.Data())
	isCloudEvent := structured || hasAttributes(h)
	switch {
	case isCloudEvent && stream == "":
		return nil, 0, api.ErrBadName.With("the stream name is missing; a CloudEvent goes to the one stream that the subject names: append to %s.<stream>", m.Subject())
	case structured:
		e, err := structuredEvent(m.Data())
		if err != nil {
			return nil, 0, err
		}
		a.Events = []api.NewEvent{*e}
	case hasAttributes(h):
		e, err := binaryEvent(h, m.Data())
		if err != nil {
			return nil, 0, err
		}
		a.Events = []api.NewEvent{*e}
	default:
		var r api.AppendRequest
		if err := api.Unmarshal(m.Data(), &r); err != nil {
			return nil, 0, err
		}
		a.Events, a.Conditions = r.Events, r.Conditions
		if r.ExpectedVersion != nil {
			if stream == "" {
				return nil, 0, errNoStreamToExpect
			}
			if expected != nil && *expected != *r.ExpectedVersion {
				return nil, 0, api.ErrBadRequest.With("expected_version is %d in the payload and %d in the header; send one", *r.ExpectedVersion, *expected)
			}
			a.Expected = *r.ExpectedVersion
		}
		for i := range a.Events {
			if string(a.Events[i].Metadata) == "null" {
				a.Events[i].Metadata = nil
			}
		}
	}
	for i := range a.Events {
		e := &a.Events[i]
		before := len(e.Metadata)
		addTrace(e, trace)
		added += len(e.Metadata) - before
	}
	if n := len(m.Data()) + added; added > 0 && n > api.MaxAppendRequest {
		return nil, 0, api.ErrTooLarge.With("the request has %d bytes with the trace headers, which each of its %d events gets; at most %d are allowed; split it, or send shorter headers", n, len(a.Events), api.MaxAppendRequest)
	}
	if id := h["nats-msg-id"]; id != "" && len(a.Events) == 1 && a.Events[0].ID == "" {
		a.Events[0].ID = id
	}
	return a, added, nil
}

// errNoStreamToExpect refuses an expected version of nothing, also -2: whoever sends one means a stream.
var errNoStreamToExpect = api.ErrBadRequest.With(`expected_version is about one stream, and the subject names none; use conditions: [{"stream":…,"version":…}]`)

// lower returns the headers under names in lower case: the first value of each, but all of the tags', which may be a header each.
func lower(h nats.Header) map[string]string {
	out := make(map[string]string, len(h))
	for k, v := range h {
		if len(v) == 0 {
			continue
		}
		switch k = strings.ToLower(k); k {
		case "tags", "ce-tags":
			out[k] = strings.Join(v, ",")
		default:
			out[k] = v[0]
		}
	}
	return out
}

func hasAttributes(h map[string]string) bool {
	for k := range h {
		if strings.HasPrefix(k, "ce-") {
			return true
		}
	}
	return false
}

func expectedVersion(h map[string]string) (*int64, *api.Error) {
	text, ok := h["expected-version"]
	if !ok {
		return nil, nil
	}
	v, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return nil, api.ErrBadRequest.With("header Expected-Version %q is not a whole number; use n, -1 (must not exist), -2 (any) or -4 (must exist)", text)
	}
	return &v, nil
}

// binaryEvent makes an event of headers and body. Attributes that have no field of their own are kept as metadata under their header's name.
func binaryEvent(h map[string]string, body []byte) (*api.NewEvent, *api.Error) {
	if v, ok := h["ce-specversion"]; ok && v != "1.0" {
		return nil, api.ErrBadRequest.With("header ce-specversion is %q; 1.0 is known", v)
	}
	if h["ce-type"] == "" {
		return nil, api.ErrBadRequest.With("header ce-type is missing; a CloudEvent in binary mode needs it")
	}
	e := &api.NewEvent{ID: h["ce-id"], Type: h["ce-type"]}
	metadata := map[string]string{}
	for k, v := range h {
		switch {
		case k == "ce-id", k == "ce-type", k == "ce-specversion", k == "ce-tags", k == "ce-datacontenttype", isTrace(k):
		case strings.HasPrefix(k, "ce-"):
			metadata[k] = v
		}
	}
	e.Tags = tagsOf(h["tags"])
	if e.Tags == nil {
		e.Tags = tagsOf(h["ce-tags"])
	}
	contentType := h["content-type"]
	if contentType == "" { // the binding's name is content-type; an attribute like the others is what some expect
		contentType = h["ce-datacontenttype"]
	}
	setBody(e, mediaTypeOf(contentType), body)
	if keepsType(e, contentType) {
		metadata["content-type"] = contentType
	}
	return e, setMetadata(e, metadata)
}

func tagsOf(list string) []string {
	if list == "" {
		return nil
	}
	tags := strings.Split(list, ",")
	for i := range tags {
		tags[i] = strings.TrimSpace(tags[i])
	}
	return tags
}

// isStructured reports whether a payload that came without a content type is a CloudEvent in structured mode all the same: CloudEvents' own Go SDK sends it so over NATS. Our
// append request has no specversion.
func isStructured(payload []byte) bool {
	if !bytes.Contains(payload, []byte(`"specversion"`)) { // most payloads need no more than this look
		return false
	}
	var probe struct {
		SpecVersion *string         `json:"specversion"`
		Events      json.RawMessage `json:"events"`
	}
	return json.Unmarshal(payload, &probe) == nil && probe.SpecVersion != nil && probe.Events == nil
}

// setBody keeps a body that is JSON as JSON and anything else as bytes.
func setBody(e *api.NewEvent, mediaType string, body []byte) {
	switch {
	case len(body) == 0:
	case isJSON(mediaType) && api.ValidJSON(body) && utf8.Valid(body):
		e.Data = body
	default:
		e.DataBase64 = body
	}
}

// keepsType reports whether the content type says more than the form in which the event keeps its data.
func keepsType(e *api.NewEvent, contentType string) bool {
	return contentType != "" && (contentType != "application/json" || e.DataBase64 != nil)
}

// mediaTypeOf returns a content type without its parameters.
func mediaTypeOf(contentType string) string {
	if contentType == "" {
		return ""
	}
	if t, _, err := mime.ParseMediaType(contentType); err == nil {
		return t
	}
	return contentType
}

func isJSON(mediaType string) bool {
	return mediaType == "" || mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

func setMetadata(e *api.NewEvent, metadata map[string]string) *api.Error {
	if len(metadata) == 0 {
		return nil
	}
	raw, err := api.Marshal(metadata)
	if err != nil {
		return api.AsError(err)
	}
	e.Metadata = raw
	return nil
}

// structuredEvent reads a CloudEvent that is JSON itself.
func structuredEvent(payload []byte) (*api.NewEvent, *api.Error) {
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal(payload, &attributes); err != nil {
		return nil, api.ErrBadRequest.With("the payload is not a CloudEvent as JSON: %v", err)
	}
	e := &api.NewEvent{}
	metadata, trace := map[string]string{}, map[string]string{}
	var data json.RawMessage
	var encoded []byte
	contentType := ""
	for name, raw := range attributes {
		if name == "data" {
			data = raw
			continue
		}
		if string(raw) == "null" { // as if it were not there (CloudEvents' JSON format 1.0.2, 2.1)
			continue
		}
		var text string
		if json.Unmarshal(raw, &text) != nil {
			text = string(raw) // CloudEvents attributes may also be numbers or booleans
		}
		switch name {
		case "id":
			e.ID = text
		case "type":
			e.Type = text
		case "specversion":
			if text != "1.0" {
				return nil, api.ErrBadRequest.With("specversion is %q; 1.0 is known", text)
			}
		case "data_base64":
			bytes, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, api.ErrBadRequest.With("data_base64 is not base64: %v", err)
			}
			encoded = bytes
		case "datacontenttype":
			contentType = text
		case "tags":
			e.Tags = tagsOf(text)
		default:
			if header := "ce-" + name; isTrace(header) {
				trace[header] = text
			} else {
				metadata[header] = text
			}
		}
	}
	if data != nil && encoded != nil {
		return nil, api.ErrBadRequest.With("the CloudEvent has data and data_base64; send one of them")
	}
	var text string
	switch {
	case data != nil && !isJSON(mediaTypeOf(contentType)) && json.Unmarshal(data, &text) == nil:
		e.DataBase64 = []byte(text) // the text itself, which JSON only carried
	case data != nil:
		e.Data = data
	default:
		setBody(e, mediaTypeOf(contentType), encoded)
	}
	if keepsType(e, contentType) {
		metadata["content-type"] = contentType
	}
	if e.Type == "" {
		return nil, api.ErrBadRequest.With("the CloudEvent has no type")
	}
	if err := setMetadata(e, metadata); err != nil {
		return nil, err
	}
	kept, err := traceOf(trace)
	if err != nil {
		return nil, err
	}
	addTrace(e, kept)
	return e, nil
}
