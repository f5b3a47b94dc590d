package fsm

import (
	"fmt"
	"os"

	"github.com/quorate/quorate/api"
)

// StreamQuery asks for a page of one stream.
type StreamQuery struct {
	From     uint64 // first version
	FromEnd  bool   // with Backward: begin at the last version, whatever From says
	Limit    int    // events, at least 1
	MaxBytes int    // a page ends when it has so many bytes of data; it has at least one event
	Backward bool
	Now      int64 // Unix microseconds, for maximal ages; 0: no event is too old

	Snapshot   bool   // also the newest snapshot that is not above SnapshotAt
	SnapshotAt uint64 // a version
	Behind     bool   // with Snapshot: begin behind the snapshot that is found, whatever From says
}

// AllQuery asks for a page of the store.
type AllQuery struct {
	After    uint64 // exclusive position: forward above it, backward below it
	UpTo     uint64 // inclusive position at which a forward page ends; 0: the end
	FromEnd  bool
	Limit    int
	MaxBytes int
	Backward bool
	Query    *api.Query // nil: everything. A page then also ends when it has looked far enough
	Now      int64      // Unix microseconds, for maximal ages; 0: no event is too old
	Gone     bool       // without Query: also events that are gone, as long as they are on disk
}

// StreamPage is a page of a stream, of one consistent state.
type StreamPage struct {
	Snapshot     *api.Snapshot // when it was asked for and there is one
	Events       []api.Event
	Next         uint64 // From of the page that follows
	End          bool
	LastVersion  int64
	LastPosition uint64
	Applied      uint64
}

// AllPage is a page of the store, of one consistent state.
type AllPage struct {
	Events       []api.Event
	Next         uint64 // After of the page that follows; of a query also how far it has looked
	End          bool
	LastPosition uint64
	Applied      uint64
}

// ReadStream reads a page of the stream. A stream that does not exist is api.ErrStreamNotFound.
func (f *FSM) ReadStream(stream string, q StreamQuery) (page StreamPage, err error) {
	err = f.viewStream(stream, func(v *view, h head) error {
		if err := v.whole(); err != nil {
			return err
		}
		s, err := v.streamState(stream)
		if err != nil {
			return err
		}
		if gone := missing(stream, &s, h.count); gone != nil {
			return gone
		}
		page = StreamPage{LastVersion: int64(h.count) - 1, LastPosition: v.st.position, Applied: v.st.applied}
		if q.Snapshot { // of the same state as the events: one that is newer or older leaves a gap, or belongs to a former life of the stream
			if page.Snapshot, err = v.snapshot(stream, q.SnapshotAt); err != nil {
				return err
			}
			if page.Snapshot != nil && q.Behind {
				q.From = page.Snapshot.Version + 1
			}
		}
		p := pager{limit: q.Limit, maxBytes: q.MaxBytes}
		see := v.sight(q.Now, func(*record) (string, error) { return stream, nil })
		if q.Backward {
			page.Next, err = v.backward(&h, stream, &q, s.first, see, &p)
		} else {
			q.From = max(q.From, s.first)
			page.Next, err = v.forward(&h, stream, &q, see, &p)
		}
		page.End = err == nil && !p.more
		page.Events = p.events
		return err
	})
	return page, err
}

// backward follows the pointers from one event to the one before it, down to the version first. It returns the next page's From.
func (v *view) backward(h *head, stream string, q *StreamQuery, first uint64, see *sight, p *pager) (next uint64, err error) {
	version := q.From
	if q.FromEnd || version > h.count-1 {
		version = h.count - 1
	}
	if version < first {
		return version, nil
	}
	position, err := v.seek(h, version)
	if err != nil {
		return 0, err
	}
	for {
		front, full, err := v.addVersion(h, stream, version, position, see, p)
		if err != nil || full {
			return version, err
		}
		if version == first {
			return version, nil
		}
		version, position = version-1, front.back[0]
	}
}

// Forward reads find the positions of so many versions at a time, from the last of them to the first: few at first, since a page may be full after
// one big event.
const (
	firstStretch = 32
	lastStretch  = 512
)

func (v *view) forward(h *head, stream string, q *StreamQuery, see *sight, p *pager) (next uint64, err error) {
	version, stretch := q.From, uint64(firstStretch)
	for version < h.count {
		n := min(stretch, h.count-version, uint64(max(p.limit-len(p.events), 1)))
		stretch = min(2*stretch, lastStretch)
		positions, err := v.positions(h, version, n)
		if err != nil {
			return version, err
		}
		for _, position := range positions {
			if _, full, err := v.addVersion(h, stream, version, position, see, p); full || err != nil {
				return version, err
			}
			version++
		}
	}
	return max(q.From, h.count), nil
}

// positions returns where n versions are, from the given one on. Only the fronts of records were read for it.
func (v *view) positions(h *head, version, n uint64) ([]uint64, error) {
	at, err := v.seek(h, version+n-1)
	if err != nil {
		return nil, err
	}
	positions := make([]uint64, n)
	positions[n-1] = at
	for i := n - 1; i > 0; i-- {
		front, err := v.front(positions[i])
		if err != nil {
			return nil, err
		}
		if front.stream != h.number || front.version != version+i {
			return nil, misled(h, version+i, positions[i], front.stream, front.version)
		}
		positions[i-1] = front.back[0]
	}
	return positions, nil
}

// addVersion adds an event that pointers led to, unless it is gone, and holds it against what they promised.
func (v *view) addVersion(h *head, stream string, version, position uint64, see *sight, p *pager) (f front, full bool, err error) {
	if p.full() || p.spent(see) {
		return front{}, true, nil
	}
	value, err := v.record(position)
	if err != nil {
		return front{}, false, err
	}
	if hidden, err := see.hidesAt(position, value); hidden || err != nil {
		if err == nil {
			f, err = decodeFront(position, value)
		}
		if err == nil && (f.stream != h.number || f.version != version) {
			err = misled(h, version, position, f.stream, f.version)
		}
		return f, false, err
	}
	full, err = p.add(position, value, func(rec *record) (string, error) {
		if rec.stream != h.number || rec.version != version {
			return "", fmt.Errorf("%w: pointers of %q version %d lead to event %d, which is version %d of stream number %d", ErrDamaged, stream, version, position, rec.version, rec.stream)
		}
		return stream, nil
	})
	if full || err != nil {
		return front{}, full, err
	}
	f, err = decodeFront(position, value)
	return f, false, err
}

// ReadAll reads a page of the store in position order.
func (f *FSM) ReadAll(q AllQuery) (page AllPage, err error) {
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		if q.Query != nil {
			page, err = v.query(&q)
			return err
		}
		st := v.st
		page = AllPage{LastPosition: st.position, Applied: st.applied}
		p := pager{limit: q.Limit, maxBytes: q.MaxBytes}
		name := v.names()
		see := v.sight(q.Now, name)
		hides := func(position uint64, value []byte) (bool, error) {
			if !q.Gone {
				return see.hidesAt(position, value)
			}
			rec, err := peekRecord(position, value)
			return rec.stub, err
		}
		if q.Backward {
			position := q.After
			if q.FromEnd || position > st.position+1 {
				position = st.position + 1
			}
			for ; position > 1; position-- {
				value, err := v.record(position - 1)
				if err != nil {
					return err
				}
				if p.full() || p.spent(see) {
					page.Events, page.Next = p.events, position
					return nil
				}
				hidden, err := hides(position-1, value)
				if err != nil {
					return err
				}
				if hidden {
					continue
				}
				if full, err := p.add(position-1, value, name); full || err != nil {
					page.Events, page.Next = p.events, position
					return err
				}
			}
			page.Events, page.Next, page.End = p.events, position, true
			return nil
		}
		if q.After >= st.position {
			page.Next, page.End = q.After, true
			return nil
		}
		position := q.After + 1
		err := v.each(position, func(at uint64, value []byte) (bool, error) {
			position = at
			if q.UpTo > 0 && at > q.UpTo {
				p.more = true
				return false, nil
			}
			if p.full() || p.spent(see) {
				return false, nil
			}
			if hidden, err := hides(at, value); hidden || err != nil {
				return true, err
			}
			full, err := p.add(at, value, name)
			return !full, err
		})
		page.Events, page.Next, page.End = p.events, st.position, !p.more
		if p.more || err != nil {
			page.Next = position - 1
		}
		return err
	})
	return page, err
}

// each calls fn with the events from the position on, in order, until it returns false.
func (v *view) each(from uint64, fn func(position uint64, value []byte) (more bool, err error)) error {
	position := from
	if last := min(v.disk.st.position, v.st.position); position <= last {
		cursor := v.disk.events.Cursor()
		for k, value := cursor.Seek(u64(position)); position <= last; k, value = cursor.Next() {
			if k == nil {
				return fmt.Errorf("%w: events: position %d is missing, the last one is %d", ErrDamaged, position, last)
			}
			if parseU64(k) != position {
				return fmt.Errorf("%w: events: wanted position %d, found %d", ErrDamaged, position, parseU64(k))
			}
			if more, err := fn(position, value); err != nil || !more {
				return err
			}
			position++
		}
	}
	for ; position <= v.st.position; position++ {
		value, err := v.record(position)
		if err != nil {
			return err
		}
		if more, err := fn(position, value); err != nil || !more {
			return err
		}
	}
	return nil
}

// names looks up names of stream numbers, each once.
func (v *view) names() func(*record) (string, error) {
	known := make(map[uint64]string)
	return func(rec *record) (string, error) {
		if name, ok := known[rec.stream]; ok {
			return name, nil
		}
		name, err := v.name(rec.stream)
		if err == nil {
			known[rec.stream] = name
		}
		return name, err
	}
}

// Info describes the state.
type Info struct {
	Streams, Events, LastPosition, Applied, Term uint64
	DiskBytes, Bytes                             int64 // of the file; of that what is in use, with what is to be written yet
	Restoring                                    bool  // a backup is being restored
}

// Info describes the state. It is for those who look at every machine now and then: it is no use of the file, and does not open that of a machine that rests.
func (f *FSM) Info() (info Info, err error) {
	f.file.RLock()
	defer f.leave()
	f.mu.RLock()
	st := f.state
	f.mu.RUnlock()
	if known := f.rested; f.db == nil {
		if f.closing() {
			return info, fmt.Errorf("state machine %s: %w", f.cfg.Path, ErrClosed)
		}
		info.Bytes, info.Restoring, err = known.bytes, known.restoring, known.err
	} else {
		info.Bytes, info.Restoring, err = f.measure()
	}
	info.Streams, info.Events, info.LastPosition, info.Applied, info.Term = st.streams, st.position, st.position, st.applied, st.term
	if fi, serr := os.Stat(f.cfg.Path); serr == nil {
		info.DiskBytes = allocated(fi)
	}
	return info, err
}

// measure returns what of Info is in the file, which is open and held.
func (f *FSM) measure() (bytes int64, restoring bool, err error) {
	err = f.viewOpen(nil, func(v *view, _ overlaid) error {
		bytes = f.used(v.disk.tx)
		if v.st.kinds < kindRestore {
			return nil
		}
		p, err := v.restore()
		restoring = p != nil && !p.done
		return err
	})
	return bytes, restoring, err
}
