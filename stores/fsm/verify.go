package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Hash returns a digest of the logical state: the entry it is at, every event and every stream's name. It does not depend on what was flushed when, nor
// on how the file is laid out. Replicas that applied the same entries have the same.
func (f *FSM) Hash() ([]byte, error) {
	h := sha256.New()
	err := f.view(func(v *view) error {
		for _, n := range []uint64{f.cfg.Store, f.cfg.Incarnation, v.st.applied, v.st.term, v.st.position, v.st.streams, v.st.kinds, v.st.keys, v.st.trimmed} {
			h.Write(u64(n))
		}
		see := v.sight(0, v.names())
		err := v.each(1, func(position uint64, value []byte) (bool, error) {
			gone, err := see.hidesAt(position, value)
			if gone && err == nil { // whether it is scavenged yet is each replica's affair
				value, err = appendStub(nil, position, value)
			}
			write(h, value)
			return true, err
		})
		for number := uint64(1); number <= v.st.streams && err == nil; number++ {
			var name string
			name, err = v.name(number)
			write(h, []byte(name))
		}
		if err == nil {
			err = v.hashKeys(h)
		}
		return err
	})
	return h.Sum(nil), err
}

func write(h hash.Hash, b []byte) {
	h.Write(u64(uint64(len(b))))
	h.Write(b)
}

// Verify walks the whole state and reports the first thing that contradicts another: checksums, dense positions and versions, pointers, ids, heads, the
// list of streams, types and tags, runs and their blocks. It is for tests and for operators who doubt a disk; its cost is that of reading everything.
func (f *FSM) Verify() error {
	if err := f.Flush(); err != nil {
		return err
	}
	return f.view(func(v *view) error {
		d := v.disk
		heads, err := d.verifyEvents()
		if err != nil {
			return err
		}
		if err := d.verifyStreams(heads); err != nil {
			return err
		}
		if err := v.verifyGone(heads); err != nil {
			return err
		}
		if err := d.verifyTerms(); err != nil {
			return err
		}
		if err := d.verifyKeys(); err != nil {
			return err
		}
		return d.verifyRuns(heads)
	})
}

// verifyEvents checks events, and that ids lead to them. It returns the heads of all streams, by number from 1.
func (d *disk) verifyEvents() ([]head, error) {
	heads := make([]head, 1)
	position := uint64(0)
	err := d.events.ForEach(func(k, value []byte) error {
		position++
		if parseU64(k) != position {
			return fmt.Errorf("%w: events: wanted position %d, found %d", ErrDamaged, position, parseU64(k))
		}
		rec, front, err := decodeWhole(position, value)
		if err != nil {
			return err
		}
		if rec.stream == uint64(len(heads)) {
			heads = append(heads, head{number: rec.stream})
		}
		if rec.stream == 0 || rec.stream > uint64(len(heads)) {
			return fmt.Errorf("%w: event %d: stream number %d, and there are %d so far", ErrDamaged, position, rec.stream, len(heads)-1)
		}
		h := &heads[rec.stream]
		if rec.version != h.count {
			return fmt.Errorf("%w: event %d: wanted version %d, found %d", ErrDamaged, position, h.count, rec.version)
		}
		if n := pointers(rec.version); !slices.Equal(front.back[:n], h.path[:n]) {
			return fmt.Errorf("%w: event %d: wanted pointers to %d, found %d", ErrDamaged, position, h.path[:n], front.back[:n])
		}
		h.push(position)
		found := 0
		err = d.candidates(hash64(rec.event.ID), func(p uint64) (bool, error) {
			if p == position {
				found++
			}
			return true, nil
		})
		if err == nil && found != 1 {
			err = fmt.Errorf("%w: ids: event %d is found %d times by its id", ErrDamaged, position, found)
		}
		return err
	})
	if err == nil && (position != d.st.position || uint64(len(heads)) != d.st.streams+1) {
		err = fmt.Errorf("%w: wanted %d events in %d streams, found %d in %d", ErrDamaged, d.st.position, d.st.streams, position, len(heads)-1)
	}
	return heads, err
}

// verifyStreams checks that names lead to heads as the events make them, and that all are listed.
func (d *disk) verifyStreams(heads []head) error {
	for _, want := range heads[1:] {
		name, err := d.name(want.number)
		if err != nil {
			return err
		}
		got, err := d.head(name)
		if err != nil {
			return err
		}
		if got.number != want.number || got.count != want.count || !slices.Equal(got.path, want.path) {
			return fmt.Errorf("%w: head of stream %q: wanted %+v, found %+v", ErrDamaged, name, want, got)
		}
	}
	if n := d.names.Stats().KeyN; n != len(heads)-1 {
		return fmt.Errorf("%w: names: wanted %d, found %d", ErrDamaged, len(heads)-1, n)
	}
	listed := 0
	l, err := d.list("")
	if err != nil {
		return err
	}
	for it := l.first(); it != nil; it = l.first() {
		listed++
		number, _ := binary.Uvarint(it.value)
		if name, err := d.name(number); err != nil || name != string(it.key) {
			return fmt.Errorf("%w: list: %q has number %d, which is %q: %w", ErrDamaged, it.key, number, name, err)
		}
		if err := it.next(); err != nil {
			return err
		}
	}
	if listed != len(heads)-1 {
		return fmt.Errorf("%w: list: wanted %d streams, found %d", ErrDamaged, len(heads)-1, listed)
	}
	return nil
}

// verifyRuns checks that runs hold what the catalog says and nothing that leads nowhere.
func (d *disk) verifyRuns(heads []head) error {
	known := make(map[uint64]bool)
	var ids uint64
	for tree := range d.order {
		for _, r := range d.order[tree] {
			known[r.id] = true
			var entries uint64
			it, err := d.iterate(r, nil)
			for ; err == nil && it.ok; err = it.next() {
				entries++
				if tree != treeHeads {
					continue
				}
				number := binary.BigEndian.Uint64(it.key[8:])
				h, err := decodeHead(number, it.value)
				if err != nil {
					return err
				}
				if number == 0 || number >= uint64(len(heads)) || h.count > heads[number].count {
					return fmt.Errorf("%w: run %d: head of stream number %d with %d events", ErrDamaged, r.id, number, h.count)
				}
			}
			if err != nil {
				return err
			}
			if entries != r.entries {
				return fmt.Errorf("%w: run %d: wanted %d entries, found %d", ErrDamaged, r.id, r.entries, entries)
			}
			if tree == treeIDs {
				ids += entries
			}
		}
	}
	if ids != d.st.position {
		return fmt.Errorf("%w: ids: wanted %d, found %d", ErrDamaged, d.st.position, ids)
	}
	for _, j := range d.cat.jobs {
		known[j.out.id] = true
	}
	for _, id := range d.cat.drops {
		known[id] = true
	}
	for _, b := range []*bolt.Bucket{d.runs, d.filters} {
		err := b.ForEach(func(k, _ []byte) error {
			if len(k) < 8 || !known[parseU64(bytes.Clone(k[:8]))] {
				return fmt.Errorf("%w: %x belongs to no run", ErrDamaged, k)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
