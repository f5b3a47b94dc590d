package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// Records in a batch:
//
//	0   1  kind
//	1   16 group id
//	17  .  entry:   index (8) · length (4) · sealed record (see encodeEntry)
//	       stable:  length of key (2) · key · length (4) · sealed value (see encodeValue)
//	       delete:  lo (8) · hi (8), inclusive
//	       remove:  nothing
//
// Kind 0 is padding and ends the batch.
const (
	kindEntry  = 1
	kindStable = 2
	kindDelete = 3
	kindRemove = 4

	itemHead = 1 + groupIDSize
)

// item is a record, and where its sealed bytes lie: in a payload first, in a segment once it is written.
type item struct {
	kind   byte
	id     GroupID
	index  uint64 // entry
	lo, hi uint64 // delete
	key    string // stable
	value  []byte // stable: sealed
	at     int64  // entry: of the sealed record
	size   int    // entry: of the sealed record
}

func appendItemHead(b []byte, kind byte, id GroupID) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, id.Store)
	return binary.BigEndian.AppendUint64(b, id.Incarnation)
}

func appendEntryItem(b []byte, id GroupID, l *raft.Log) ([]byte, item, error) {
	b = appendItemHead(b, kindEntry, id)
	b = binary.BigEndian.AppendUint64(b, l.Index)
	b = append(b, 0, 0, 0, 0)
	at := len(b)
	b, err := appendEntry(b, id, l)
	if err != nil {
		return nil, item{}, err
	}
	size := len(b) - at
	binary.BigEndian.PutUint32(b[at-4:], uint32(size))
	return b, item{kind: kindEntry, id: id, index: l.Index, at: int64(at), size: size}, nil
}

func appendStableItem(b []byte, id GroupID, key string, sealed []byte) ([]byte, item) {
	b = appendItemHead(b, kindStable, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	b = append(b, key...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(sealed)))
	return append(b, sealed...), item{kind: kindStable, id: id, key: key, value: sealed}
}

func appendDeleteItem(b []byte, id GroupID, lo, hi uint64) ([]byte, item) {
	b = appendItemHead(b, kindDelete, id)
	b = binary.BigEndian.AppendUint64(b, lo)
	return binary.BigEndian.AppendUint64(b, hi), item{kind: kindDelete, id: id, lo: lo, hi: hi}
}

func appendRemoveItem(b []byte, id GroupID) ([]byte, item) {
	return appendItemHead(b, kindRemove, id), item{kind: kindRemove, id: id}
}

// parseItems reads the records of a payload whose checksum is right. What it returns shares no memory with the payload. A record that does not fit is an
// error: whoever wrote it was not us.
func parseItems(payload []byte) (items []item, err error) {
	for at := 0; at < len(payload) && payload[at] != 0; {
		rest := payload[at:]
		if len(rest) < itemHead {
			return nil, fmt.Errorf("record at byte %d of the batch: wanted %d bytes, found %d", at, itemHead, len(rest))
		}
		it := item{kind: rest[0], id: groupIDFrom(rest[1:])}
		n := itemHead
		need := func(more int) bool { return more >= 0 && more <= len(rest)-n }
		ok := false
		switch it.kind {
		case kindEntry:
			if ok = need(12); ok {
				it.index, it.size = binary.BigEndian.Uint64(rest[n:]), int(binary.BigEndian.Uint32(rest[n+8:]))
				n += 12
				it.at = int64(at + n)
				ok = need(it.size)
				n += it.size
			}
		case kindStable:
			if ok = need(2); ok {
				size := int(binary.BigEndian.Uint16(rest[n:]))
				n += 2
				if ok = need(size + 4); ok {
					it.key = string(rest[n : n+size])
					n += size
					size = int(binary.BigEndian.Uint32(rest[n:]))
					n += 4
					if ok = need(size); ok {
						it.value = append([]byte(nil), rest[n:n+size]...)
						n += size
					}
				}
			}
		case kindDelete:
			if ok = need(16); ok {
				it.lo, it.hi = binary.BigEndian.Uint64(rest[n:]), binary.BigEndian.Uint64(rest[n+8:])
				n += 16
			}
		case kindRemove:
			ok = true
		default:
			return nil, fmt.Errorf("record at byte %d of the batch: kind %d is not known", at, it.kind)
		}
		if !ok {
			return nil, fmt.Errorf("record at byte %d of the batch is cut off", at)
		}
		items = append(items, it)
		at += n
	}
	return items, nil
}
