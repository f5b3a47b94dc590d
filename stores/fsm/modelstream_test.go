package fsm

import (
	"reflect"

	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

// modelStream is what a stream is beside its events, said again.
type modelStream struct {
	first               uint64
	deleted, tombstoned bool
	maxAge, maxCount    uint64
	custom              string
}

// last is the last version, or -1 when the stream does not exist.
func (m *model) last(stream string) int64 {
	if s := m.streams[stream]; s.deleted || s.tombstoned {
		return -1
	}
	return int64(len(m.stream(stream))) - 1
}

func (m *model) meets(stream string, expected int64) bool {
	switch expected {
	case api.ExpectAny:
		return true
	case api.ExpectExists:
		return m.last(stream) >= 0
	case api.ExpectNoStream:
		return m.last(stream) < 0
	}
	return !m.streams[stream].tombstoned && expected == int64(len(m.stream(stream)))-1
}

// shows reports whether a reader sees the event at the time.
func (m *model) shows(e *api.Event, now int64) bool {
	s := m.streams[e.Stream]
	old := s.maxAge > 0 && now > 0 && now-e.Time.UnixMicro() > int64(s.maxAge)*1_000_000
	return e.Version >= s.first && !old
}

// wrote is told of an append to the stream.
func (m *model) wrote(stream string) {
	s := m.streams[stream]
	s.deleted = false
	if n := uint64(len(m.stream(stream))); s.maxCount > 0 && n > s.maxCount {
		s.first = max(s.first, n-s.maxCount)
	}
	m.streams[stream] = s
}

// change returns whether the change changes something, or why it is refused.
func (m *model) change(c *StreamChange) (changed bool, refused *api.Error) {
	old, n := m.streams[c.Stream], uint64(len(m.stream(c.Stream)))
	s := old
	if c.Op != StreamTombstone && c.Op != StreamExpire && s.tombstoned {
		return false, api.ErrStreamDeleted
	}
	if n == 0 && c.Op != StreamMetadata && c.Op != StreamExpire || c.Op == StreamTruncate && s.deleted {
		return false, api.ErrStreamNotFound
	}
	switch c.Op {
	case StreamTombstone:
		s = modelStream{first: n, tombstoned: true}
	case StreamDelete:
		s.first, s.deleted = n, true
	case StreamTruncate:
		if c.Before > n {
			return false, api.ErrWrongVersion
		}
		s.first = max(s.first, c.Before)
	case StreamMetadata:
		s.maxAge, s.maxCount, s.custom = c.MaxAge, c.MaxCount, string(c.Custom)
		if s.maxCount > 0 && n > s.maxCount {
			s.first = max(s.first, n-s.maxCount)
		}
	case StreamExpire:
		for _, e := range m.stream(c.Stream) {
			if e.Version == s.first && s.maxAge > 0 && !m.shows(&e, c.Time) {
				s.first++
			}
		}
	}
	if s != old && !m.meets(c.Stream, c.Expected) {
		return false, api.ErrWrongVersion
	}
	m.streams[c.Stream] = s
	return s != old, nil
}

// drawNow draws the time of a reader; 0: it does not ask for ages.
func drawNow(t *rapid.T) int64 {
	return rapid.SampledFrom([]int64{0, 0, later(1), later(2), later(3), later(5)}).Draw(t, "now")
}

func (m *machine) drawChange(t *rapid.T) *StreamChange {
	c := &StreamChange{
		Op:       rapid.SampledFrom([]byte{StreamDelete, StreamTruncate, StreamTruncate, StreamMetadata, StreamMetadata, StreamExpire, StreamExpire}).Draw(t, "change"),
		Stream:   rapid.SampledFrom(modelStreams).Draw(t, "changed stream"),
		Expected: rapid.SampledFrom([]int64{-2, -2, -2, -4, 2}).Draw(t, "change expects"),
		Time:     max(drawNow(t), testTime),
	}
	n := len(m.model.stream(c.Stream))
	switch c.Op {
	case StreamDelete:
		if rapid.IntRange(0, 9).Draw(t, "hard") == 0 {
			c.Op = StreamTombstone
		}
	case StreamTruncate:
		c.Before = uint64(rapid.IntRange(0, n+1).Draw(t, "before"))
	case StreamMetadata:
		c.MaxAge = rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, "max age")
		c.MaxCount = rapid.SampledFrom([]uint64{0, 0, 1, 3, 9}).Draw(t, "max count")
		c.Custom = rapid.SampledFrom([][]byte{nil, []byte(`{"a":1}`)}).Draw(t, "custom")
	case StreamExpire:
		c.Expected = api.ExpectAny
	}
	return c
}

// compareChange makes the change in the model and holds the answer against it.
func (m *machine) compareChange(t *rapid.T, c *StreamChange, got AppendResult) {
	changed, refused := m.model.change(c)
	if refused != nil {
		if !refusedAs(got.Err, refused) || refused == api.ErrWrongVersion && actual(got.Err) != m.model.last(c.Stream) {
			t.Fatalf("%+v got %+v, want %v at %d", c, got, refused, m.model.last(c.Stream))
		}
		return
	}
	want := StreamResult{State: m.model.state(c.Stream), Changed: changed}
	if got.Err != nil || !reflect.DeepEqual(got.Value, want) {
		t.Fatalf("%+v got %+v, want %+v", c, got, want)
	}
}

func (m *model) state(stream string) api.StreamState {
	s := m.streams[stream]
	state := api.StreamState{
		Stream: stream, FirstVersion: s.first, Version: int64(len(m.stream(stream))) - 1, Deleted: s.deleted, Tombstoned: s.tombstoned, MaxAge: s.maxAge, MaxCount: s.maxCount,
	}
	if s.custom != "" {
		state.Custom = []byte(s.custom)
	}
	return state
}

func (m *machine) compareState(t *rapid.T, stream string) {
	got, exists, applied, err := m.f.StreamState(stream)
	want := m.model.state(stream)
	if err != nil || applied != m.model.applied || !reflect.DeepEqual(got, want) || exists != (want.Version >= 0 || m.model.streams[stream] != modelStream{}) {
		t.Fatalf("the state of %s: %+v, %v, %v; want %+v", stream, got, exists, err, want)
	}
}

func encodeAll(of []any) []byte {
	var bodies []Body
	for _, c := range of {
		switch c := c.(type) {
		case Append:
			bodies = append(bodies, c.Body())
		case *StreamChange:
			bodies = append(bodies, ChangeBody(c))
		}
	}
	return EncodeBodies(bodies)
}

// Sweep scavenges, a step or all of them, and gives space back; what a step finds in the middle of it is what it finds before and after. Its state is as before.
func (m *machine) Sweep(t *rapid.T) {
	before := m.hash(t)
	at := rapid.SampledFrom([]string{"", "frozen", "swept", "swept and committed", "punch", "punched"}).Draw(t, "read at")
	m.f.hookStep = func(step string) error {
		if step == at {
			m.ReadStream(t)
			m.ReadAll(t)
			m.Query(t)
		}
		return nil
	}
	defer func() { m.f.hookStep = nil }()
	for range rapid.SampledFrom([]int{1, 2, 1000}).Draw(t, "steps") {
		did, err := m.f.Scavenge()
		if err != nil {
			t.Fatal(err)
		}
		m.swept += did.Events
		if !did.More {
			break
		}
	}
	for more := rapid.Bool().Draw(t, "give back"); more; {
		bytes, again, err := m.f.GiveBack()
		if err != nil {
			t.Fatal(err)
		}
		m.holes += bytes
		more = again
	}
	if m.hash(t) != before {
		t.Fatal("scavenging changed the state")
	}
}

// Expire looks for streams with events that are too old, and finds none beside those; all of them once it has looked at all streams.
func (m *machine) Expire(t *rapid.T) {
	now, limit := max(drawNow(t), testTime), rapid.IntRange(1, 5).Draw(t, "limit")
	for range 2 * len(modelStreams) {
		found, more, err := m.f.Expirable(now, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			if !m.model.due(name, now) {
				t.Fatalf("stream %s is found to have old events at %d", name, now)
			}
		}
		if more {
			continue
		}
		if m.f.sweep.agedDone == m.f.sweep.cuts.Load()+1 && now < m.f.sweep.due {
			for _, name := range modelStreams {
				if m.model.due(name, now) {
					t.Fatalf("stream %s has old events at %d, and it is said that none has before %d", name, now, m.f.sweep.due)
				}
			}
		}
		return
	}
	t.Fatal("a round does not end")
}

// due reports whether the first event that the stream keeps is too old.
func (m *model) due(name string, now int64) bool {
	for _, e := range m.stream(name) {
		if s := m.streams[name]; e.Version == s.first {
			return s.maxAge > 0 && !m.shows(&e, now)
		}
	}
	return false
}
