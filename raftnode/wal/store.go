package wal

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
)

// boltStore is one group of a [BoltLog].
type boltStore struct {
	handle
	log *BoltLog

	// headMu guards head, the header as of the last commit. Only the writer
	// changes it.
	headMu sync.Mutex
	head   head
}

var _ Store = (*boltStore)(nil)

func (s *boltStore) setHead(h head) {
	s.headMu.Lock()
	s.head = h
	s.headMu.Unlock()
}

func (s *boltStore) getHead() head {
	s.headMu.Lock()
	defer s.headMu.Unlock()
	return s.head
}

// FirstIndex implements raft.LogStore; 0 if there are no entries.
func (s *boltStore) FirstIndex() (uint64, error) {
	if err := s.acquire(); err != nil {
		return 0, err
	}
	defer s.release()
	return s.getHead().first, nil
}

// LastIndex implements raft.LogStore; 0 if there are no entries.
func (s *boltStore) LastIndex() (uint64, error) {
	if err := s.acquire(); err != nil {
		return 0, err
	}
	defer s.release()
	return s.getHead().last, nil
}

// GetLog implements raft.LogStore.
func (s *boltStore) GetLog(index uint64, out *raft.Log) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	return s.get(index, out)
}

// get is GetLog without the question whether the store is open.
func (s *boltStore) get(index uint64, out *raft.Log) error {
	if !s.getHead().has(index) {
		return raft.ErrLogNotFound
	}
	err := s.log.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(s.id.bytes())
		if b == nil {
			return &CorruptError{Group: s.id, Index: index, Item: "bucket", Detail: "wanted one, found none"}
		}
		if log := b.Bucket(logBucket); log != nil {
			if v := log.Get(indexKey(index)); v != nil {
				return decodeEntry(s.id, index, v, out)
			}
		}
		// Not there: deleted since we looked at the header, in a gap, or lost.
		h, err := decodeHead(s.id, b.Get(headKey))
		if err != nil {
			return err
		}
		if h.has(index) && h.dense() {
			return &CorruptError{Group: s.id, Index: index, Item: itemName(domainLog, indexKey(index)), Detail: "wanted a record, found none"}
		}
		return raft.ErrLogNotFound
	})
	if err == raft.ErrLogNotFound {
		return err // raft compares it with ==
	}
	return s.wrap(err)
}

// StoreLog implements raft.LogStore.
func (s *boltStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Index 0 is refused: it means "none".
func (s *boltStore) StoreLogs(logs []*raft.Log) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if len(logs) == 0 {
		return nil
	}
	records, size := make([][]byte, len(logs)), 0
	indexes := make([]uint64, len(logs))
	for i, l := range logs {
		if l.Index == 0 {
			return s.wrap(fmt.Errorf("store entry %d of %d: index 0 is not an index", i, len(logs)))
		}
		r, err := encodeEntry(s.id, l)
		if err != nil {
			return s.wrap(err)
		}
		records[i], indexes[i] = r, l.Index
		size += len(r)
	}
	return s.wrap(s.log.w.do(&request{size: size, apply: func(b *batch) (bool, error) {
		g, err := b.group(s)
		if err != nil {
			return false, err
		}
		for i, r := range records {
			if err := b.put(g, indexes[i], r); err != nil {
				return false, err
			}
		}
		return false, nil
	}}))
}

// Begin implements [Store]: entries are durable at once.
func (s *boltStore) Begin(logs []*raft.Log) error { return s.StoreLogs(logs) }

// Pending implements [Store].
func (s *boltStore) Pending() uint64 { return 0 }

// AwaitDurable implements [Store].
func (s *boltStore) AwaitDurable(context.Context, uint64) error { return nil }

// DeleteRange implements raft.LogStore; lo and hi are inclusive. A range that
// holds nothing is not an error.
func (s *boltStore) DeleteRange(lo, hi uint64) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	h := s.getHead()
	if h.entries == 0 || lo > hi || hi < h.first || lo > h.last {
		return nil
	}
	return s.wrap(s.log.w.do(&request{apply: func(b *batch) (bool, error) {
		g, err := b.group(s)
		if err != nil {
			return false, err
		}
		return b.deleteSome(g, lo, hi, deleteChunk)
	}}))
}

// Set implements raft.StableStore. The key has 1 to 1024 bytes.
func (s *boltStore) Set(key, val []byte) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if err := s.checkStable(key, val); err != nil {
		return err
	}
	key = append([]byte(nil), key...)
	sealed := encodeValue(s.id, key, val)
	return s.wrap(s.log.w.do(&request{size: len(sealed), apply: func(b *batch) (bool, error) {
		g, err := b.group(s)
		if err != nil {
			return false, err
		}
		return false, b.putStable(g, key, sealed)
	}}))
}

// Get implements raft.StableStore: [ErrKeyNotFound] for a missing key.
func (s *boltStore) Get(key []byte) (val []byte, err error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.release()
	err = s.log.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(s.id.bytes())
		if b != nil {
			b = b.Bucket(stableBucket)
		}
		if b == nil {
			if s.getHead().stable > 0 {
				return &CorruptError{Group: s.id, Item: "stable values", Detail: "wanted their bucket, found none"}
			}
			return ErrKeyNotFound
		}
		v := b.Get(key)
		if v == nil {
			return ErrKeyNotFound
		}
		p, err := unseal(domainStable, s.id, key, v)
		if err != nil {
			return err
		}
		val = append([]byte{}, p...)
		return nil
	})
	if err == ErrKeyNotFound {
		return nil, err // raft compares its text
	}
	return val, s.wrap(err)
}

// SetUint64 implements raft.StableStore.
func (s *boltStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore: 0 for a missing key, an error for a
// value that Set wrote and that is not 8 bytes long.
func (s *boltStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	return s.uint64Of(key, v, err)
}
