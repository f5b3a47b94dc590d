package wal

import "slices"

// span is a range of indexes, inclusive.
type span struct{ lo, hi uint64 }

// spans is a set of indexes as sorted ranges that do not touch.
type spans []span

func (s spans) has(index uint64) bool {
	_, found := slices.BinarySearchFunc(s, index, func(p span, index uint64) int {
		switch {
		case p.hi < index:
			return -1
		case p.lo > index:
			return 1
		}
		return 0
	})
	return found
}

// add returns the set with the range in it.
func (s spans) add(lo, hi uint64) spans {
	out := make(spans, 0, len(s)+1)
	placed := false
	for _, p := range s {
		switch {
		case p.hi+1 < lo: // before, and not touching; hi is never the greatest number
			out = append(out, p)
		case hi+1 < p.lo:
			if !placed {
				out, placed = append(out, span{lo, hi}), true
			}
			out = append(out, p)
		default:
			lo, hi = min(lo, p.lo), max(hi, p.hi)
		}
	}
	if !placed {
		out = append(out, span{lo, hi})
	}
	return out
}

// remove returns the set without the range.
func (s spans) remove(lo, hi uint64) spans {
	out := make(spans, 0, len(s)+1)
	for _, p := range s {
		if p.hi < lo || p.lo > hi {
			out = append(out, p)
			continue
		}
		if p.lo < lo {
			out = append(out, span{p.lo, lo - 1})
		}
		if p.hi > hi {
			out = append(out, span{hi + 1, p.hi})
		}
	}
	return out
}

// gaps returns what lies between lo and hi and is not in the set.
func (s spans) gaps(lo, hi uint64) spans {
	out := spans{{lo, hi}}
	for _, p := range s {
		out = out.remove(p.lo, p.hi)
	}
	return out
}
