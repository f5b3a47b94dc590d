package api

import (
	"bytes"
	"encoding/json"
)

// ValidJSON reports whether raw is one JSON value, white space around it included: json.Valid, several times as fast for a body that is mostly text.
func ValidJSON(raw []byte) bool {
	s := scanner{text: raw}
	s.space()
	if s.value(maxScanDepth) {
		s.space()
		return s.at == len(raw)
	}
	return s.deep && json.Valid(raw)
}

// CompactJSON drops white space between tokens, and nothing else. raw is valid JSON, and is returned itself when there is none, or when it is nil.
func CompactJSON(raw []byte) []byte {
	if raw == nil {
		return nil
	}
	s := scanner{text: raw}
	s.space()
	if s.value(maxScanDepth) && !s.spaced && s.at == len(raw) {
		return raw
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}

// maxScanDepth is how deep values may be nested before a scan gives up. encoding/json allows more, and is asked then.
const maxScanDepth = 200

// scanner walks over JSON text. Its methods report false at what is not JSON.
type scanner struct {
	text   []byte
	at     int
	spaced bool // there was white space
	deep   bool // it gave up
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
			s.spaced = true
		default:
			return
		}
	}
}

// take takes white space and then the byte.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.peek() != c || s.at == len(s.text) {
		return false
	}
	s.at++
	return true
}

func (s *scanner) value(depth int) bool {
	switch c := s.peek(); {
	case c == '"':
		return s.string()
	case c == '{', c == '[':
		if depth == 0 {
			s.deep = true
			return false
		}
		return s.list(c, depth-1)
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return s.number()
}

// list takes an object or an array.
func (s *scanner) list(open byte, depth int) bool {
	end := byte(']')
	if open == '{' {
		end = '}'
	}
	s.at++
	if s.take(end) {
		return true
	}
	for {
		if open == '{' {
			if !s.string() || !s.take(':') {
				return false
			}
			s.space()
		}
		if !s.value(depth) {
			return false
		}
		if s.take(end) {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

func (s *scanner) word(w string) bool {
	if !bytes.HasPrefix(s.text[s.at:], []byte(w)) {
		return false
	}
	s.at += len(w)
	return true
}

// string takes a string. It looks at escapes and control characters, and as encoding/json does not at UTF-8.
func (s *scanner) string() bool {
	if s.peek() != '"' {
		return false
	}
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '"':
			s.at = i + 1
			return true
		case c < ' ':
			return false
		case c == '\\':
			i++
			if i == len(s.text) {
				return false
			}
			switch s.text[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i == len(s.text) || !isHex(s.text[i]) {
						return false
					}
				}
			default:
				return false
			}
		}
	}
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.at++
	}
	if s.peek() == '0' {
		s.at++
	} else if !s.digits() {
		return false
	}
	if s.peek() == '.' {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.at++
		if c := s.peek(); c == '+' || c == '-' {
			s.at++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.at
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.at++
	}
	return s.at > start
}
