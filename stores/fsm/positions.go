package fsm

import (
	"encoding/binary"
	"slices"
)

// positions is a set of positions, ascending. In an entry and under a key it is a count and the distance of each from the one before (uvarint each).
type positions []uint64

func (p positions) has(position uint64) bool {
	_, found := slices.BinarySearch(p, position)
	return found
}

// with returns the union with others, which are ascending too.
func (p positions) with(others positions) positions {
	if len(others) == 0 {
		return p
	}
	all := slices.Concat(p, others)
	slices.Sort(all)
	return slices.Compact(all)
}

// without returns what is not in others.
func (p positions) without(others positions) positions {
	return slices.DeleteFunc(slices.Clone(p), others.has)
}

// above returns those that are above the floor.
func (p positions) above(floor uint64) positions {
	i, found := slices.BinarySearch(p, floor)
	if found {
		i++
	}
	return p[i:]
}

func (p positions) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	before := uint64(0)
	for _, position := range p {
		b = binary.AppendUvarint(b, position-before)
		before = position
	}
	return b
}

// positions reads a set. One that is not ascending is refused.
func (r *reader) positions() positions {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	p := make(positions, n)
	before := uint64(0)
	for i := range p {
		before = r.after(before)
		p[i] = before
	}
	return p
}

// after reads a distance and returns the position that lies so far behind before.
func (r *reader) after(before uint64) uint64 {
	d := r.uvarint()
	if d == 0 || before+d < before {
		r.fail()
	}
	return before + d
}
