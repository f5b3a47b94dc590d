package api

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// decoder is a request that reads the plain form of its JSON itself: every field at most once and spelled as it is documented, no null, no escapes in names and
// ids. It reports false at anything else, right or wrong, and is then as it was: encoding/json decides, and says what is wrong.
type decoder interface {
	decode(payload []byte) bool
}

var _ decoder = (*AppendRequest)(nil)

// decode keeps slices of the payload.
func (r *AppendRequest) decode(payload []byte) bool {
	if r.Events != nil || r.ExpectedVersion != nil || r.Conditions != nil {
		return false
	}
	s := scanner{text: payload}
	var got AppendRequest
	if !s.fields(func(name []byte) bool {
		switch string(name) {
		case "events":
			return got.Events == nil && s.events(&got.Events)
		case "expected_version":
			if got.ExpectedVersion != nil {
				return false
			}
			got.ExpectedVersion = new(int64)
			return s.int64(got.ExpectedVersion)
		case "conditions":
			if got.Conditions != nil {
				return false
			}
			raw, ok := s.raw()
			return ok && unmarshalAny([]byte(`{"conditions":`+string(raw)+`}`), &got) == nil && got.Conditions != nil
		}
		return false
	}) {
		return false
	}
	if s.space(); s.at < len(payload) {
		return false
	}
	*r = got
	return true
}

// fields takes an object; field takes the value behind a name.
func (s *scanner) fields(field func(name []byte) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		name, ok := s.plain()
		if !ok || !s.take(':') {
			return false
		}
		s.space()
		if !field(name) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

// items takes an array; item takes one of its values.
func (s *scanner) items(item func() bool) bool {
	if !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		s.space()
		if !item() {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

func (s *scanner) events(into *[]NewEvent) bool {
	*into = make([]NewEvent, 0, 1)
	return s.items(func() bool {
		*into = append(*into, NewEvent{})
		return s.event(&(*into)[len(*into)-1])
	})
}

func (s *scanner) event(e *NewEvent) bool {
	var seen [7]bool
	once := func(i int) bool {
		was := seen[i]
		seen[i] = true
		return !was
	}
	return s.fields(func(name []byte) (ok bool) {
		switch string(name) {
		case "id":
			return once(0) && s.plainText(&e.ID)
		case "stream":
			return once(1) && s.plainText(&e.Stream)
		case "type":
			return once(2) && s.plainText(&e.Type)
		case "data":
			e.Data, ok = s.raw()
			return once(3) && ok
		case "metadata":
			e.Metadata, ok = s.raw()
			return once(4) && ok
		case "data_base64":
			text, ok := s.plain()
			if !ok {
				return false
			}
			data, err := base64.StdEncoding.DecodeString(string(text))
			e.DataBase64 = data
			return once(5) && err == nil
		case "tags":
			e.Tags = []string{}
			return once(6) && s.items(func() bool {
				e.Tags = append(e.Tags, "")
				return s.plainText(&e.Tags[len(e.Tags)-1])
			})
		}
		return false
	})
}

// raw takes a value as it stands.
func (s *scanner) raw() (json.RawMessage, bool) {
	start := s.at
	ok := s.value(maxScanDepth)
	return s.text[start:s.at:s.at], ok
}

// plain takes a string without escapes, of valid UTF-8.
func (s *scanner) plain() ([]byte, bool) {
	if s.peek() != '"' {
		return nil, false
	}
	ascii := true
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			text := s.text[s.at+1 : i]
			s.at = i + 1
			return text, ascii || utf8.Valid(text)
		case c < ' ' || c == '\\':
			return nil, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false
}

func (s *scanner) plainText(into *string) bool {
	text, ok := s.plain()
	*into = string(text)
	return ok
}

func (s *scanner) int64(into *int64) bool {
	start := s.at
	if !s.number() {
		return false
	}
	v, err := strconv.ParseInt(string(s.text[start:s.at]), 10, 64)
	*into = v
	return err == nil
}
