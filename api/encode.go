package api

import (
	"encoding/base64"
	"strconv"
	"time"
)

// encoder is a reply that writes its own JSON: the same bytes as encoding/json's, for the replies of which there are many. ok is false when it leaves that to
// encoding/json.
//
// Raw JSON goes out as it is: whoever accepted an event has checked it, and a record has a checksum. encoding/json would parse it once more.
type encoder interface {
	size() int // about what it will take
	encode(b []byte) (_ []byte, ok bool)
}

var (
	_ encoder = (*AppendResponse)(nil)
	_ encoder = (*ReadResponse)(nil)
)

func (r *AppendResponse) size() int { return 256 + len(r.Store) + len(r.Stream) }

func (r *AppendResponse) encode(b []byte) ([]byte, bool) {
	if r.Error != nil {
		return nil, false
	}
	b = appendText(append(b, `{"type":`...), r.Type)
	b = appendOptional(b, `,"store":`, r.Store)
	b = appendOptional(b, `,"stream":`, r.Stream)
	b = strconv.AppendUint(append(b, `,"first_version":`...), r.FirstVersion, 10)
	b = strconv.AppendUint(append(b, `,"version":`...), r.Version, 10)
	b = strconv.AppendUint(append(b, `,"first_position":`...), r.FirstPosition, 10)
	b = strconv.AppendUint(append(b, `,"position":`...), r.Position, 10)
	b = strconv.AppendBool(append(b, `,"duplicate":`...), r.Duplicate)
	return append(b, '}'), true
}

func (r *ReadResponse) size() int {
	n := 512 + len(r.Store) + len(r.Stream)
	for i := range r.Events {
		e := &r.Events[i]
		n += 160 + len(e.Stream) + len(e.ID) + len(e.Type) + len(e.Data) + base64.StdEncoding.EncodedLen(len(e.DataBase64)) + len(e.Metadata)
		for _, t := range e.Tags {
			n += 3 + len(t)
		}
	}
	return n
}

func (r *ReadResponse) encode(b []byte) ([]byte, bool) {
	if r.Error != nil || r.Events == nil {
		return nil, false
	}
	b = appendText(append(b, `{"type":`...), r.Type)
	b = appendOptional(b, `,"store":`, r.Store)
	b = appendOptional(b, `,"stream":`, r.Stream)
	b = append(b, `,"events":[`...)
	for i := range r.Events {
		if i > 0 {
			b = append(b, ',')
		}
		var ok bool
		if b, ok = r.Events[i].encode(b); !ok {
			return nil, false
		}
	}
	b = strconv.AppendUint(append(b, `],"next":`...), r.Next, 10)
	b = strconv.AppendBool(append(b, `,"end":`...), r.End)
	if r.Scanned != nil {
		b = strconv.AppendUint(append(b, `,"scanned":`...), *r.Scanned, 10)
	}
	if r.LastVersion != nil {
		b = strconv.AppendInt(append(b, `,"last_version":`...), *r.LastVersion, 10)
	}
	if r.LastPosition != 0 {
		b = strconv.AppendUint(append(b, `,"last_position":`...), r.LastPosition, 10)
	}
	b = strconv.AppendUint(append(b, `,"applied":`...), r.Applied, 10)
	return append(b, '}'), true
}

func (e *Event) encode(b []byte) ([]byte, bool) {
	if y := e.Time.Year(); y < 0 || y > 9999 || e.Time.Location() != time.UTC {
		return nil, false
	}
	b = strconv.AppendUint(append(b, `{"position":`...), e.Position, 10)
	b = appendText(append(b, `,"stream":`...), e.Stream)
	b = strconv.AppendUint(append(b, `,"version":`...), e.Version, 10)
	b = appendText(append(b, `,"id":`...), e.ID)
	b = appendText(append(b, `,"type":`...), e.Type)
	b = e.Time.AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano)
	b = append(b, '"')
	if len(e.Data) > 0 {
		b = append(append(b, `,"data":`...), e.Data...)
	}
	if len(e.DataBase64) > 0 {
		b = base64.StdEncoding.AppendEncode(append(b, `,"data_base64":"`...), e.DataBase64)
		b = append(b, '"')
	}
	if len(e.Metadata) > 0 {
		b = append(append(b, `,"metadata":`...), e.Metadata...)
	}
	for i, t := range e.Tags {
		if i == 0 {
			b = append(b, `,"tags":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendText(b, t)
	}
	if len(e.Tags) > 0 {
		b = append(b, ']')
	}
	return append(b, '}'), true
}

func appendOptional(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	return appendText(append(b, name...), text)
}

// appendText appends the text as a JSON string. What is not plain ASCII is left to encoding/json.
func appendText(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			raw, err := marshalAny(text)
			if err != nil {
				panic("a text cannot be encoded: " + err.Error()) // encoding/json refuses no string
			}
			return append(b, raw...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}
