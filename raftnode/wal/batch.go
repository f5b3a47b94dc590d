package wal

import (
	"encoding/binary"
	"fmt"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
)

// deleteChunk is how many entries one commit deletes for one DeleteRange. At
// some 4,000 a commit stays in the milliseconds.
const deleteChunk = 4096

// The file:
//
//	meta/            format, node, groups (their number), each sealed
//	<16-byte id>/    a bucket a group
//	    head         what must be there
//	    log/         index as 8 bytes → entry
//	    stable/      key → value
var (
	metaBucket   = []byte("meta")
	logBucket    = []byte("log")
	stableBucket = []byte("stable")
	formatKey    = []byte("format")
	nodeKey      = []byte("node")
	groupsKey    = []byte("groups")
)

// batch is one transaction of the writer. Headers are read when a group is
// first touched, changed in memory, and written once in finish.
type batch struct {
	tx      *bolt.Tx
	groups  map[GroupID]*groupTx
	created int // group buckets made, less those removed
	stats   Stats
}

// groupTx is a group inside of one transaction.
type groupTx struct {
	bucket, log, stable *bolt.Bucket
	head                head
	store               *boltStore // told the new head after the commit
}

// group returns the group of a store, made if it is not there yet.
func (b *batch) group(s *boltStore) (*groupTx, error) {
	if g := b.groups[s.id]; g != nil {
		return g, nil
	}
	g := &groupTx{store: s, bucket: b.tx.Bucket(s.id.bytes())}
	var err error
	if g.bucket == nil {
		if g.bucket, err = b.tx.CreateBucket(s.id.bytes()); err != nil {
			return nil, err
		}
		b.created++
	} else if g.head, err = decodeHead(s.id, g.bucket.Get(headKey)); err != nil {
		return nil, err
	}
	if g.log, err = g.bucket.CreateBucketIfNotExists(logBucket); err != nil {
		return nil, err
	}
	if g.stable, err = g.bucket.CreateBucketIfNotExists(stableBucket); err != nil {
		return nil, err
	}
	g.log.FillPercent = 0.95 // entries are appended in order
	b.groups[s.id] = g
	return g, nil
}

// finish writes the headers of all groups touched.
func (b *batch) finish() error {
	for id, g := range b.groups {
		if err := g.bucket.Put(headKey, encodeHead(id, g.head)); err != nil {
			return err
		}
	}
	if b.created == 0 {
		return nil
	}
	n, err := metaUint64(b.tx, groupsKey)
	if err != nil {
		return err
	}
	return putMeta(b.tx, groupsKey, binary.BigEndian.AppendUint64(nil, n+uint64(b.created)))
}

// publish lets readers see the new headers. Called after the commit.
func (b *batch) publish() {
	for _, g := range b.groups {
		g.store.setHead(g.head)
	}
}

// put stores a sealed entry.
func (b *batch) put(g *groupTx, index uint64, record []byte) error {
	key := indexKey(index)
	isNew := !g.head.has(index) || g.log.Get(key) == nil
	if err := g.log.Put(key, record); err != nil {
		return err
	}
	b.stats.Entries++
	b.stats.Bytes += uint64(len(record))
	if !isNew {
		return nil
	}
	h := &g.head
	if h.entries == 0 {
		h.first, h.last = index, index
	}
	h.first, h.last = min(h.first, index), max(h.last, index)
	h.entries++
	return nil
}

// putStable stores a sealed stable value.
func (b *batch) putStable(g *groupTx, key, value []byte) error {
	if g.stable.Get(key) == nil {
		g.head.stable++
	}
	b.stats.Bytes += uint64(len(value))
	return g.stable.Put(key, value)
}

// deleteSome deletes up to limit entries from lo to hi, inclusive, and reports
// whether any are left. Which end goes first is such that a log without holes
// has none after it: we may die between two calls.
func (b *batch) deleteSome(g *groupTx, lo, hi uint64, limit int) (more bool, err error) {
	lo, hi = max(lo, g.head.first), min(hi, g.head.last)
	if g.head.entries == 0 || lo > hi {
		return false, nil
	}
	var keys [][]byte
	c := g.log.Cursor()
	collect := func(k []byte) (stop bool) {
		if i := binary.BigEndian.Uint64(k); i < lo || i > hi {
			return true
		}
		if len(keys) == limit {
			more = true
			return true
		}
		keys = append(keys, append([]byte(nil), k...)) // k is only valid until the next change
		return false
	}
	if hi == g.head.last && lo > g.head.first {
		for k, _ := c.Last(); k != nil && !collect(k); k, _ = c.Prev() {
		}
	} else {
		for k, _ := c.Seek(indexKey(lo)); k != nil && !collect(k); k, _ = c.Next() {
		}
	}
	for _, k := range keys {
		if err := g.log.Delete(k); err != nil {
			return false, err
		}
	}
	b.stats.Deleted += uint64(len(keys))
	g.head.entries -= uint64(len(keys))
	g.head.first, g.head.last = bounds(g.log)
	return more, nil
}

// remove drops a group that no store has open.
func (b *batch) remove(id GroupID) error {
	if b.tx.Bucket(id.bytes()) == nil {
		return nil
	}
	b.created--
	return b.tx.DeleteBucket(id.bytes())
}

// bounds returns the lowest and the highest index of a log bucket, 0 and 0 if
// it is empty.
func bounds(log *bolt.Bucket) (first, last uint64) {
	c := log.Cursor()
	k, _ := c.First()
	if len(k) != 8 {
		return 0, 0 // and Last would not return: bbolt 1.5.0 goes round for ever among pages that this transaction has emptied
	}
	first = binary.BigEndian.Uint64(k)
	if k, _ := c.Last(); len(k) == 8 {
		last = binary.BigEndian.Uint64(k)
	}
	return first, last
}

func putMeta(tx *bolt.Tx, key, val []byte) error {
	b, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	v := append(make([]byte, sealSize, sealSize+len(val)), val...)
	return b.Put(key, seal(domainMeta, GroupID{}, key, v))
}

// meta returns a value of the meta bucket, which must exist; it is only valid
// during the transaction.
func meta(tx *bolt.Tx, key []byte) ([]byte, error) {
	return unseal(domainMeta, GroupID{}, key, tx.Bucket(metaBucket).Get(key))
}

func metaUint64(tx *bolt.Tx, key []byte) (uint64, error) {
	v, err := meta(tx, key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, &CorruptError{Item: itemName(domainMeta, key), Detail: fmt.Sprintf("wanted 8 bytes, found %d", len(v))}
	}
	return binary.BigEndian.Uint64(v), nil
}

// guard runs f and turns a panic into a [CorruptError]: bbolt panics when a
// damaged page makes no sense, and faults when it points outside of the file.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &CorruptError{Item: "file", Detail: fmt.Sprintf("bbolt failed on it: %v", p)}
		}
	}()
	return f()
}
