package fsm

import (
	"bytes"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/api"
)

// StreamQuery asks for a page of one stream.
type StreamQuery struct {
	From     uint64 // first version
	FromEnd  bool   // with Backward: begin at the last version, whatever From says
	Limit    int    // events, at least 1
	MaxBytes int    // a page ends when it has so many bytes of data; it has at least one event
	Backward bool
}

// AllQuery asks for a page of the store.
type AllQuery struct {
	After    uint64 // exclusive position: forward above it, backward below it
	FromEnd  bool
	Limit    int
	MaxBytes int
	Backward bool
}

// StreamPage is a page of a stream, of one consistent state.
type StreamPage struct {
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
	Next         uint64 // After of the page that follows
	End          bool
	LastPosition uint64
	Applied      uint64
}

// ReadStream reads a page of the stream. A stream that does not exist is api.ErrStreamNotFound.
func (f *FSM) ReadStream(stream string, q StreamQuery) (page StreamPage, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		var st state
		st.read(tx)
		v := tx.Bucket(bucketStreams).Get([]byte(stream))
		if len(v) != 16 {
			return api.ErrStreamNotFound.With("stream %s has no events; append one, or check the name", stream)
		}
		number, count := v[:8], parseU64(v[8:])
		last := count - 1
		page = StreamPage{LastVersion: int64(last), LastPosition: st.position, Applied: st.applied}
		events, index := tx.Bucket(bucketEvents), tx.Bucket(bucketIndex)
		if name := tx.Bucket(bucketNames).Get(number); string(name) != stream {
			return fmt.Errorf("%w: stream %q has number %d, which is the number of %q", ErrDamaged, stream, parseU64(number), name)
		}
		p := pager{limit: q.Limit, maxBytes: q.MaxBytes}
		// add follows the index, which has no checksum, and holds what it leads to against the record, which has.
		add := func(version uint64) (full bool, err error) {
			at := index.Get(append(bytes.Clone(number), u64(version)...))
			return p.add(parseU64(at), events.Get(at), func(rec *record) (string, error) {
				if rec.stream != parseU64(number) || rec.version != version {
					return "", fmt.Errorf("%w: index of %q version %d leads to event %d, which is version %d of stream number %d", ErrDamaged, stream, version, parseU64(at), rec.version, rec.stream)
				}
				return stream, nil
			})
		}
		version := q.From
		if q.Backward {
			if q.FromEnd || version > last {
				version = last
			}
			for {
				if full, err := add(version); full || err != nil {
					page.Events, page.Next = p.events, version
					return err
				}
				if version == 0 {
					break
				}
				version--
			}
			page.Events, page.Next, page.End = p.events, 0, true
			return nil
		}
		for ; version <= last; version++ {
			if full, err := add(version); full || err != nil {
				page.Events, page.Next = p.events, version
				return err
			}
		}
		page.Events, page.Next, page.End = p.events, max(q.From, last+1), true
		return nil
	})
	return page, err
}

// ReadAll reads a page of the store in position order.
func (f *FSM) ReadAll(q AllQuery) (page AllPage, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		var st state
		st.read(tx)
		page = AllPage{LastPosition: st.position, Applied: st.applied}
		events, name := tx.Bucket(bucketEvents), streamNames(tx)
		p := pager{limit: q.Limit, maxBytes: q.MaxBytes}
		if q.Backward {
			position := q.After
			if q.FromEnd || position > st.position+1 {
				position = st.position + 1
			}
			for ; position > 1; position-- {
				if full, err := p.add(position-1, events.Get(u64(position-1)), name); full || err != nil {
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
		cursor := events.Cursor()
		for k, v := cursor.Seek(u64(position)); k != nil; k, v = cursor.Next() {
			if parseU64(k) != position {
				return fmt.Errorf("%w: events: wanted position %d, found %d", ErrDamaged, position, parseU64(k))
			}
			if full, err := p.add(position, v, name); full || err != nil {
				page.Events, page.Next = p.events, position-1
				return err
			}
			position++
		}
		if position <= st.position {
			return fmt.Errorf("%w: events: position %d is missing, the last one is %d", ErrDamaged, position, st.position)
		}
		page.Events, page.Next, page.End = p.events, position-1, true
		return nil
	})
	return page, err
}

// streamNames looks up the names of stream numbers in one transaction, each once. A name is held against the stream of that name, since neither has a
// checksum.
func streamNames(tx *bolt.Tx) func(*record) (string, error) {
	names, streams := tx.Bucket(bucketNames), tx.Bucket(bucketStreams)
	known := make(map[uint64]string)
	return func(rec *record) (string, error) {
		if name, ok := known[rec.stream]; ok {
			return name, nil
		}
		name := names.Get(u64(rec.stream))
		v := streams.Get(name)
		if len(v) != 16 || parseU64(v[:8]) != rec.stream {
			return "", fmt.Errorf("%w: stream number %d is named %q, and that stream's record is %x", ErrDamaged, rec.stream, name, v)
		}
		known[rec.stream] = string(name)
		return string(name), nil
	}
}

// pager collects events until the page is full.
type pager struct {
	limit, maxBytes int
	events          []api.Event
	bytes           int
}

// add reports full when there is no room for the event; it is then the next page's first.
func (p *pager) add(position uint64, value []byte, streamOf func(*record) (string, error)) (full bool, err error) {
	if len(p.events) >= p.limit || len(p.events) > 0 && p.bytes+len(value) > p.maxBytes {
		return true, nil
	}
	if value == nil {
		return false, fmt.Errorf("%w: events: position %d is missing", ErrDamaged, position)
	}
	rec, err := decodeRecord(position, value)
	if err != nil {
		return false, err
	}
	stream, err := streamOf(&rec)
	if err != nil {
		return false, err
	}
	p.bytes += len(value)
	p.events = append(p.events, rec.toAPI(position, stream))
	return false, nil
}

// Stream describes one stream.
func (f *FSM) Stream(name string) (info api.StreamInfo, exists bool, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketStreams).Get([]byte(name))
		if exists = len(v) == 16; exists {
			info = streamInfo([]byte(name), v)
		}
		return nil
	})
	return info, exists, err
}

func streamInfo(name, value []byte) api.StreamInfo {
	events := parseU64(value[8:])
	return api.StreamInfo{Name: string(name), Events: events, Version: int64(events) - 1}
}

// Streams lists streams in name order: those that begin with prefix and lie behind after. end says that there are no more.
func (f *FSM) Streams(prefix, after string, limit int) (page []api.StreamInfo, end bool, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketStreams).Cursor()
		k, v := cursor.Seek([]byte(max(prefix, after)))
		if after != "" && string(k) == after {
			k, v = cursor.Next()
		}
		for ; k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = cursor.Next() {
			if len(page) == limit {
				return nil
			}
			if len(v) != 16 {
				return fmt.Errorf("%w: stream %q has %d bytes", ErrDamaged, k, len(v))
			}
			page = append(page, streamInfo(k, v))
		}
		end = true
		return nil
	})
	return page, end, err
}

// Info describes the state.
type Info struct {
	Streams, Events, LastPosition, Applied, Term uint64
	DiskBytes                                    int64
}

// Info describes the state.
func (f *FSM) Info() (info Info, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		var st state
		st.read(tx)
		info = Info{Streams: st.streams, Events: st.position, LastPosition: st.position, Applied: st.applied, Term: st.term}
		return nil
	})
	if fi, serr := os.Stat(f.cfg.Path); serr == nil {
		info.DiskBytes = fi.Size()
	}
	return info, err
}
