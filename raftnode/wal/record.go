package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// Everything is stored sealed:
//
//	0   4  CRC32C of: domain, group id (16), length of key (2), key, payload
//	4   .  payload
//
// The domain is one byte for the kind of thing, so that a value that turns up
// in the wrong place, under another key or in another group fails its check.
// All numbers are big-endian.
//
// Payload of a log entry, its key being the index as 8 bytes:
//
//	0   1  format, 1
//	1   1  type
//	2   8  term
//	10  8  appended at: seconds since 1970, signed
//	18  4  appended at: nanoseconds
//	22  4  length of data
//	26  .  data
//	..  .  extensions, to the end
//
// Payload of a stable value: the value; a uint64 is 8 bytes.
//
// Payload of a group's header, key "head":
//
//	0   8  first index, 0 if there are no entries
//	8   8  last index
//	16  8  number of entries
//	24  8  number of stable values
const (
	domainLog    = 'L'
	domainStable = 'S'
	domainHead   = 'H'
	domainMeta   = 'M'

	sealSize     = 4
	recordFormat = 1
	recordHeader = 26
	headSize     = 32

	// maxRecord bounds data plus extensions of one entry, and a stable value.
	maxRecord = 1 << 30
	// maxKey bounds the key of a stable value.
	maxKey = 1024
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(domain byte, id GroupID, key, payload []byte) uint32 {
	var room [1 + groupIDSize + 2 + 64]byte // keys are short; crc32.Update makes what it is given escape, so one array for all of it
	ctx := append(room[:0], domain)
	ctx = binary.BigEndian.AppendUint64(ctx, id.Store)
	ctx = binary.BigEndian.AppendUint64(ctx, id.Incarnation)
	ctx = binary.BigEndian.AppendUint16(ctx, uint16(len(key)))
	ctx = append(ctx, key...)
	return crc32.Update(crc32.Update(0, castagnoli, ctx), castagnoli, payload)
}

// seal writes the checksum of b[sealSize:] into b[:sealSize] and returns b.
func seal(domain byte, id GroupID, key, b []byte) []byte {
	binary.BigEndian.PutUint32(b, checksum(domain, id, key, b[sealSize:]))
	return b
}

// unseal returns the payload of b, which aliases b, or a [CorruptError] without
// its Index.
func unseal(domain byte, id GroupID, key, b []byte) ([]byte, error) {
	if len(b) < sealSize {
		return nil, &CorruptError{Group: id, Item: itemName(domain, key), Detail: fmt.Sprintf("wanted at least %d bytes, found %d", sealSize, len(b))}
	}
	want, got := binary.BigEndian.Uint32(b), checksum(domain, id, key, b[sealSize:])
	if want != got {
		return nil, &CorruptError{Group: id, Item: itemName(domain, key), Want: want, Got: got}
	}
	return b[sealSize:], nil
}

func itemName(domain byte, key []byte) string {
	switch {
	case domain == domainLog && len(key) == 8:
		return fmt.Sprintf("log entry %d", binary.BigEndian.Uint64(key))
	case domain == domainStable:
		return fmt.Sprintf("stable value %q", key)
	case domain == domainHead:
		return "header"
	default:
		return fmt.Sprintf("file header %q", key)
	}
}

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// encodeEntry returns the sealed record of one entry, or [ErrTooLarge].
func encodeEntry(id GroupID, l *raft.Log) ([]byte, error) {
	return appendEntry(make([]byte, 0, sealSize+recordHeader+len(l.Data)+len(l.Extensions)), id, l)
}

// appendEntry is encodeEntry behind what is in b.
func appendEntry(b []byte, id GroupID, l *raft.Log) ([]byte, error) {
	size := uint64(len(l.Data)) + uint64(len(l.Extensions))
	if size > maxRecord {
		return nil, fmt.Errorf("entry %d of %d bytes: %w (limit %d)", l.Index, size, ErrTooLarge, maxRecord)
	}
	at := len(b)
	b = append(b, 0, 0, 0, 0, recordFormat, byte(l.Type))
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = binary.BigEndian.AppendUint64(b, uint64(l.AppendedAt.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(l.AppendedAt.Nanosecond()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.Data)))
	b = append(b, l.Data...)
	b = append(b, l.Extensions...)
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], l.Index)
	seal(domainLog, id, key[:], b[at:])
	return b, nil
}

// decodeEntry fills in out from a sealed record. Nothing in out aliases b. On
// an error, which is always a [CorruptError], out is untouched.
func decodeEntry(id GroupID, index uint64, b []byte, out *raft.Log) error {
	key := indexKey(index)
	p, err := unseal(domainLog, id, key, b)
	if err != nil {
		err.(*CorruptError).Index = index
		return err
	}
	corrupt := func(format string, args ...any) error {
		return &CorruptError{Group: id, Index: index, Item: itemName(domainLog, key), Detail: fmt.Sprintf(format, args...)}
	}
	if len(p) < recordHeader {
		return corrupt("wanted at least %d bytes, found %d", recordHeader, len(p))
	}
	if p[0] != recordFormat {
		return corrupt("wanted format %d, found %d", recordFormat, p[0])
	}
	nanos, size := binary.BigEndian.Uint32(p[18:]), binary.BigEndian.Uint32(p[22:])
	if nanos >= 1e9 {
		return corrupt("wanted less than 1e9 nanoseconds, found %d", nanos)
	}
	if uint64(size) > uint64(len(p)-recordHeader) {
		return corrupt("wanted %d bytes of data, found %d", size, len(p)-recordHeader)
	}
	*out = raft.Log{
		Index:      index,
		Term:       binary.BigEndian.Uint64(p[2:]),
		Type:       raft.LogType(p[1]),
		AppendedAt: time.Unix(int64(binary.BigEndian.Uint64(p[10:])), int64(nanos)).UTC(),
		Data:       copied(p[recordHeader : recordHeader+size]),
		Extensions: copied(p[recordHeader+size:]),
	}
	return nil
}

// copied returns a copy of b, nil if it is empty.
func copied(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return append([]byte(nil), b...)
}

// encodeValue returns a sealed stable value.
func encodeValue(id GroupID, key, val []byte) []byte {
	b := make([]byte, sealSize, sealSize+len(val))
	return seal(domainStable, id, key, append(b, val...))
}

// head is a group's header: what must be there.
type head struct {
	first, last uint64 // 0 if there are no entries
	entries     uint64
	stable      uint64 // number of stable values
}

var headKey = []byte("head")

// dense reports whether every index from first to last is stored.
func (h head) dense() bool { return h.entries > 0 && h.entries == h.last-h.first+1 }

func (h head) has(index uint64) bool { return h.entries > 0 && h.first <= index && index <= h.last }

func encodeHead(id GroupID, h head) []byte {
	b := make([]byte, sealSize, sealSize+headSize)
	for _, n := range []uint64{h.first, h.last, h.entries, h.stable} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return seal(domainHead, id, headKey, b)
}

func decodeHead(id GroupID, b []byte) (head, error) {
	p, err := unseal(domainHead, id, headKey, b)
	if err != nil {
		return head{}, err
	}
	if len(p) != headSize {
		return head{}, &CorruptError{Group: id, Item: itemName(domainHead, headKey), Detail: fmt.Sprintf("wanted %d bytes, found %d", headSize, len(p))}
	}
	n := func(at int) uint64 { return binary.BigEndian.Uint64(p[at:]) }
	return head{first: n(0), last: n(8), entries: n(16), stable: n(24)}, nil
}
