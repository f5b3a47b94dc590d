package fsm

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

var (
	bucketMeta    = []byte("meta")
	bucketEvents  = []byte("events")
	bucketStreams = []byte("streams")
	bucketNames   = []byte("names")
	bucketIndex   = []byte("index")
	bucketIDs     = []byte("ids")

	buckets = [][]byte{bucketMeta, bucketEvents, bucketStreams, bucketNames, bucketIndex, bucketIDs}
)

const diskFormat = 1

var (
	keyFormat      = []byte("format")
	keyStore       = []byte("store")
	keyIncarnation = []byte("incarnation")
	keyApplied     = []byte("applied")
	keyTerm        = []byte("term")
	keyPosition    = []byte("position") // of the last event
	keyStreams     = []byte("streams")  // how many there are; also the last stream number
)

// state is the part of the meta bucket that changes.
type state struct {
	applied, term     uint64
	position, streams uint64
}

func (s *state) read(tx *bolt.Tx) {
	meta := tx.Bucket(bucketMeta)
	s.applied, s.term = parseU64(meta.Get(keyApplied)), parseU64(meta.Get(keyTerm))
	s.position, s.streams = parseU64(meta.Get(keyPosition)), parseU64(meta.Get(keyStreams))
}

func (s *state) write(tx *bolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	for _, kv := range []struct {
		key   []byte
		value uint64
	}{{keyApplied, s.applied}, {keyTerm, s.term}, {keyPosition, s.position}, {keyStreams, s.streams}} {
		if err := meta.Put(kv.key, u64(kv.value)); err != nil {
			return err
		}
	}
	return nil
}

// create lays out a new file.
func create(tx *bolt.Tx, store, incarnation uint64) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	for key, v := range map[string]uint64{string(keyFormat): diskFormat, string(keyStore): store, string(keyIncarnation): incarnation} {
		if err := meta.Put([]byte(key), u64(v)); err != nil {
			return err
		}
	}
	return (&state{}).write(tx)
}

// check refuses a file that is not this store's.
func check(tx *bolt.Tx, store, incarnation uint64) error {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: bucket %s is missing", ErrDamaged, name)
		}
	}
	meta := tx.Bucket(bucketMeta)
	for _, c := range []struct {
		key  []byte
		want uint64
	}{{keyFormat, diskFormat}, {keyStore, store}, {keyIncarnation, incarnation}} {
		if got := meta.Get(c.key); len(got) != 8 || parseU64(got) != c.want {
			return fmt.Errorf("%w: %s wanted %d, found %d", ErrDamaged, c.key, c.want, parseU64(got))
		}
	}
	return nil
}
