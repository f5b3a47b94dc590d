package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/quorate/quorate/api"
)

// ErrDamaged means that what the disk holds is not what was written. The replica must be set aside and copied anew; it is never repaired by guessing.
var ErrDamaged = errors.New("damaged")

// ErrPanic is the ErrDamaged of a panic: bbolt's way to say that it cannot read a page, but also what a bug looks like, which a request may meet at every replica.
var ErrPanic = fmt.Errorf("%w: panic", ErrDamaged)

// A stored event:
//
//	CRC32C (4) over position and the rest · front · time (varint, Unix µs) · event as in command.go
//	       or, of an event that was scavenged, a stub: see stub.go
//	front  stream number (uvarint) · version (uvarint) · how far back each of its pointers leads, in positions (uvarint each), see chain.go
//
// The position is the key, and the stream's name stands once, in names. A record is the same on every replica.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxPointers is what a version can have at most: 8^21 is the highest power of eight below 2^64.
const maxPointers = 22

// front is the beginning of a record.
type front struct {
	stream  uint64
	version uint64
	n       int
	back    [maxPointers]uint64 // positions of the events pointed to; n of them
}

type record struct {
	stream  uint64
	version uint64
	time    int64
	event   EventRecord
	stub    bool   // of the event there are only the id and the sum, see stub.go
	sum     uint64 // of a stub
}

// appendRecord appends the record of an event, whose encoding is raw, for the position; it is the next one of the stream.
func appendRecord(b []byte, position uint64, h *head, time int64, raw []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, h.number)
	b = binary.AppendUvarint(b, h.count)
	for l := range pointers(h.count) {
		b = binary.AppendUvarint(b, position-h.path[l])
	}
	b = binary.AppendVarint(b, time)
	b = append(b, raw...)
	binary.BigEndian.PutUint32(b[start:], checksum(position, b[start+4:]))
	return b
}

// recordOverhead is what appendRecord adds to raw at most.
const recordOverhead = 4 + (2+maxPointers+1)*binary.MaxVarintLen64

func checksum(position uint64, body []byte) uint32 {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], position)
	return crc32.Update(crc32.Checksum(key[:], castagnoli), castagnoli, body)
}

// takeFront takes the front off the reader.
func (r *reader) takeFront(position uint64) (f front) {
	f.stream, f.version = r.uvarint(), r.uvarint()
	f.n = pointers(f.version)
	for l := range f.n {
		d := r.uvarint()
		if d == 0 || d >= position {
			r.fail()
			return f
		}
		f.back[l] = position - d
	}
	return f
}

// decodeFront reads only the front and does not look at the checksum: what it says is a guess until the record it leads to was decoded and held against it.
func decodeFront(position uint64, value []byte) (front, error) {
	if len(value) < 4 {
		return front{}, fmt.Errorf("%w: event %d has %d bytes", ErrDamaged, position, len(value))
	}
	r := reader{rest: value[4:]}
	f := r.takeFront(position)
	if r.err != nil {
		return front{}, fmt.Errorf("%w: event %d: %w", ErrDamaged, position, r.err)
	}
	return f, nil
}

// decodeRecord copies what it returns: value may be bbolt's memory.
func decodeRecord(position uint64, value []byte) (record, error) {
	rec, _, err := decodeWhole(position, value)
	return rec, err
}

func decodeWhole(position uint64, value []byte) (record, front, error) {
	return decodeChecked(position, bytes.Clone(value), false)
}

// decodeChecked checks and decodes a record. Slices of the result lie in value's memory, and with share strings do too.
func decodeChecked(position uint64, value []byte, share bool) (record, front, error) {
	if len(value) < 4 {
		return record{}, front{}, fmt.Errorf("%w: event %d has %d bytes", ErrDamaged, position, len(value))
	}
	want, got := binary.BigEndian.Uint32(value), checksum(position, value[4:])
	if want != got {
		return record{}, front{}, fmt.Errorf("%w: event %d: checksum wanted %08x, found %08x", ErrDamaged, position, want, got)
	}
	r := reader{rest: value[4:], share: share}
	f := r.takeFront(position)
	rec := record{stream: f.stream, version: f.version, time: r.varint()}
	if len(r.rest) > 0 && r.rest[0] == flagStub {
		rec.takeStub(&r)
	} else {
		rec.event = r.event()
	}
	if err := r.end(); err != nil {
		return record{}, front{}, fmt.Errorf("%w: event %d: %w", ErrDamaged, position, err)
	}
	return rec, f, nil
}

func (rec *record) toAPI(position uint64, stream string) api.Event {
	e := api.Event{
		Position: position, Stream: stream, Version: rec.version, ID: rec.event.ID, Type: rec.event.Type,
		Time: time.UnixMicro(rec.time).UTC(), Metadata: rec.event.Metadata, Tags: rec.event.Tags,
	}
	if rec.event.JSON {
		e.Data = rec.event.Data
	} else {
		e.DataBase64 = rec.event.Data
	}
	return e
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func parseU64(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
