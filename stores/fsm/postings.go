package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sort"
	"strings"
)

// path is the positions that a search goes over, from low to high or back. Its steps are numbered from 1 to n in the order of travel, so a search has one direction.
type path struct {
	low, high uint64
	back      bool
	n         uint64 // steps; 0: there are no positions
}

func newPath(low, high uint64, back bool) path {
	p := path{low: low, high: high, back: back}
	if low <= high {
		p.n = high - low + 1
	}
	return p
}

// position returns the position of a step. Step 0 is where the search begins, before the first position.
func (p *path) position(step uint64) uint64 {
	if p.back {
		return p.high + 1 - step
	}
	return p.low - 1 + step
}

func (p *path) step(position uint64) uint64 {
	if p.back {
		return p.high + 1 - position
	}
	return position - p.low + 1
}

// errSpent ends a search whose work is done and that is not at its end.
var errSpent = errors.New("the search has used up its work")

// work bounds what a search may cost. It counts steps of the search in the logical state, and never what the layout of the disk makes of them, so all replicas stop at
// the same place.
type work struct {
	left   int
	chunks int // that were read from disk, for tests
}

func (w *work) spend(n int) error {
	if w.left < n {
		w.left = 0
		return errSpent
	}
	w.left -= n
	return nil
}

// finder finds candidates along a path. seek returns the first step from the given one on, or one beyond n when there is none. Steps that are asked for never
// decrease. With errSpent it returns a step before which there is no candidate.
type finder interface {
	seek(step uint64) (uint64, error)
}

// everything finds every position.
type everything struct{ *work }

func (e everything) seek(step uint64) (uint64, error) { return step, e.spend(1) }

// either finds what any of its finders finds.
type either struct {
	of []finder
	at []uint64 // where each is; 0: it was not asked yet
}

func (e *either) seek(step uint64) (uint64, error) {
	if e.at == nil {
		e.at = make([]uint64, len(e.of))
	}
	for i, f := range e.of {
		if e.at[i] >= step {
			continue
		}
		at, err := f.seek(step)
		if err != nil {
			return step, err
		}
		e.at[i] = at
	}
	return slices.Min(e.at), nil
}

// all finds what all of its finders find, by leaps: each goes at once to where another one is.
type all []finder

func (a all) seek(step uint64) (uint64, error) {
	for agreed, i := 0, 0; agreed < len(a); i = (i + 1) % len(a) {
		at, err := a[i].seek(step)
		if err != nil {
			return step, err
		}
		if at > step {
			step, agreed = at, 0
		}
		agreed++
	}
	return step, nil
}

// postings finds the events that have a hash: in the runs on disk, which follow one another, then in the overlays; back the other way round.
type postings struct {
	v    *view
	path *path
	work *work
	hash uint64

	runs  []*run // that are still to be looked at, in the order of travel
	it    *iterator
	chunk []uint64 // the positions at hand, ascending; not in any order beyond what was asked for
	room  []uint64
}

func (v *view) postings(p *path, w *work, hash uint64) *postings {
	runs := slices.Clone(v.disk.order[treeTerms]) // newest first
	if !p.back {
		slices.Reverse(runs)
	}
	return &postings{v: v, path: p, work: w, hash: hash, runs: runs}
}

func (s *postings) seek(step uint64) (uint64, error) {
	if step > s.path.n {
		return step, nil
	}
	if err := s.work.spend(1); err != nil {
		return step, err
	}
	position := s.path.position(step)
	if at, ok := s.inChunk(position); ok {
		return s.path.step(at), nil
	}
	find := s.forward
	if s.path.back {
		find = s.backward
	}
	at, err := find(position)
	if at == 0 || at < s.path.low || at > s.path.high || err != nil {
		return s.path.n + 1, err
	}
	return s.path.step(at), nil
}

// inChunk looks for the first position along the path among those at hand.
func (s *postings) inChunk(position uint64) (uint64, bool) {
	i := sort.Search(len(s.chunk), func(i int) bool { return s.chunk[i] >= position })
	if s.path.back && (i == len(s.chunk) || s.chunk[i] > position) {
		i--
	}
	if i < 0 || i == len(s.chunk) {
		return 0, false
	}
	return s.chunk[i], true
}

// forward returns the first position from the given one on; 0: there is none.
func (s *postings) forward(position uint64) (uint64, error) {
	end := s.v.diskEnd()
	for position <= end && len(s.runs) > 0 {
		r := s.runs[0]
		if r.last < position {
			s.runs, s.it = s.runs[1:], nil
			continue
		}
		found, err := s.take(r, position)
		if err != nil {
			return 0, err
		}
		if found {
			if at, ok := s.inChunk(position); ok {
				if at > end { // a flush wrote it meanwhile: it is in an overlay too
					break
				}
				return at, nil
			}
		}
		s.runs, s.it = s.runs[1:], nil
	}
	s.runs, s.it = nil, nil
	s.chunk = s.v.lowerTerms.of(s.hash, max(position, end+1), min(s.v.lowerEnd(), s.path.high))
	if len(s.chunk) == 0 {
		s.chunk = s.v.upperTerms.of(s.hash, max(position, s.v.lowerEnd()+1), s.path.high)
	}
	if len(s.chunk) == 0 {
		return 0, nil
	}
	return s.chunk[0], nil
}

// take makes the chunk at hand the first one of the run that ends at or behind the position.
func (s *postings) take(r *run, position uint64) (bool, error) {
	if s.it != nil { // mostly it is the next one
		if err := s.it.next(); err != nil {
			return false, err
		}
		if found, err := s.decode(); err != nil || !found {
			return false, err
		}
		if s.chunk[len(s.chunk)-1] >= position {
			return true, nil
		}
	}
	if err := s.open(r, position); err != nil || s.it == nil {
		return false, err
	}
	return s.decode()
}

// open places the iterator at the first chunk of the run that ends at or behind the position. It is nil when the run surely has nothing of the hash.
func (s *postings) open(r *run, position uint64) (err error) {
	s.it = nil
	ok, err := s.v.disk.mayHold(r, s.hash)
	if !ok || err != nil {
		return err
	}
	s.it, err = s.v.disk.iterate(r, postingKey(s.hash, position))
	return err
}

// decode makes the iterator's entry the chunk at hand, if it is one of the hash.
func (s *postings) decode() (found bool, err error) {
	s.chunk = nil
	if !s.it.ok || binary.BigEndian.Uint64(s.it.key) != s.hash {
		return false, nil
	}
	s.work.chunks++
	_, s.room, err = decodeChunk(s.it.key, s.it.value, s.room)
	s.chunk = s.room
	return err == nil, err
}

// backward returns the last position up to the given one; 0: there is none from the path's low on.
func (s *postings) backward(position uint64) (uint64, error) {
	for _, o := range []struct {
		terms *terms
		above uint64
	}{{s.v.upperTerms, s.v.lowerEnd()}, {s.v.lowerTerms, s.v.diskEnd()}} {
		if position > o.above {
			if s.chunk = o.terms.of(s.hash, max(o.above+1, s.path.low), position); len(s.chunk) > 0 {
				return s.chunk[len(s.chunk)-1], nil
			}
		}
	}
	position = min(position, s.v.diskEnd())
	for ; len(s.runs) > 0; s.runs, s.it = s.runs[1:], nil {
		if s.runs[0].last < s.path.low {
			return 0, nil
		}
		if len(s.runs) > 1 && s.runs[1].last >= position { // all of this run lies behind
			continue
		}
		if s.it == nil {
			if err := s.open(s.runs[0], position); err != nil {
				return 0, err
			}
			if s.it == nil {
				continue
			}
			found, err := s.decode()
			if err != nil {
				return 0, err
			}
			if found {
				if at, ok := s.inChunk(position); ok {
					return at, nil
				}
			}
		}
		for { // the chunk at hand lies behind the position, and so may some before it when the search leaps
			if err := s.it.prev(); err != nil {
				return 0, err
			}
			found, err := s.decode()
			if err != nil {
				return 0, err
			}
			if !found {
				break
			}
			if at, ok := s.inChunk(position); ok {
				return at, nil
			}
			if s.chunk[0] > position { // a leap: look for the place instead of going there
				if err := s.open(s.runs[0], position); err != nil || s.it == nil {
					return 0, err
				}
				if found, err := s.decode(); err != nil {
					return 0, err
				} else if found {
					if at, ok := s.inChunk(position); ok {
						return at, nil
					}
				}
			}
		}
	}
	return 0, nil
}

// typesWith returns the types that begin with the prefix. more: there are more than limit.
func (v *view) typesWith(prefix string, limit int) (types []string, more bool, err error) {
	known := make(map[string]bool)
	for _, r := range v.disk.order[treeTypes] {
		it, err := v.disk.iterate(r, []byte(prefix))
		for ; err == nil && it.ok && bytes.HasPrefix(it.key, []byte(prefix)); err = it.next() {
			if known[string(it.key)] = true; len(known) > limit {
				return nil, true, nil
			}
		}
		if err != nil {
			return nil, false, err
		}
	}
	for _, t := range []*terms{v.lowerTerms, v.upperTerms} {
		t.typesWith(prefix, func(typ string) { known[strings.Clone(typ)] = true })
	}
	for typ := range known {
		types = append(types, typ)
	}
	slices.Sort(types)
	return types, len(types) > limit, nil
}
