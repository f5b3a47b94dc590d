package natsbus

import (
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
// CloudEvent in structured mode. CloudEvents 1.0.2, NATS protocol binding 1.0.2. stream is the one the subject names; without one, every event names its own.
func decodeAppend(m message, stream string) (*stores.Append, *api.Error) {
	h := lower(m.Header())
	expected, err := expectedVersion(h)
	if err != nil {
		return nil, err
	}
	mediaType := h["content-type"]
	if mediaType != "" {
		if t, _, merr := mime.ParseMediaType(mediaType); merr == nil {
			mediaType = t
		}
	}
	a := &stores.Append{Stream: stream, Expected: api.ExpectAny}
	if expected != nil {
		if stream == "" {
			return nil, errNoStreamToExpect
		}
		a.Expected = *expected
	}
	isCloudEvent := mediaType == structuredMode || hasAttributes(h)
	switch {
	case isCloudEvent && stream == "":
		return nil, api.ErrBadName.With("the stream name is missing; a CloudEvent goes to the one stream that the subject names: append to %s.<stream>", m.Subject())
	case mediaType == structuredMode:
		e, err := structuredEvent(m.Data())
		if err != nil {
			return nil, err
		}
		a.Events = []api.NewEvent{*e}
	case hasAttributes(h):
		e, err := binaryEvent(h, mediaType, m.Data())
		if err != nil {
			return nil, err
		}
		a.Events = []api.NewEvent{*e}
	default:
		var r api.AppendRequest
		if err := api.Unmarshal(m.Data(), &r); err != nil {
			return nil, err
		}
		a.Events, a.Conditions = r.Events, r.Conditions
		if r.ExpectedVersion != nil {
			if stream == "" {
				return nil, errNoStreamToExpect
			}
			if expected != nil && *expected != *r.ExpectedVersion {
				return nil, api.ErrBadRequest.With("expected_version is %d in the payload and %d in the header; send one", *r.ExpectedVersion, *expected)
			}
			a.Expected = *r.ExpectedVersion
		}
		for i := range a.Events {
			if string(a.Events[i].Metadata) == "null" {
				a.Events[i].Metadata = nil
			}
		}
	}
	if id := h["nats-msg-id"]; id != "" && len(a.Events) == 1 && a.Events[0].ID == "" {
		a.Events[0].ID = id
	}
	return a, nil
}

// errNoStreamToExpect refuses an expected version of nothing, also -2: whoever sends one means a stream.
var errNoStreamToExpect = api.ErrBadRequest.With(`expected_version is about one stream, and the subject names none; use conditions: [{"stream":…,"version":…}]`)

func lower(h nats.Header) map[string]string {
	out := make(map[string]string, len(h))
	for k, v := range h {
		if len(v) > 0 {
			out[strings.ToLower(k)] = v[0]
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
func binaryEvent(h map[string]string, mediaType string, body []byte) (*api.NewEvent, *api.Error) {
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
		case k == "ce-id", k == "ce-type", k == "ce-specversion":
		case strings.HasPrefix(k, "ce-"):
			metadata[k] = v
		case k == "content-type" && v != "application/json":
			metadata[k] = v
		}
	}
	if tags := h["tags"]; tags != "" {
		for _, t := range strings.Split(tags, ",") {
			e.Tags = append(e.Tags, strings.TrimSpace(t))
		}
	}
	setBody(e, mediaType, body)
	return e, setMetadata(e, metadata)
}

// setBody keeps a body that is JSON as JSON and anything else as bytes.
func setBody(e *api.NewEvent, mediaType string, body []byte) {
	isJSON := mediaType == "" || mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
	switch {
	case len(body) == 0:
	case isJSON && api.ValidJSON(body) && utf8.Valid(body):
		e.Data = body
	default:
		e.DataBase64 = body
	}
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
	metadata := map[string]string{}
	for name, raw := range attributes {
		if name == "data" {
			e.Data = raw
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
			data, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, api.ErrBadRequest.With("data_base64 is not base64: %v", err)
			}
			e.DataBase64 = data
		case "datacontenttype":
			if text != "application/json" {
				metadata["content-type"] = text
			}
		case "tags":
			e.Tags = strings.Split(text, ",")
		default:
			metadata["ce-"+name] = text
		}
	}
	if e.Type == "" {
		return nil, api.ErrBadRequest.With("the CloudEvent has no type")
	}
	return e, setMetadata(e, metadata)
}
