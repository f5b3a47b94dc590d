package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// disk is the flushed part of the state in one read transaction. It belongs to one goroutine.
type disk struct {
	tx                           *bolt.Tx
	events, names, runs, filters *bolt.Bucket
	keys                         *bolt.Bucket
	st                           state
	cat                          catalog
	order                        [trees][]*run // newest first
}

func openDisk(tx *bolt.Tx) (*disk, error) {
	d := &disk{
		tx: tx, events: tx.Bucket(bucketEvents), names: tx.Bucket(bucketNames), runs: tx.Bucket(bucketRuns), filters: tx.Bucket(bucketFilters),
		keys: tx.Bucket(bucketKeys),
	}
	var err error
	if err = d.st.read(tx); err != nil {
		return nil, err
	}
	if d.cat, err = readCatalog(tx); err != nil {
		return nil, err
	}
	for tree := range d.order {
		d.order[tree] = d.cat.newest(uint8(tree))
	}
	return d, nil
}

func hash64(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(sum[:])
}

// scan calls fn for the entries of a run whose keys begin with the hash, in key order, until fn returns false.
func (d *disk) scan(r *run, hash uint64, fn func(key, value []byte) (more bool, err error)) error {
	if ok, err := d.mayHold(r, hash); !ok || err != nil {
		return err
	}
	var prefix [8]byte
	binary.BigEndian.PutUint64(prefix[:], hash)
	it, err := d.iterate(r, prefix[:])
	if err != nil {
		return err
	}
	for it.ok && bytes.HasPrefix(it.key, prefix[:]) {
		more, err := fn(it.key, it.value)
		if err != nil || !more {
			return err
		}
		if err := it.next(); err != nil {
			return err
		}
	}
	return nil
}

// iterator walks a run's entries in key order, either way.
type iterator struct {
	run        *run
	cursor     *bolt.Cursor
	block      block
	fence      []byte // the block's
	i          int
	ok         bool // there is an entry
	key, value []byte
}

// iterate begins at the first entry whose key is not below from. When there is none, prev leads to the run's last entry.
func (d *disk) iterate(r *run, from []byte) (*iterator, error) {
	it := &iterator{run: r, cursor: d.runs.Cursor()}
	want := append(u64(r.id), from...)
	k, v := it.cursor.Seek(want)
	if !bytes.Equal(k, want) { // the block that holds from begins before it
		if k == nil {
			k, v = it.cursor.Last()
		} else {
			k, v = it.cursor.Prev()
		}
	}
	if err := it.open(k, v); err != nil {
		return nil, err
	}
	if !it.ok {
		return nil, fmt.Errorf("%w: run %d has no block for the key %x", ErrDamaged, r.id, from)
	}
	if it.block.end != nil && bytes.Compare(from, it.block.end) >= 0 {
		return nil, fmt.Errorf("%w: run %d: the block for the key %x ends before it", ErrDamaged, r.id, from)
	}
	it.i = it.block.find(from)
	return it, it.settle()
}

func (it *iterator) open(k, v []byte) (err error) {
	it.ok = len(k) >= 8 && binary.BigEndian.Uint64(k) == it.run.id
	if it.ok {
		it.block, err = openBlock(k, v)
		it.fence, it.i = k[8:], 0
	}
	return err
}

// settle makes key and value the entry at i, or the first of the next block.
func (it *iterator) settle() error {
	for it.i >= it.block.n {
		end := it.block.end
		if end == nil {
			it.ok = false
			return nil
		}
		k, v := it.cursor.Next()
		if err := it.open(k, v); err != nil {
			return err
		}
		if !it.ok || !bytes.Equal(k[8:], end) {
			return fmt.Errorf("%w: run %d: the block that begins with %x is missing", ErrDamaged, it.run.id, end)
		}
	}
	it.key, it.value = it.block.entry(it.i)
	return nil
}

func (it *iterator) next() error {
	it.i++
	return it.settle()
}

// prev goes one entry back.
func (it *iterator) prev() error {
	it.i--
	for it.i < 0 {
		fence := it.fence
		if len(fence) == 0 {
			it.ok = false
			return nil
		}
		k, v := it.cursor.Prev()
		if err := it.open(k, v); err != nil {
			return err
		}
		if !it.ok || !bytes.Equal(it.block.end, fence) {
			return fmt.Errorf("%w: run %d: the block before %x is missing", ErrDamaged, it.run.id, fence)
		}
		it.i = it.block.n - 1
	}
	it.ok = true
	it.key, it.value = it.block.entry(it.i)
	return nil
}

// record returns the record of the event at the position.
func (d *disk) record(position uint64) ([]byte, error) {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], position)
	if v := d.events.Get(key[:]); v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("%w: events: position %d is missing", ErrDamaged, position)
}

// name returns the name of a stream number.
func (d *disk) name(number uint64) (string, error) {
	name, err := d.rawName(number)
	return string(name), err
}

// rawName returns the name in the transaction's memory.
func (d *disk) rawName(number uint64) ([]byte, error) {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], number)
	v := d.names.Get(key[:])
	if v == nil {
		return nil, fmt.Errorf("%w: names: stream number %d is missing", ErrDamaged, number)
	}
	name, err := unseal(key[:], v)
	if err != nil {
		return nil, fmt.Errorf("names: stream number %d: %w", number, err)
	}
	return name, nil
}

// head returns the head of the stream with the name; its count is 0 when there is none.
func (d *disk) head(name string) (h head, err error) {
	hash := hash64(name)
	for _, r := range d.order[treeHeads] {
		err := d.scan(r, hash, func(key, value []byte) (bool, error) {
			number := binary.BigEndian.Uint64(key[8:])
			is, err := d.rawName(number)
			if err != nil || string(is) != name {
				return true, err
			}
			h, err = decodeHead(number, value)
			return false, err
		})
		if err != nil || h.count > 0 {
			return h, err
		}
	}
	return h, nil
}

// candidates calls fn with the positions of events whose ids have the hash, until it returns false.
func (d *disk) candidates(hash uint64, fn func(position uint64) (more bool, err error)) error {
	for _, r := range d.order[treeIDs] {
		more := true
		err := d.scan(r, hash, func(key, _ []byte) (bool, error) {
			var err error
			more, err = fn(parsePosition(key[8:]))
			return more, err
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// idEntry is where an event with an id of the hash is.
type idEntry struct{ hash, position uint64 }

func (e idEntry) key() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), e.hash)
	var p [8]byte
	binary.BigEndian.PutUint64(p[:], e.position)
	return append(b, bytes.TrimLeft(p[:], "\x00")...)
}

func parsePosition(b []byte) (p uint64) {
	for _, c := range b {
		p = p<<8 | uint64(c)
	}
	return p
}
