package fsm

import (
	"fmt"
	"slices"

	"github.com/quorate/quorate/api"
)

// Bounds of a search. A page of a read that has used them up ends early and says how far it came; a condition is refused.
const (
	pageWork      = 20_000 // steps a page, shared by the query's items,
	leastWork     = 1000   // and so many more each: enough for every term of an item and the largest record, so that a page always gets on
	conditionWork = 20_000 // steps an append, for all its conditions
	maxTypes      = 256    // types that the type prefixes of a query stand for; all conditions of an append together
	recordWork    = 4096   // bytes of a record that count as one more step
)

// search looks for the events of one item along a path.
type search struct {
	v     *view
	item  *api.QueryItem
	types []string // the item's types, and those that its prefixes stand for; nil: types are not looked for, the record tells
	path  *path
	work  *work
	from  finder                        // nil: no event can match
	name  func(*record) (string, error) // of its stream
	sight *sight

	at      uint64 // step of the match it stands at; beyond the path's n: there is none left
	reached uint64 // no step before this one is a match that was not given
	spent   bool   // it cannot go on: its work is used up at reached
}

// errManyTypes says that prefixes stand for more types than are looked for one by one.
var errManyTypes = fmt.Errorf("prefixes of more than %d types", maxTypes)

// search makes a search of the item. types is how many types its prefixes may still stand for; with more of them it is errManyTypes, unless scan allows a
// search to look at every event.
func (v *view) search(it *api.QueryItem, p *path, w *work, types *int, see *sight, scan bool) (*search, error) {
	s := &search{v: v, item: it, path: p, work: w, name: see.name, sight: see}
	var parts all
	for _, tag := range it.Tags {
		parts = append(parts, v.postings(p, w, hashTerm(kindTag, tag)))
	}
	if len(it.Types)+len(it.TypePrefixes) > 0 {
		many := false
		s.types = slices.Clone(it.Types)
		for _, prefix := range it.TypePrefixes {
			found, more, err := v.typesWith(prefix, *types)
			if err != nil {
				return nil, err
			}
			if many = many || more; more {
				continue
			}
			*types -= len(found)
			s.types = append(s.types, found...)
		}
		switch {
		case many && !scan:
			return nil, errManyTypes
		case many: // the record tells
			s.types = nil
		case len(s.types) == 0:
			return s, nil
		default:
			slices.Sort(s.types)
			s.types = slices.Compact(s.types)
			e := &either{}
			for _, typ := range s.types {
				e.of = append(e.of, v.postings(p, w, hashTerm(kindType, typ)))
			}
			parts = append(parts, e)
		}
	}
	switch len(parts) {
	case 0:
		s.from = everything{w}
	case 1:
		s.from = parts[0]
	default:
		s.from = parts
	}
	return s, nil
}

// next goes to the first match from the step on, or to the end when it reaches the step stop without one.
func (s *search) next(step, stop uint64) error {
	for s.from != nil && step < stop {
		s.reached = step
		at, err := s.from.seek(step)
		s.reached = at
		if err == nil && at < stop && at <= s.path.n {
			var is bool
			if is, err = s.is(at); is {
				s.at = at
				return nil
			}
		} else if err == nil {
			break
		}
		if err == errSpent {
			s.spent, s.at = true, s.path.n+1
			return nil
		}
		if err != nil {
			return err
		}
		step = at + 1
	}
	s.at, s.reached = s.path.n+1, s.path.n+1
	return nil
}

// is reports whether the event at the step matches, as its record says.
func (s *search) is(step uint64) (bool, error) {
	if err := s.work.spend(1); err != nil {
		return false, err
	}
	position := s.path.position(step)
	value, err := s.v.record(position)
	if err != nil {
		return false, err
	}
	rec, err := peekRecord(position, value)
	if err != nil {
		return false, err
	}
	// What is gone costs no more than this, so that it is the same whether a replica still has the event or only its stub.
	if hidden, err := s.sight.hides(&rec); hidden || err != nil {
		return false, err
	}
	if err := s.work.spend(len(value) / recordWork); err != nil {
		return false, err
	}
	stream := ""
	if len(s.item.StreamPrefixes) > 0 {
		if stream, err = s.name(&rec); err != nil {
			return false, err
		}
	}
	if s.item.Matches(rec.event.Type, rec.event.Tags, stream) {
		return true, nil
	}
	return false, s.explain(position, &rec)
}

// explain returns nil when the index may have led to an event that does not match: hashes are the same, terms are not.
func (s *search) explain(position uint64, rec *record) error {
	var has []uint64
	for _, tag := range rec.event.Tags {
		has = append(has, hashTerm(kindTag, tag))
	}
	typ, ofType := hashTerm(kindType, rec.event.Type), s.types == nil
	for _, t := range s.types {
		ofType = ofType || hashTerm(kindType, t) == typ
	}
	for _, tag := range s.item.Tags {
		ofType = ofType && slices.Contains(has, hashTerm(kindTag, tag))
	}
	if ofType {
		return nil
	}
	return fmt.Errorf("%w: terms: event %d is listed under types and tags that it does not have", ErrDamaged, position)
}

// peekRecord is decodeRecord without copying: what it returns lies in value's memory.
func peekRecord(position uint64, value []byte) (record, error) {
	rec, _, err := decodeChecked(position, value, true)
	return rec, err
}

// query reads what the query selects. Forward it looks at what is behind after, backward at what is before it.
func (v *view) query(q *AllQuery) (page AllPage, err error) {
	page = AllPage{LastPosition: v.st.position, Applied: v.st.applied}
	low, high := uint64(1), v.st.position
	begin := q.After // what is said to be scanned when nothing was
	if q.UpTo > 0 && !q.Backward {
		high = min(high, q.UpTo)
	}
	switch {
	case q.Backward && (q.FromEnd || q.After > high):
		begin = high + 1
	case q.Backward:
		high = max(q.After, 1) - 1
	case q.After >= high:
		page.Next, page.End = q.After, true
		return page, nil
	default:
		low = q.After + 1
	}
	way := newPath(low, high, q.Backward)
	p := pager{limit: q.Limit, maxBytes: q.MaxBytes}
	done, err := v.match(q.Query, &way, q.Now, &p)
	page.Events, page.Next, page.End = p.events, begin, done == way.n
	if done > 0 {
		page.Next = way.position(done)
	}
	return page, err
}

// match adds matches to the pager, and returns how many steps of the path are done with.
func (v *view) match(q *api.Query, way *path, now int64, p *pager) (done uint64, err error) {
	types, name := maxTypes, v.names()
	see := v.sight(now, name)
	searches := make([]*search, len(q.Items))
	for i := range q.Items {
		s, err := v.search(&q.Items[i], way, &work{left: pageWork/len(q.Items) + leastWork}, &types, see, true)
		if err == nil {
			err = s.next(1, way.n+1)
		}
		if err != nil {
			return 0, err
		}
		searches[i] = s
	}
	for {
		at, barrier := way.n+1, way.n+1
		for _, s := range searches {
			at = min(at, s.at)
			if s.spent {
				barrier = min(barrier, s.reached)
			}
		}
		switch {
		case barrier <= at: // also at the end, where both are beyond it
			return barrier - 1, nil
		case len(p.events) == p.limit:
			return at - 1, nil
		}
		position := way.position(at)
		value, err := v.record(position)
		if err != nil {
			return at - 1, err
		}
		if full, err := p.add(position, value, name); full || err != nil {
			return at - 1, err
		}
		if len(p.events) == p.limit { // whether there are more is for the next page
			return at, nil
		}
		for _, s := range searches {
			if s.at == at {
				if err := s.next(at+1, way.n+1); err != nil {
					return at, err
				}
			}
		}
	}
}

// last returns the position of the last event behind after that the query selects; 0: there is none. types and w are what is left for the append's conditions.
func (v *view) last(q *api.Query, after uint64, now int64, w *work, types *int) (uint64, error) {
	if after >= v.st.position {
		return 0, nil
	}
	way := newPath(after+1, v.st.position, true)
	best, see := way.n+1, v.sight(now, v.names())
	for i := range q.Items {
		s, err := v.search(&q.Items[i], &way, w, types, see, false)
		if err == nil {
			err = s.next(1, best)
		}
		if err == nil && s.spent {
			err = errSpent
		}
		if err != nil {
			return 0, err
		}
		best = min(best, s.at)
	}
	if best > way.n {
		return 0, nil
	}
	return way.position(best), nil
}
