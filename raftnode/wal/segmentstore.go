package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/hashicorp/raft"
)

// segmentStore is one group of a [SegmentLog].
type segmentStore struct {
	handle
	log   *SegmentLog
	group *group
}

var _ Store = (*segmentStore)(nil)

// FirstIndex implements raft.LogStore; 0 if there are no entries.
func (s *segmentStore) FirstIndex() (uint64, error) {
	if err := s.acquire(); err != nil {
		return 0, err
	}
	defer s.release()
	first, _ := s.group.bounds()
	return first, nil
}

// LastIndex implements raft.LogStore; 0 if there are no entries.
func (s *segmentStore) LastIndex() (uint64, error) {
	if err := s.acquire(); err != nil {
		return 0, err
	}
	defer s.release()
	_, last := s.group.bounds()
	return last, nil
}

// GetLog implements raft.LogStore.
func (s *segmentStore) GetLog(index uint64, out *raft.Log) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	err := s.group.get(index, out)
	if errors.Is(err, raft.ErrLogNotFound) {
		return raft.ErrLogNotFound // raft compares it with ==
	}
	return s.wrap(err)
}

// StoreLog implements raft.LogStore.
func (s *segmentStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Index 0 is refused: it means "none".
func (s *segmentStore) StoreLogs(logs []*raft.Log) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if len(logs) == 0 {
		return nil
	}
	r, err := s.request(logs)
	if err == nil {
		err = s.log.do(r)
	}
	return s.wrap(err)
}

// Begin implements [Store].
func (s *segmentStore) Begin(logs []*raft.Log) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if len(logs) == 0 {
		return nil
	}
	r, err := s.request(logs)
	if err == nil {
		err = s.group.await(context.Background(), logs[0].Index-1)
	}
	if err == nil {
		err = s.group.begin(logs)
	}
	if err != nil {
		return s.wrap(err)
	}
	r.begun = true
	if err = s.log.enqueue(r); err != nil {
		s.group.landed(err)
	}
	return s.wrap(err)
}

// Pending implements [Store].
func (s *segmentStore) Pending() uint64 { return s.group.pending.first.Load() }

// AwaitDurable implements [Store].
func (s *segmentStore) AwaitDurable(ctx context.Context, index uint64) error {
	return s.wrap(s.group.await(ctx, index))
}

// Close implements [Store].
func (s *segmentStore) Close() error {
	err := s.handle.Close()
	s.group.await(context.Background(), math.MaxUint64) // a failure has been told to the owner
	return err
}

// request encodes entries.
func (s *segmentStore) request(logs []*raft.Log) (*segmentRequest, error) {
	size := 0
	for _, l := range logs {
		size += itemHead + 12 + sealSize + recordHeader + len(l.Data) + len(l.Extensions)
	}
	r := &segmentRequest{group: s.group, data: make([]byte, 0, size), items: make([]item, len(logs))}
	for i, l := range logs {
		if l.Index == 0 {
			return nil, fmt.Errorf("store entry %d of %d: index 0 is not an index", i, len(logs))
		}
		var err error
		if r.data, r.items[i], err = appendEntryItem(r.data, s.id, l); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// DeleteRange implements raft.LogStore; lo and hi are inclusive. A range that holds nothing is not an error.
func (s *segmentStore) DeleteRange(lo, hi uint64) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	first, last := s.group.bounds()
	if first == 0 || lo > hi || hi < first || lo > last {
		return nil
	}
	data, it := appendDeleteItem(nil, s.id, lo, hi)
	return s.wrap(s.log.do(&segmentRequest{group: s.group, data: data, items: []item{it}}))
}

// Set implements raft.StableStore. The key has 1 to 1024 bytes.
func (s *segmentStore) Set(key, val []byte) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if err := s.checkStable(key, val); err != nil {
		return err
	}
	data, it := appendStableItem(nil, s.id, string(key), encodeValue(s.id, key, val))
	return s.wrap(s.log.do(&segmentRequest{group: s.group, data: data, items: []item{it}}))
}

// Get implements raft.StableStore: [ErrKeyNotFound] for a missing key.
func (s *segmentStore) Get(key []byte) ([]byte, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.release()
	v, err := s.group.value(key)
	if err == ErrKeyNotFound {
		return nil, err // raft compares its text
	}
	return v, s.wrap(err)
}

// SetUint64 implements raft.StableStore.
func (s *segmentStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore: 0 for a missing key, an error for a value that Set wrote and that is not 8 bytes long.
func (s *segmentStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	return s.uint64Of(key, v, err)
}
