package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/quorate/quorate/api"
)

// ErrDamaged means that what the disk holds is not what was written. The replica must be set aside and copied anew; it is never repaired by guessing.
var ErrDamaged = errors.New("damaged")

// A stored event:
//
//	CRC32C (4) over position and the rest · stream number (uvarint) · version (uvarint) · time (varint, Unix µs) · event as in command.go
//
// The position is the key, and the stream's name stands once, in names.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type record struct {
	stream  uint64
	version uint64
	time    int64
	event   EventRecord
}

func (rec *record) encode(position uint64) []byte {
	b := make([]byte, 4, 48+len(rec.event.Data)+len(rec.event.Metadata)+len(rec.event.ID)+len(rec.event.Type))
	b = binary.AppendUvarint(b, rec.stream)
	b = binary.AppendUvarint(b, rec.version)
	b = binary.AppendVarint(b, rec.time)
	b = rec.event.encode(b)
	binary.BigEndian.PutUint32(b, checksum(position, b[4:]))
	return b
}

func checksum(position uint64, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(u64(position), castagnoli), castagnoli, body)
}

// decodeRecord copies what it returns: value may be bbolt's memory.
func decodeRecord(position uint64, value []byte) (record, error) {
	if len(value) < 4 {
		return record{}, fmt.Errorf("%w: event %d has %d bytes", ErrDamaged, position, len(value))
	}
	want, got := binary.BigEndian.Uint32(value), checksum(position, value[4:])
	if want != got {
		return record{}, fmt.Errorf("%w: event %d: checksum wanted %08x, found %08x", ErrDamaged, position, want, got)
	}
	r := reader{rest: append([]byte(nil), value[4:]...)}
	rec := record{stream: r.uvarint(), version: r.uvarint(), time: r.varint()}
	rec.event = r.event()
	if err := r.end(); err != nil {
		return record{}, fmt.Errorf("%w: event %d: %w", ErrDamaged, position, err)
	}
	return rec, nil
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
