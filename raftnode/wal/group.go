package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
)

// group is what a [SegmentLog] knows of one group: where its live entries are, and its stable values. Entries are in segments, or, once their segment was
// settled, in the bbolt file.
type group struct {
	id      GroupID
	settled *boltStore // its part of the bbolt file
	damaged error      // why that could not be opened

	pending pending

	mu      sync.RWMutex // guards what follows, and pending; held for reading while an entry is read from a segment
	recent  []location   // live entries in segments, by index
	live    spans        // live entries in the bbolt file; anything else that it holds of the group is to be deleted
	stable  map[string]stableValue
	removed bool // all that the bbolt file holds of the group is to be deleted
	removes int  // how often it was removed
	known   bool // it has any record
}

// location is where an entry's sealed record lies.
type location struct {
	index uint64
	seg   *segment
	at    int64
	size  uint32
}

type stableValue struct {
	sealed []byte
	seg    *segment // nil: it is in the bbolt file
}

// pending is what [Store].Begin was given and is not on the disk yet.
type pending struct {
	first atomic.Uint64 // index of the first of logs; 0: nothing is pending
	logs  []*raft.Log   // dense, and behind everything else of the group
	over  chan struct{} // closed when it is not pending any more
	err   error         // why it never will be durable
}

// begin makes entries readable that are about to be queued; nothing may be pending.
func (g *group) begin(logs []*raft.Log) error {
	_, last := g.bounds()
	for i, l := range logs {
		if l.Index != logs[0].Index+uint64(i) || l.Index <= last {
			return fmt.Errorf("begin entry %d of %d: index %d, the first is %d, and the log ends at %d", i, len(logs), l.Index, logs[0].Index, last)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.pending
	if p.logs != nil {
		return fmt.Errorf("begin entry %d: entry %d is still pending", logs[0].Index, p.logs[0].Index)
	}
	p.logs, p.over = slices.Clone(logs), make(chan struct{})
	p.first.Store(logs[0].Index)
	return nil
}

// landed tells that what is pending is on the disk and in recent, or, with an error, that nobody knows what of it is.
func (g *group) landed(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &g.pending
	if p.err = err; err == nil {
		p.logs = nil
		p.first.Store(0)
	}
	close(p.over)
}

// await returns when no entry up to the index is pending.
func (g *group) await(ctx context.Context, index uint64) error {
	p := &g.pending
	for {
		if first := p.first.Load(); first == 0 || index < first {
			return nil
		}
		g.mu.RLock()
		over := p.over
		g.mu.RUnlock()
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.mu.RLock()
		err := p.err
		g.mu.RUnlock()
		if err != nil {
			return err
		}
	}
}

func (g *group) find(index uint64) (int, bool) {
	// The log grows at its end, and the end is what is asked for.
	if n := len(g.recent); n == 0 || index > g.recent[n-1].index {
		return n, false
	}
	return slices.BinarySearchFunc(g.recent, index, func(l location, index uint64) int {
		switch {
		case l.index < index:
			return -1
		case l.index > index:
			return 1
		}
		return 0
	})
}

// apply makes a record that is on the disk visible. base is where the payload that holds it begins in the segment.
func (g *group) apply(it *item, seg *segment, base int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	seg.groups[g] = true
	switch it.kind {
	case kindEntry:
		l := location{index: it.index, seg: seg, at: base + it.at, size: uint32(it.size)}
		if i, found := g.find(it.index); found {
			g.recent[i] = l
		} else {
			g.recent = slices.Insert(g.recent, i, l)
		}
		g.live = g.live.without(it.index)
		g.known = true
	case kindStable:
		if g.stable == nil {
			g.stable = make(map[string]stableValue)
		}
		g.stable[it.key] = stableValue{sealed: it.value, seg: seg}
		g.known = true
	case kindDelete:
		from, _ := g.find(it.lo)
		to, found := g.find(it.hi)
		if found {
			to++
		}
		if from < to {
			g.recent = slices.Delete(g.recent, from, to)
		}
		if len(g.live) > 0 {
			live, err := g.tighten(g.live.remove(it.lo, it.hi))
			if err != nil {
				return err
			}
			g.live = live
		}
	case kindRemove:
		g.recent, g.live, g.stable, g.removed, g.known = nil, nil, nil, true, false
		g.removes++
	}
	return nil
}

// without is remove of one index, for the common case that it is not there.
func (s spans) without(index uint64) spans {
	if !s.has(index) {
		return s
	}
	return s.remove(index, index)
}

// tighten moves the ends of each range to entries that exist: logs may have gaps.
func (g *group) tighten(s spans) (spans, error) {
	out := spans{}
	err := g.settled.log.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(g.id.bytes())
		if b != nil {
			b = b.Bucket(logBucket)
		}
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for _, p := range s {
			k, _ := c.Seek(indexKey(p.lo))
			if k == nil || binary.BigEndian.Uint64(k) > p.hi {
				continue
			}
			lo := binary.BigEndian.Uint64(k)
			if k, _ = c.Seek(indexKey(p.hi)); k == nil {
				k, _ = c.Last()
			} else if binary.BigEndian.Uint64(k) > p.hi {
				k, _ = c.Prev()
			}
			out = append(out, span{lo, binary.BigEndian.Uint64(k)})
		}
		return nil
	})
	return out, err
}

// bounds returns the first and the last index; 0 and 0 without entries.
func (g *group) bounds() (first, last uint64) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if n := len(g.recent); n > 0 {
		first, last = g.recent[0].index, g.recent[n-1].index
	}
	if n := len(g.live); n > 0 {
		if first == 0 || g.live[0].lo < first {
			first = g.live[0].lo
		}
		last = max(last, g.live[n-1].hi)
	}
	if n := len(g.pending.logs); n > 0 {
		if first == 0 {
			first = g.pending.logs[0].Index
		}
		last = max(last, g.pending.logs[n-1].Index)
	}
	return first, last
}

// get reads an entry: raft.ErrLogNotFound itself when there is none.
func (g *group) get(index uint64, out *raft.Log) error {
	g.mu.RLock()
	if logs := g.pending.logs; len(logs) > 0 && index >= logs[0].Index && index <= logs[len(logs)-1].Index {
		l := *logs[index-logs[0].Index]
		g.mu.RUnlock()
		l.Data, l.Extensions, l.AppendedAt = copied(l.Data), copied(l.Extensions), l.AppendedAt.Round(0).UTC()
		*out = l
		return nil
	}
	i, found := g.find(index)
	if !found {
		settled := g.live.has(index)
		g.mu.RUnlock()
		if !settled {
			return raft.ErrLogNotFound
		}
		return g.settled.get(index, out)
	}
	l := g.recent[i]
	b := make([]byte, l.size)
	_, err := l.seg.file.ReadAt(b, l.at) // under the lock: the file goes when no location names it
	g.mu.RUnlock()
	if err != nil {
		return err
	}
	return decodeEntry(g.id, index, b, out)
}

// value reads a stable value: [ErrKeyNotFound] itself when there is none.
func (g *group) value(key []byte) ([]byte, error) {
	g.mu.RLock()
	v, found := g.stable[string(key)]
	removed := g.removed
	g.mu.RUnlock()
	switch {
	case found:
		p, err := unseal(domainStable, g.id, key, v.sealed)
		if err != nil {
			return nil, err
		}
		return append([]byte{}, p...), nil
	case removed:
		return nil, ErrKeyNotFound
	}
	v2, err := g.settled.Get(key)
	if errors.Is(err, ErrKeyNotFound) {
		return nil, ErrKeyNotFound
	}
	return v2, err
}
