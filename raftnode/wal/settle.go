package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// settleBytes is how much one transaction of the bbolt file takes over.
const settleBytes = 4 << 20

// settle moves what is still needed of full segments into the bbolt file, the oldest first, and removes them.
//
// We may die at any step. What is in the segments is replayed over the bbolt file in order, and replaying says everything again that a segment said: a record that
// was moved already is found in its segment first; what the bbolt file has too much was deleted by a record in the same or a later segment, which is replayed as
// well. A segment goes after the bbolt file says, synced, that it is settled.
func (l *SegmentLog) settle() {
	defer l.settler.Done()
	for {
		l.fullMu.Lock()
		for len(l.full) <= l.restingLocked() && !l.stop && (l.spare == nil || l.busyLocked()) {
			l.drained.Wait()
		}
		if l.stop {
			l.fullMu.Unlock()
			return
		}
		if len(l.full) <= l.restingLocked() { // it is calm, and nothing needs a spare soon
			spare := l.spare
			l.spare = nil
			l.fullMu.Unlock()
			if err := errors.Join(spare.file.Close(), l.dir.Remove(spare.name)); err != nil {
				l.fail(fmt.Errorf("remove %s: %w", spare.name, err))
				return
			}
			continue
		}
		s := l.full[0]
		l.fullMu.Unlock()
		if err := l.settleOne(s); err != nil {
			if !errors.Is(err, errLogClosed) {
				l.fail(fmt.Errorf("settle %s: %w", s.name, err))
			}
			return
		}
		l.fullMu.Lock()
		l.full = l.full[1:]
		l.fullMu.Unlock()
		l.drained.Broadcast()
	}
}

// restingLocked returns how many full segments are left alone for now.
func (l *SegmentLog) restingLocked() int {
	if l.busyLocked() && (len(l.full) == 0 || len(l.full[0].groups) <= fewGroups) {
		return l.cfg.Resting
	}
	return min(restingCalm, l.cfg.Resting)
}

// busyLocked reports whether a segment has become full a short while ago.
func (l *SegmentLog) busyLocked() bool { return time.Since(l.filling) < calmAfter }

// move is what has to be done for one group.
type move struct {
	group   *group
	drop    bool // everything that the bbolt file holds of it
	removes int
	dead    spans // of what the bbolt file holds
	entries []location
	stable  map[string][]byte
	size    int64
}

func (l *SegmentLog) settleOne(s *segment) error {
	var moves []*move
	for g := range s.groups {
		l.mu.Lock()
		damaged := g.damaged
		l.mu.Unlock()
		if damaged != nil { // it is set aside; adding to what is damaged helps nobody
			l.cfg.Logger.Warn("a damaged group's newest records are not kept", "group", g.id.String(), "damage", damaged)
			continue
		}
		if m := g.plan(s); m != nil {
			moves = append(moves, m)
		}
	}
	for len(moves) > 0 {
		n, size := 0, int64(0)
		for n < len(moves) && (n == 0 || size+moves[n].size <= settleBytes) {
			size += moves[n].size
			n++
		}
		chunk := moves[:n]
		moves = moves[n:]
		if l.stopping() {
			return errLogClosed
		}
		err := l.settled.w.do(&request{apply: func(b *batch) (bool, error) {
			for _, m := range chunk {
				if err := m.apply(b); err != nil {
					return false, err
				}
			}
			return false, nil
		}})
		if err != nil {
			return err
		}
		for _, m := range chunk {
			m.done(s)
			if m.drop {
				l.forget(m.group)
			}
		}
	}
	err := l.settled.w.do(&request{apply: func(b *batch) (bool, error) {
		return false, putMeta(b.tx, settledKey, binary.BigEndian.AppendUint64(nil, s.number))
	}})
	if err != nil {
		return err
	}
	return l.retire(s)
}

// retire removes a settled segment, or keeps its file for the next one: its blocks are written, so nobody has to write zeroes.
func (l *SegmentLog) retire(s *segment) error {
	l.fullMu.Lock()
	again := l.spare == nil && l.busyLocked() && s.size == l.cfg.SegmentSize
	l.fullMu.Unlock()
	if !again {
		return errors.Join(s.file.Close(), l.dir.Remove(s.name))
	}
	old := &spare{s.name + spareSuffix, s.file}
	if err := l.dir.Rename(s.name, old.name); err != nil {
		return errors.Join(err, s.file.Close())
	}
	l.fullMu.Lock()
	l.spare = old
	l.fullMu.Unlock()
	return nil
}

// forget lets go of a removed group of which neither the bbolt file nor a segment has anything left. A group that is opened or removed again meanwhile stays known; one that comes
// back later is known anew.
func (l *SegmentLog) forget(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.groups[g.id] != g || l.open[g.id] || l.busy[g.id] || g.damaged != nil {
		return
	}
	g.mu.RLock()
	left := g.removed || g.known
	g.mu.RUnlock()
	if left {
		return
	}
	delete(l.groups, g.id)
	g.settled.Close() // fails never: it only lets the group be opened again
}

func (l *SegmentLog) stopping() bool {
	l.fullMu.Lock()
	defer l.fullMu.Unlock()
	return l.stop
}

// plan says what must be done so that the group does not need the segment. What is dead now stays dead: only the settler makes entries of the bbolt file
// live.
func (g *group) plan(s *segment) *move {
	g.mu.RLock()
	defer g.mu.RUnlock()
	m := &move{group: g, drop: g.removed, removes: g.removes, stable: make(map[string][]byte)}
	if h := g.settled.getHead(); h.entries > 0 && !g.removed {
		m.dead = g.live.gaps(h.first, h.last)
	}
	for _, at := range g.recent {
		if at.seg == s {
			m.entries = append(m.entries, at)
			m.size += int64(at.size)
		}
	}
	for key, v := range g.stable {
		if v.seg == s {
			m.stable[key] = v.sealed
			m.size += int64(len(v.sealed))
		}
	}
	if !m.drop && len(m.dead) == 0 && len(m.entries) == 0 && len(m.stable) == 0 {
		return nil
	}
	return m
}

// apply does it inside of a transaction.
func (m *move) apply(b *batch) error {
	g := m.group
	if m.drop {
		if err := b.remove(g.id); err != nil {
			return err
		}
		delete(b.groups, g.id)
		g.settled.setHead(head{})
	}
	if len(m.dead) == 0 && len(m.entries) == 0 && len(m.stable) == 0 {
		return nil
	}
	gt, err := b.group(g.settled)
	if err != nil {
		return err
	}
	for _, p := range m.dead {
		for more := true; more; {
			if more, err = b.deleteSome(gt, p.lo, p.hi, deleteChunk); err != nil {
				return err
			}
		}
	}
	for _, at := range m.entries {
		record := make([]byte, at.size)
		if _, err := at.seg.file.ReadAt(record, at.at); err != nil {
			return err
		}
		// The segment's checksum was right when it was read or written; this one goes with the entry.
		if _, err := unseal(domainLog, g.id, indexKey(at.index), record); err != nil {
			return err
		}
		if err := b.put(gt, at.index, record); err != nil {
			return err
		}
	}
	for key, sealed := range m.stable {
		if err := b.putStable(gt, []byte(key), sealed); err != nil {
			return err
		}
	}
	return nil
}

// done makes what was moved known. An entry that was deleted or replaced meanwhile is not live in the bbolt file; a later settling deletes it there.
func (m *move) done(s *segment) {
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.drop && g.removes == m.removes {
		g.removed = false
	}
	if g.removes == m.removes {
		var run span // of indexes that follow one another
		flush := func() {
			if run.lo > 0 {
				g.live = g.live.add(run.lo, run.hi)
			}
		}
		moved := make(map[uint64]int64, len(m.entries))
		for _, at := range m.entries {
			moved[at.index] = at.at
		}
		kept := g.recent[:0]
		for _, at := range g.recent {
			if place, ok := moved[at.index]; !ok || at.seg != s || place != at.at {
				kept = append(kept, at)
				continue
			}
			if run.lo > 0 && at.index == run.hi+1 {
				run.hi = at.index
				continue
			}
			flush()
			run = span{at.index, at.index}
		}
		flush()
		clear(g.recent[len(kept):]) // lets the segment go
		g.recent = kept
	}
	for key := range m.stable {
		if v := g.stable[key]; v.seg == s {
			v.seg = nil
			g.stable[key] = v
		}
	}
}
