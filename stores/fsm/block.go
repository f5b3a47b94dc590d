package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"
)

// A block is a few KiB of a run's sorted entries, one value in the bucket runs:
//
//	key    run (8) · fence: the first key of the block; empty for the run's first block
//	value  CRC32C (4) over key and the rest · entries (2) · length of end (2) · end · entry… · offset of each entry (2 each)
//	entry  length of key (uvarint) · key · value (up to the next entry)
//
// end is the next block's fence; the last block has none (length 0xFFFF). So a block says which keys it answers for, fence ≤ key < end, and a lookup that bbolt led
// astray, over a flipped bit in a branch page or a missing page, ends in ErrDamaged and not in "not found": an id that is not found is written a second time.
type block struct {
	data    []byte // the value, from entries on
	offsets []byte
	n       int
	end     []byte // nil: the last block
}

const (
	blockHeader = 4 + 2 + 2
	noEnd       = 0xFFFF
	// blockRoom makes two blocks fill a page of 4 KiB: page header 16, and 16 an element.
	blockRoom = (4096-16)/2 - 16
)

func openBlock(key, value []byte) (block, error) {
	if len(value) < blockHeader {
		return block{}, fmt.Errorf("%w: block %x has %d bytes", ErrDamaged, key, len(value))
	}
	want, got := binary.BigEndian.Uint32(value), crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[4:])
	if want != got {
		return block{}, fmt.Errorf("%w: block %x: checksum wanted %08x, found %08x", ErrDamaged, key, want, got)
	}
	b := block{n: int(binary.BigEndian.Uint16(value[4:]))}
	rest := value[blockHeader:]
	if n := int(binary.BigEndian.Uint16(value[6:])); n != noEnd {
		b.end, rest = rest[:n:n], rest[n:]
	}
	cut := len(rest) - 2*b.n
	b.data, b.offsets = rest[:cut], rest[cut:]
	return b, nil
}

func (b *block) entry(i int) (key, value []byte) {
	from, to := int(binary.BigEndian.Uint16(b.offsets[2*i:])), len(b.data)
	if i+1 < b.n {
		to = int(binary.BigEndian.Uint16(b.offsets[2*i+2:]))
	}
	e := b.data[from:to]
	n, skip := binary.Uvarint(e)
	return e[skip : skip+int(n)], e[skip+int(n):]
}

// find returns the first entry whose key is not below key.
func (b *block) find(key []byte) int {
	return sort.Search(b.n, func(i int) bool {
		k, _ := b.entry(i)
		return bytes.Compare(k, key) >= 0
	})
}

// blockBuilder collects the entries of one block.
type blockBuilder struct {
	fence   []byte
	data    []byte
	offsets []byte
	n       int
}

func (b *blockBuilder) add(key, value []byte) {
	b.offsets = binary.BigEndian.AppendUint16(b.offsets, uint16(len(b.data)))
	b.data = appendBytes(b.data, key)
	b.data = append(b.data, value...)
	b.n++
}

// full reports whether an entry of so many bytes has to go into another block. The end is as long as that entry's key, or nearly.
func (b *blockBuilder) full(key, value []byte) bool {
	used := 8 + len(b.fence) + blockHeader + len(b.data) + len(b.offsets)
	return b.n > 0 && used+2*len(key)+len(value)+2+2 > blockRoom
}

// build returns key and value for bbolt, and empties the builder. end nil: this is the run's last block.
func (b *blockBuilder) build(run uint64, end []byte) (key, value []byte) {
	key = append(u64(run), b.fence...)
	value = make([]byte, 0, blockHeader+len(end)+len(b.data)+len(b.offsets))
	value = append(value, 0, 0, 0, 0)
	value = binary.BigEndian.AppendUint16(value, uint16(b.n))
	if end == nil {
		value = binary.BigEndian.AppendUint16(value, noEnd)
	} else {
		value = binary.BigEndian.AppendUint16(value, uint16(len(end)))
		value = append(value, end...)
	}
	value = append(value, b.data...)
	value = append(value, b.offsets...)
	binary.BigEndian.PutUint32(value, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[4:]))
	b.fence, b.data, b.offsets, b.n = append(b.fence[:0], end...), b.data[:0], b.offsets[:0], 0
	return key, value
}
