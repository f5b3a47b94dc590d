package api

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// A backup is logical: every event with its position, and what the store keeps beside its events as keys and values that only the store reads. Both come in pages, which
// are what a backup file holds and what a restore sends back:
//
//	events  1 · first position (uvarint) · streams (uvarint) · name (text)… · events (uvarint) · event…
//	event   flags (1, all 0) · stream (uvarint: its place in the list) · version (uvarint) · time (varint, Unix µs) · body (bytes)
//	keys    1 · place of the first (uvarint) · keys (uvarint) · key (bytes) value (bytes)…
//
// text and bytes are a uvarint length and so many bytes. A body is id, type, data, metadata and tags as the store encodes them; it begins with a byte of flags, which is
// backupScavenged when only the id and a sum are left of the event.
const (
	backupPageFormat = 1
	backupScavenged  = 4
)

// BackupEvent is an event of a page.
type BackupEvent struct {
	Position uint64
	Stream   string
	Version  uint64
	Time     int64 // Unix µs
	Body     []byte
}

// Scavenged reports whether the event was gone for readers and its space given back when the page was made. The keys of an earlier moment may say that it is there.
func (e *BackupEvent) Scavenged() bool { return len(e.Body) > 0 && e.Body[0] == backupScavenged }

// BackupKey is a key of a page.
type BackupKey struct{ Key, Value []byte }

// Digest is a chain of SHA-256 sums, one an event or key in order, so it does not depend on how they are cut into pages. The zero value is that of nothing.
type Digest [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler, as lower-case hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return []byte(fmt.Sprintf("%x", d[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 2*len(d) {
		return fmt.Errorf("a digest has %d hexadecimal digits, this has %d", 2*len(d), len(text))
	}
	for i := range d {
		b, err := strconv.ParseUint(string(text[2*i:2*i+2]), 16, 8)
		if err != nil {
			return fmt.Errorf("a digest has hexadecimal digits only, this has %q", text[2*i:2*i+2])
		}
		d[i] = byte(b)
	}
	return nil
}

// A Digester makes Digests. It keeps its memory from one to the next.
type Digester struct{ buf []byte }

// Event adds an event.
func (h *Digester) Event(d Digest, e *BackupEvent) Digest {
	b := append(h.buf[:0], d[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Position)
	b = appendBytes(b, e.Stream)
	b = binary.AppendUvarint(b, e.Version)
	b = binary.AppendVarint(b, e.Time)
	h.buf = append(b, e.Body...)
	return sha256.Sum256(h.buf)
}

// Key adds a key.
func (h *Digester) Key(d Digest, k *BackupKey) Digest {
	b := append(h.buf[:0], d[:]...)
	b = appendBytes(b, k.Key)
	h.buf = append(b, k.Value...)
	return sha256.Sum256(h.buf)
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// BackupEvents builds a page of events that follow one another.
type BackupEvents struct {
	first, n uint64
	names    []byte
	places   map[string]uint64
	events   []byte
}

// Add adds an event; its position must follow the last one's.
func (p *BackupEvents) Add(e *BackupEvent) {
	if p.n == 0 {
		p.first, p.places = e.Position, make(map[string]uint64)
	}
	place, known := p.places[e.Stream]
	if !known {
		place = uint64(len(p.places))
		p.places[e.Stream] = place
		p.names = appendBytes(p.names, e.Stream)
	}
	p.n++
	p.events = append(p.events, 0)
	p.events = binary.AppendUvarint(p.events, place)
	p.events = binary.AppendUvarint(p.events, e.Version)
	p.events = binary.AppendVarint(p.events, e.Time)
	p.events = appendBytes(p.events, e.Body)
}

// Len returns how many bytes the page has, nearly.
func (p *BackupEvents) Len() int { return len(p.names) + len(p.events) }

// Count returns how many events the page has.
func (p *BackupEvents) Count() int { return int(p.n) }

// Encode returns the page; nil when it is empty.
func (p *BackupEvents) Encode() []byte {
	if p.n == 0 {
		return nil
	}
	b := make([]byte, 0, 32+p.Len())
	b = append(b, backupPageFormat)
	b = binary.AppendUvarint(b, p.first)
	b = binary.AppendUvarint(b, uint64(len(p.places)))
	b = append(b, p.names...)
	b = binary.AppendUvarint(b, p.n)
	return append(b, p.events...)
}

// BackupKeys builds a page of keys.
type BackupKeys struct {
	First uint64 // how many keys are on the pages before
	n     uint64
	keys  []byte
}

// Add adds a key. It copies both.
func (p *BackupKeys) Add(key, value []byte) {
	p.n++
	p.keys = appendBytes(appendBytes(p.keys, key), value)
}

// Len returns how many bytes the page has, nearly.
func (p *BackupKeys) Len() int { return len(p.keys) }

// Count returns how many keys the page has.
func (p *BackupKeys) Count() int { return int(p.n) }

// Encode returns the page; nil when it is empty.
func (p *BackupKeys) Encode() []byte {
	if p.n == 0 {
		return nil
	}
	b := append(make([]byte, 0, 32+len(p.keys)), backupPageFormat)
	b = binary.AppendUvarint(b, p.First)
	b = binary.AppendUvarint(b, p.n)
	return append(b, p.keys...)
}

// DecodeBackupEvents reads a page of events. Bodies lie in the page's memory.
func DecodeBackupEvents(page []byte) ([]BackupEvent, error) {
	r := pageReader{rest: page}
	r.format()
	first := r.uvarint()
	streams := make([]string, r.count(1))
	for i := range streams {
		streams[i] = string(r.bytes())
	}
	events := make([]BackupEvent, r.count(5))
	for i := range events {
		e := &events[i]
		if r.byte() != 0 {
			r.fail("an event has flags that this version does not know")
		}
		if place := r.uvarint(); place < uint64(len(streams)) {
			e.Stream = streams[place]
		} else {
			r.fail("an event names no stream of the page")
		}
		e.Position, e.Version, e.Time, e.Body = first+uint64(i), r.uvarint(), r.varint(), r.bytes()
	}
	if first == 0 || len(events) == 0 {
		r.fail("there are no events on it")
	}
	return events, r.end()
}

// DecodeBackupKeys reads a page of keys and returns how many are on the pages before. Keys and values lie in the page's memory.
func DecodeBackupKeys(page []byte) (first uint64, keys []BackupKey, err error) {
	r := pageReader{rest: page}
	r.format()
	first = r.uvarint()
	keys = make([]BackupKey, r.count(2))
	for i := range keys {
		keys[i] = BackupKey{r.bytes(), r.bytes()}
	}
	if len(keys) == 0 {
		r.fail("there are no keys on it")
	}
	return first, keys, r.end()
}

// pageReader takes values off a page. After the first error it gives zero values.
type pageReader struct {
	rest []byte
	err  error
}

func (r *pageReader) fail(why string) {
	if r.err == nil {
		r.err = errors.New("the page cannot be read: " + why)
	}
	r.rest = nil
}

func (r *pageReader) format() {
	if v := r.byte(); r.err == nil && v != backupPageFormat {
		r.fail(fmt.Sprintf("it has format %d, this version knows %d", v, backupPageFormat))
	}
}

func (r *pageReader) byte() byte {
	if len(r.rest) == 0 {
		r.fail("it ends too early")
		return 0
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *pageReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail("it ends too early")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *pageReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail("it ends too early")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads how many items follow, each of at least size bytes, so that a forged count cannot make us allocate much.
func (r *pageReader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.fail("it ends too early")
		return 0
	}
	return int(n)
}

func (r *pageReader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail("it ends too early")
		return nil
	}
	v := r.rest[:n:n]
	r.rest = r.rest[n:]
	return v
}

func (r *pageReader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail("there are bytes behind its end")
	}
	return r.err
}
