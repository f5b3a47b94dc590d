package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Pages of events are most of the bytes that a store and its readers exchange, and package encoding/json takes several microseconds for an event on either side. What is here writes and reads
// the same JSON in a fraction of that. The writer leaves everything but the events to encoding/json; the reader leaves to it everything that does not look as the writer makes it.

// noEvents is what encoding/json makes of a page without events. Behind it, a page has no more texts.
var noEvents = []byte(`"events":[]`)

// appendPage writes the response as encoding/json would, except that data and metadata stay as they were sent, with their white space.
func appendPage(r *ReadResponse) ([]byte, error) {
	rest := *r
	rest.Events = []Event{}
	return spliceEvents(&rest, len(r.Events), func(i int) *Event { return &r.Events[i] }, appendEvent)
}

// appendFetch does the same for what a subscription delivers.
func appendFetch(r *SubscriptionFetchResponse) ([]byte, error) {
	rest := *r
	rest.Events = []DeliveredEvent{}
	at := 0
	return spliceEvents(&rest, len(r.Events), func(i int) *Event { at = i; return &r.Events[i].Event }, func(b []byte, e *Event) []byte {
		b = appendEvent(b, e)
		return append(strconv.AppendInt(append(b[:len(b)-1], `,"attempt":`...), int64(r.Events[at].Attempt), 10), '}')
	})
}

// spliceEvents writes n events into what encoding/json makes of a page that has none.
func spliceEvents(rest any, n int, event func(i int) *Event, write func([]byte, *Event) []byte) ([]byte, error) {
	head, err := marshalAny(rest)
	if err != nil || n == 0 {
		return head, err
	}
	at := bytes.LastIndex(head, noEvents) + len(noEvents) - 1
	size := len(head)
	for i := range n {
		e := event(i)
		size += 180 + len(e.Stream) + len(e.ID) + len(e.Type) + len(e.Data) + len(e.DataBase64)*4/3 + len(e.Metadata) + 16*len(e.Tags)
	}
	b := append(make([]byte, 0, size), head[:at]...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = write(b, event(i))
	}
	return append(b, head[at:]...), nil
}

func appendEvent(b []byte, e *Event) []byte {
	b = strconv.AppendUint(append(b, `{"position":`...), e.Position, 10)
	b = appendText(append(b, `,"stream":`...), e.Stream)
	b = strconv.AppendUint(append(b, `,"version":`...), e.Version, 10)
	b = appendText(append(b, `,"id":`...), e.ID)
	b = appendText(append(b, `,"type":`...), e.Type)
	b = append(e.Time.AppendFormat(append(b, `,"time":"`...), time.RFC3339Nano), '"')
	if len(e.Data) > 0 {
		b = append(append(b, `,"data":`...), e.Data...)
	}
	if len(e.DataBase64) > 0 {
		b = append(base64.StdEncoding.AppendEncode(append(b, `,"data_base64":"`...), e.DataBase64), '"')
	}
	if len(e.Metadata) > 0 {
		b = append(append(b, `,"metadata":`...), e.Metadata...)
	}
	if len(e.Tags) > 0 {
		b = append(b, `,"tags":`...)
		for i, tag := range e.Tags {
			b = appendText(append(b, "[,"[min(i, 1)]), tag)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// appendText writes s as a JSON string. Most texts need no escapes; the others go the slow way.
func appendText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			text, _ := marshalAny(s) // a text always becomes JSON
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// UnmarshalReply decodes a reply of the cluster: leniently, so that an older client takes the fields of a newer cluster.
func UnmarshalReply(data []byte, v any) error {
	switch page := v.(type) {
	case *ReadResponse:
		var rest ReadResponse
		var events []Event
		ok := readPage(data, &rest, func(s *pageScanner) (ok bool) { events, ok = readEvents(s, (*pageScanner).readEvent); return ok })
		if ok && rest.Events == nil {
			*page = rest
			page.Events = events
			return nil
		}
	case *SubscriptionFetchResponse:
		var rest SubscriptionFetchResponse
		var events []DeliveredEvent
		ok := readPage(data, &rest, func(s *pageScanner) (ok bool) { events, ok = readEvents(s, (*pageScanner).readDelivered); return ok })
		if ok && rest.Events == nil {
			*page = rest
			page.Events = events
			return nil
		}
	}
	return json.Unmarshal(data, v)
}

// readPage decodes a page as it is written here: its events by the function, the rest into rest by encoding/json. It reports false when anything is otherwise.
func readPage(data []byte, rest any, events func(*pageScanner) bool) bool {
	s := pageScanner{data: data}
	others := append(make([]byte, 0, 256), '{') // the members but the events
	if !s.take('{') {
		return false
	}
	found := false
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return false
		}
		start := s.at
		name, ok := s.plain()
		if !ok || !s.take(':') {
			return false
		}
		if string(name) == "events" {
			if found || !events(&s) {
				return false
			}
			found = true
			continue
		}
		if !s.skip() {
			return false
		}
		if len(others) > 1 {
			others = append(others, ',')
		}
		others = append(others, data[start:s.at]...)
	}
	return found && s.at == len(data) && json.Unmarshal(append(others, '}'), rest) == nil
}

// pageScanner walks through JSON without white space between tokens. Each method reports whether it found what it is for; if not, the decoding is left to encoding/json.
type pageScanner struct {
	data []byte
	at   int
}

func (s *pageScanner) take(c byte) bool {
	if s.at < len(s.data) && s.data[s.at] == c {
		s.at++
		return true
	}
	return false
}

// readEvents reads an array of events with read, which gets the event before too.
func readEvents[E any](s *pageScanner, read func(s *pageScanner, e, before *E) bool) ([]E, bool) {
	if !s.take('[') {
		return nil, false
	}
	events := []E{}
	if s.take(']') {
		return events, true
	}
	var before E
	for start := s.at; ; {
		if len(events) == 1 { // the others may be as long as the first
			events = slices.Grow(events, min(1+(len(s.data)-s.at)/(s.at-start), MaxReadLimit))
		}
		var none E
		events = append(events, none)
		e := &events[len(events)-1]
		if !read(s, e, &before) {
			return nil, false
		}
		before = *e
		if s.take(']') {
			return events, true
		}
		if !s.take(',') {
			return nil, false
		}
	}
}

func (s *pageScanner) readEvent(e, before *Event) bool { return s.event(e, before, nil) }

func (s *pageScanner) readDelivered(e, before *DeliveredEvent) bool {
	return s.event(&e.Event, &before.Event, &e.Attempt)
}

// event decodes one event. Its texts are shared with those of the event before, where they are the same. attempt is nil when the event has none.
func (s *pageScanner) event(e, before *Event, attempt *int) bool {
	if !s.take('{') {
		return false
	}
	seen := 0
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return false
		}
		name, ok := s.plain()
		if !ok || !s.take(':') {
			return false
		}
		bit := 0
		switch string(name) {
		case "position":
			bit, ok = 1, s.number(&e.Position)
		case "stream":
			bit, ok = 2, s.text(&e.Stream, before.Stream)
		case "version":
			bit, ok = 4, s.number(&e.Version)
		case "id":
			bit, ok = 8, s.text(&e.ID, "")
		case "type":
			bit, ok = 16, s.text(&e.Type, before.Type)
		case "time":
			var text []byte
			bit = 32
			if text, ok = s.plain(); ok {
				ok = e.Time.UnmarshalText(text) == nil
			}
		case "data":
			bit, ok = 64, s.raw(&e.Data)
		case "data_base64":
			var text []byte
			bit = 128
			if text, ok = s.plain(); ok {
				var err error
				e.DataBase64, err = base64.StdEncoding.AppendDecode([]byte{}, text)
				ok = err == nil
			}
		case "metadata":
			bit, ok = 256, s.raw(&e.Metadata)
		case "tags":
			bit, ok = 512, s.texts(&e.Tags, before.Tags)
		case "attempt":
			var n uint64
			bit, ok = 1024, attempt != nil && s.number(&n) && n < 1<<31
			if ok {
				*attempt = int(n)
			}
		default:
			return false
		}
		if !ok || seen&bit != 0 {
			return false
		}
		seen |= bit
	}
	return true
}

// plain reads a string without escapes and returns what is between the quotes.
func (s *pageScanner) plain() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	start, high := s.at, false
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			text := s.data[start:s.at]
			s.at++
			return text, !high || utf8.Valid(text)
		case c == '\\' || c < 0x20:
			return nil, false
		case c >= 0x80:
			high = true
		}
	}
	return nil, false
}

func (s *pageScanner) text(into *string, before string) bool {
	start := s.at
	text, ok := s.plain()
	switch {
	case ok && string(text) == before:
		*into = before
	case ok:
		*into = string(text)
	default:
		s.at = start
		return s.skip() && s.data[start] == '"' && json.Unmarshal(s.data[start:s.at], into) == nil
	}
	return true
}

func (s *pageScanner) texts(into *[]string, before []string) bool {
	if !s.take('[') {
		return false
	}
	*into = []string{}
	for first := true; !s.take(']'); first = false {
		if !first && !s.take(',') {
			return false
		}
		var text, same string
		if n := len(*into); n < len(before) {
			same = before[n]
		}
		if !s.text(&text, same) {
			return false
		}
		*into = append(*into, text)
	}
	return true
}

func (s *pageScanner) number(into *uint64) bool {
	start := s.at
	var v uint64
	for ; s.at < len(s.data) && s.data[s.at] >= '0' && s.data[s.at] <= '9'; s.at++ {
		v = 10*v + uint64(s.data[s.at]-'0')
	}
	*into = v
	n := s.at - start
	return n > 0 && n < 20 && (n == 1 || s.data[start] != '0')
}

// raw copies a value as it is: an event does not keep its page in memory.
func (s *pageScanner) raw(into *json.RawMessage) bool {
	start := s.at
	if !s.skip() {
		return false
	}
	*into = bytes.Clone(s.data[start:s.at])
	return true
}

// skip walks over one value. It finds where a value ends that is valid, and does not prove that it is.
func (s *pageScanner) skip() bool {
	start, depth := s.at, 0
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case '"':
			if !s.skipText() {
				return false
			}
			if depth == 0 {
				return true
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.at > start // behind a number or a word
			}
			if depth--; depth == 0 {
				s.at++
				return true
			}
		case ',':
			if depth == 0 {
				return s.at > start
			}
		}
		s.at++
	}
	return false
}

func (s *pageScanner) skipText() bool {
	for s.at++; ; {
		i := bytes.IndexByte(s.data[s.at:], '"')
		if i < 0 {
			return false
		}
		end := s.at + i
		s.at = end + 1
		backslashes := 0
		for end > 0 && s.data[end-1] == '\\' {
			backslashes, end = backslashes+1, end-1
		}
		if backslashes%2 == 0 {
			return true
		}
	}
}
