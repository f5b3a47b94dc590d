package fsm

import (
	"fmt"
	"maps"
	"slices"
)

// postingSum is a count and a sum over postings that does not depend on their order, so that two sets of them can be held together without keeping them.
type postingSum struct{ n, sum uint64 }

func (s *postingSum) add(hash, position uint64) {
	x := (hash ^ position*0x9E3779B97F4A7C15) * 0xC2B2AE3D27D4EB4F
	s.n, s.sum = s.n+1, s.sum+(x^x>>29)
}

// verifyTerms checks that the index of types and tags holds what the events have and nothing else, and that runs lie one behind the other.
func (d *disk) verifyTerms() error {
	var want, got postingSum
	types := make(map[string]bool)
	var hashes []uint64
	stubs := make([]uint64, d.st.position/64+1) // a bit for each position: what postings lead to them can no longer be said
	stub := func(position uint64) bool { return stubs[position/64]&(1<<(position%64)) != 0 }
	some := false
	for position := uint64(1); position <= d.st.position; position++ {
		value, err := d.record(position)
		if err != nil {
			return err
		}
		rec, err := decodeRecord(position, value)
		if err != nil {
			return err
		}
		if rec.stub {
			stubs[position/64] |= 1 << (position % 64)
			some = true
			continue
		}
		types[rec.event.Type] = true
		hashes = append(hashes[:0], hashTerm(kindType, rec.event.Type))
		for _, tag := range rec.event.Tags {
			hashes = append(hashes, hashTerm(kindTag, tag))
		}
		slices.Sort(hashes)
		for _, h := range slices.Compact(hashes) {
			want.add(h, position)
		}
	}
	after := uint64(0)
	for _, r := range slices.Backward(d.order[treeTerms]) { // the oldest first
		if r.last <= after || r.last > d.st.position {
			return fmt.Errorf("%w: terms: run %d ends at position %d; the one before it ends at %d, the last event is %d", ErrDamaged, r.id, r.last, after, d.st.position)
		}
		it, err := d.iterate(r, nil)
		var positions []uint64
		for ; err == nil && it.ok; err = it.next() {
			var hash uint64
			if hash, positions, err = decodeChunk(it.key, it.value, positions); err != nil {
				return err
			}
			for i, p := range positions {
				if p <= after || p > r.last || i > 0 && p <= positions[i-1] {
					return fmt.Errorf("%w: terms: run %d is about positions %d to %d and holds %d", ErrDamaged, r.id, after+1, r.last, p)
				}
				if !stub(p) {
					got.add(hash, p)
				}
			}
			if ok, err := d.mayHold(r, hash); err != nil || !ok {
				return fmt.Errorf("%w: terms: the filter of run %d hides the hash %x: %w", ErrDamaged, r.id, hash, err)
			}
		}
		if err != nil {
			return err
		}
		after = r.last
	}
	if want != got {
		return fmt.Errorf("%w: terms: wanted %d postings (%x), found %d (%x)", ErrDamaged, want.n, want.sum, got.n, got.sum)
	}
	listed := make(map[string]bool)
	for _, r := range d.order[treeTypes] {
		it, err := d.iterate(r, nil)
		for ; err == nil && it.ok; err = it.next() {
			listed[string(it.key)] = true
		}
		if err != nil {
			return err
		}
	}
	if some { // a type may be one that only events had that are gone
		maps.DeleteFunc(listed, func(typ string, _ bool) bool { return !types[typ] })
	}
	if !maps.Equal(types, listed) {
		return fmt.Errorf("%w: types: wanted %d, found %d or others", ErrDamaged, len(types), len(listed))
	}
	return nil
}
