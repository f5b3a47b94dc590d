package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

func marshal(v any) ([]byte, error) {
	switch r := v.(type) {
	case *AppendResponse:
		if r != nil {
			if raw, ok := r.encode(); ok {
				return raw, nil
			}
		}
	case *ReadResponse:
		if r != nil {
			return appendPage(r)
		}
	case *SubscriptionFetchResponse:
		if r != nil {
			return appendFetch(r)
		}
	}
	return marshalAny(v)
}

func marshalAny(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// unmarshal may keep slices of the payload in v.
func unmarshal(payload []byte, v any) *Error {
	if d, ok := v.(decoder); ok && d.decode(payload) {
		return nil
	}
	return unmarshalAny(payload, v)
}

func unmarshalAny(payload []byte, v any) *Error {
	trimmed := bytes.TrimSpace(payload)
	if len(trimmed) == 0 {
		return nil
	}
	if trimmed[0] != '{' {
		return ErrBadRequest.With("the payload must be a JSON object or empty; it begins with %q", trimmed[0])
	}
	dec := json.NewDecoder(bytes.NewReader(trimmed))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return ErrBadRequest.With("%s", explain(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return ErrBadRequest.With("there is more text behind the JSON object, at byte %d", dec.InputOffset())
	}
	return nil
}

// explain turns a decoder's error into a sentence that names the field and what it needs.
func explain(err error) string {
	var typ *json.UnmarshalTypeError
	var syn *json.SyntaxError
	switch {
	case errors.As(err, &typ):
		return "field " + quote(strings.TrimPrefix(typ.Field, "ReadOptions.")) + " cannot be a JSON " + typ.Value + "; it needs " + need(typ.Type.String())
	case errors.As(err, &syn):
		return "the payload is not valid JSON: " + syn.Error()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the payload is not valid JSON: it ends too early"
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if strings.HasPrefix(text, "unknown field") {
		return text + "; subjects.md lists the fields of each request"
	}
	return text
}

func quote(field string) string {
	if field == "" {
		return "(the whole payload)"
	}
	return `"` + field + `"`
}

func need(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]uint8"):
		return "base64 text"
	case strings.HasPrefix(goType, "[]"):
		return "an array"
	case strings.Contains(goType, "uint"):
		return "a whole number from 0"
	case strings.Contains(goType, "int"):
		return "a whole number"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "a text"
	}
	return "an object"
}
