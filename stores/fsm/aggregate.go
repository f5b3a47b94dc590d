package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/quorate/quorate/api"
)

// Snapshots of aggregates: what a client made of the events of a stream up to a version, kept so that it need not read them all again. The command:
//
//	snapshot  op (1) · stream (text) · version (uvarint) · time (varint, Unix µs) · keep (uvarint) · flags (1) · type (text) · metadata (bytes) · data (bytes)
//
// and the value under its key: time · flags · type · metadata · data, encoded the same.
const keySnapshot = 'n'

// What a SnapshotChange does.
const (
	SnapshotPut      = 1
	SnapshotDrop     = 2 // the one of Version
	SnapshotDropUpTo = 3 // those of Version and below
	SnapshotDropAll  = 4
)

// SnapshotChange puts or drops snapshots of a stream.
type SnapshotChange struct {
	Op       byte
	Stream   string
	Version  uint64
	Time     int64 // Unix microseconds at the leader
	Keep     int   // of SnapshotPut: so many of the newest stay; 0: all, api.MaxSnapshots at most
	Type     string
	Data     []byte
	JSON     bool   // Data is JSON and comes back as such
	Metadata []byte // a JSON object, or nil
}

// SnapshotResult is what a SnapshotChange answers.
type SnapshotResult struct {
	Replaced bool
	Dropped  int
}

// Kind implements Change.
func (c *SnapshotChange) Kind() int { return kindSnapshot }

func (c *SnapshotChange) encode(b []byte) []byte {
	b = append(b, c.Op)
	b = appendBytes(b, c.Stream)
	b = binary.AppendUvarint(b, c.Version)
	b = binary.AppendVarint(b, c.Time)
	b = binary.AppendUvarint(b, uint64(c.Keep))
	return c.encodeBody(b)
}

func (c *SnapshotChange) encodeBody(b []byte) []byte {
	var flags byte
	if c.JSON {
		flags = flagJSON
	}
	b = append(b, flags)
	b = appendBytes(b, c.Type)
	b = appendBytes(b, c.Metadata)
	return appendBytes(b, c.Data)
}

func decodeSnapshotChange(r *reader) *SnapshotChange {
	c := &SnapshotChange{Op: r.byte(), Stream: r.text(), Version: r.uvarint(), Time: r.varint()}
	keep := r.uvarint()
	if c.Op < SnapshotPut || c.Op > SnapshotDropAll || keep > api.MaxSnapshots {
		r.fail()
	}
	c.Keep = int(keep)
	c.takeBody(r)
	return c
}

func (c *SnapshotChange) takeBody(r *reader) {
	flags := r.byte()
	if flags&^flagJSON != 0 {
		r.fail()
	}
	c.JSON, c.Type = flags&flagJSON != 0, r.text()
	if m := r.bytes(); len(m) > 0 {
		c.Metadata = m
	}
	c.Data = r.bytes()
}

func snapshotPrefix(stream string) string { return string(rune(keySnapshot)) + stream + "\x00" }

func snapshotKey(stream string, version uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(snapshotPrefix(stream)), ^version))
}

func (c *SnapshotChange) apply(a *applier) (any, *api.Error, error) {
	if err := api.CheckStreamName(c.Stream); err != nil {
		return nil, err, nil
	}
	if c.Op != SnapshotPut {
		n, err := c.drop(a)
		return SnapshotResult{Dropped: n}, nil, err
	}
	h, err := a.head(c.Stream)
	if err != nil {
		return nil, nil, err
	}
	s, err := a.streamState(c.Stream)
	if err != nil {
		return nil, nil, err
	}
	if s.tombstoned {
		return nil, tombstoned(c.Stream), nil
	}
	if h.count == 0 {
		return nil, api.ErrStreamNotFound.With("stream %s has no events; a snapshot is the state after one of them", c.Stream), nil
	}
	if refused := missing(c.Stream, &s, h.count); refused != nil {
		return nil, refused, nil
	}
	if last := int64(h.count) - 1; c.Version >= h.count {
		e := api.ErrWrongVersion.With("the snapshot is of version %d and stream %s is at version %d; append the events first", c.Version, c.Stream, last)
		e.ActualVersion = &last
		return nil, e, nil
	}
	key := snapshotKey(c.Stream, c.Version)
	old, err := a.key(key)
	if err != nil {
		return nil, nil, err
	}
	value := binary.AppendVarint(make([]byte, 0, len(c.Data)+len(c.Metadata)+len(c.Type)+32), c.Time)
	if err := a.putKey(key, c.encodeBody(value)); err != nil {
		return nil, nil, err
	}
	keep := c.Keep
	if keep == 0 {
		keep = api.MaxSnapshots
	}
	dropped, err := a.dropKeys(snapshotPrefix(c.Stream), "", keep)
	return SnapshotResult{Replaced: old != nil, Dropped: dropped}, nil, err
}

func (c *SnapshotChange) drop(a *applier) (int, error) {
	switch c.Op {
	case SnapshotDrop:
		was, err := a.dropKey(snapshotKey(c.Stream, c.Version))
		if was {
			return 1, err
		}
		return 0, err
	case SnapshotDropUpTo: // the keys of lower versions come later
		return a.dropKeys(snapshotPrefix(c.Stream), snapshotKey(c.Stream, c.Version), 0)
	}
	return a.dropKeys(snapshotPrefix(c.Stream), "", 0)
}

// dropKeys drops the keys that begin with prefix and are not below from, but for the first keep of them.
func (a *applier) dropKeys(prefix, from string, keep int) (dropped int, err error) {
	var keys []string
	err = a.scanKeys(prefix, from, func(key string, _ []byte) (bool, error) {
		if keep > 0 {
			keep--
		} else {
			keys = append(keys, key)
		}
		return true, nil
	})
	for _, key := range keys {
		if err != nil {
			return dropped, err
		}
		if _, err = a.dropKey(key); err == nil {
			dropped++
		}
	}
	return dropped, err
}

// AggregateSnapshot returns the newest snapshot of the stream that is not above the version; nil: there is none. applied is the entry the state is at.
func (f *FSM) AggregateSnapshot(stream string, version uint64) (s *api.Snapshot, applied uint64, err error) {
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		applied = v.st.applied
		s, err = v.snapshot(stream, version)
		return err
	})
	return s, applied, err
}

func (v *view) snapshot(stream string, version uint64) (s *api.Snapshot, err error) {
	err = v.scan(snapshotPrefix(stream), snapshotKey(stream, version), func(key string, sealed []byte) (bool, error) {
		s, err = decodeSnapshot(key, sealed)
		return false, err
	})
	return s, err
}

// decodeSnapshot copies what it returns.
func decodeSnapshot(key string, sealed []byte) (*api.Snapshot, error) {
	value, err := unseal([]byte(key), sealed)
	if err != nil {
		return nil, fmt.Errorf("a snapshot: %w", err)
	}
	r := reader{rest: bytes.Clone(value)}
	at := r.varint()
	var c SnapshotChange
	c.takeBody(&r)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: a snapshot: %w", ErrDamaged, err)
	}
	s := &api.Snapshot{Version: ^binary.BigEndian.Uint64([]byte(key[len(key)-8:])), Type: c.Type, Time: time.UnixMicro(at).UTC(), Metadata: c.Metadata}
	if c.JSON {
		s.Data = c.Data
	} else {
		s.DataBase64 = c.Data
	}
	return s, nil
}

// AggregateSnapshots lists the stream's snapshots, newest first.
func (f *FSM) AggregateSnapshots(stream string) (list []api.SnapshotInfo, applied uint64, err error) {
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		applied = v.st.applied
		return v.scan(snapshotPrefix(stream), "", func(key string, sealed []byte) (bool, error) {
			s, err := decodeSnapshot(key, sealed)
			if err == nil {
				list = append(list, api.SnapshotInfo{Version: s.Version, Type: s.Type, Time: s.Time, Bytes: len(s.Body())})
			}
			return true, err
		})
	})
	return list, applied, err
}
