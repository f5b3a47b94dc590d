package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
)

var (
	bucketMeta    = []byte("meta")
	bucketEvents  = []byte("events")
	bucketNames   = []byte("names")
	bucketRuns    = []byte("runs")
	bucketFilters = []byte("filters")

	buckets = [][]byte{bucketMeta, bucketEvents, bucketNames, bucketRuns, bucketFilters, bucketKeys, bucketSwept}
)

// diskFormat is raised when a file that this program writes could be read wrongly by one that knows only the format before. There is no migration yet: a
// replica whose file has another format is set aside and copied anew from its peers.
const diskFormat = 5

// ErrFormat is the ErrDamaged of a file that is whole, but of a format that this program does not know.
var ErrFormat = fmt.Errorf("%w: unknown disk format", ErrDamaged)

var (
	keyFormat      = []byte("format")
	keyStore       = []byte("store")
	keyIncarnation = []byte("incarnation")
	keyState       = []byte("state")
	keyCatalog     = []byte("catalog")
)

// state is what the meta bucket says of the content:
//
//	applied (8) · term (8) · position (8) · streams (8) · kinds (8) · keys (8) · trimmed (8) · CRC32C of these (4)
type state struct {
	applied, term uint64
	position      uint64 // of the last event
	streams       uint64 // how many there are; also the last stream number
	kinds         uint64 // the highest kind of command that was in an entry
	keys          uint64 // how many there are, see keys.go
	trimmed       uint64 // how many streams have a state beside their events, see stream.go; 0: nothing is hidden anywhere
}

const stateSize = 7*8 + 4

func (s *state) read(tx *bolt.Tx) error {
	b := tx.Bucket(bucketMeta).Get(keyState)
	body, err := unseal(keyState, b)
	if err != nil || len(b) != stateSize {
		return fmt.Errorf("%w: meta: the state has %d bytes: %w", ErrDamaged, len(b), err)
	}
	s.applied, s.term = binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	s.position, s.streams = binary.BigEndian.Uint64(body[16:]), binary.BigEndian.Uint64(body[24:])
	s.kinds, s.keys = binary.BigEndian.Uint64(body[32:]), binary.BigEndian.Uint64(body[40:])
	s.trimmed = binary.BigEndian.Uint64(body[48:])
	return nil
}

func (s *state) write(tx *bolt.Tx) error {
	b := make([]byte, 0, stateSize)
	for _, v := range []uint64{s.applied, s.term, s.position, s.streams, s.kinds, s.keys, s.trimmed} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return tx.Bucket(bucketMeta).Put(keyState, seal(keyState, b))
}

// seal appends a checksum over key and value.
func seal(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value))
}

// unseal returns the value that was sealed under the key; it shares b's memory.
func unseal(key, b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %q has %d bytes", ErrDamaged, key, len(b))
	}
	body, want := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body); got != want {
		return nil, fmt.Errorf("%w: %q: checksum wanted %08x, found %08x", ErrDamaged, key, want, got)
	}
	return body, nil
}

// create lays out a new file.
func create(tx *bolt.Tx, store, incarnation uint64) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	for _, kv := range []struct {
		key   []byte
		value uint64
	}{{keyFormat, diskFormat}, {keyStore, store}, {keyIncarnation, incarnation}} {
		if err := meta.Put(kv.key, u64(kv.value)); err != nil {
			return err
		}
	}
	if err := (&catalog{}).write(tx); err != nil {
		return err
	}
	return (&state{}).write(tx)
}

// check refuses a file that is not this store's, or of another format.
func check(tx *bolt.Tx, store, incarnation uint64) error {
	meta := tx.Bucket(bucketMeta)
	if got := parseU64(meta.Get(keyFormat)); got != diskFormat {
		return fmt.Errorf("%w: the file has format %d, this program reads and writes format %d only; move the file away, and the replica is copied anew", ErrFormat, got, diskFormat)
	}
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %s is missing", ErrDamaged, name)
		}
	}
	for _, c := range []struct {
		key  []byte
		want uint64
	}{{keyStore, store}, {keyIncarnation, incarnation}} {
		if got := meta.Get(c.key); len(got) != 8 || parseU64(got) != c.want {
			return fmt.Errorf("%w: %s wanted %d, found %d", ErrDamaged, c.key, c.want, parseU64(got))
		}
	}
	return nil
}
