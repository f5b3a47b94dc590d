package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/quorate/quorate/api"
)

// What a store knows of a stream beside its events: which of them are gone, and why. The command:
//
//	stream  op (1) · stream (text) · expected (varint) · time (varint, Unix µs) · before (uvarint) · max age (uvarint, s) · max count (uvarint) · custom (bytes)
//
// and the value under the stream's key: flags (1: 1 = deleted, 2 = tombstoned) · first (uvarint) · max age · max count · custom, encoded the same.
//
// Versions below first are gone for good: first never moves back, and what is gone by a maximal count or by a delete lies below it. Events may also be too
// old, which depends on the time of whoever asks; now and then the leader proposes an expiry, which moves first behind them. See sight.
const keyStream = 's'

// What a StreamChange does.
const (
	StreamDelete    = 1 // until the next append
	StreamTombstone = 2 // for ever
	StreamTruncate  = 3 // of versions below Before
	StreamMetadata  = 4 // is replaced
	StreamExpire    = 5 // of events that are too old at Time, expireStep of them at most
)

// expireStep is how many events one StreamExpire cuts at most: it reads them while it is applied.
const expireStep = 1000

// StreamChange changes what there is of a stream beside its events.
type StreamChange struct {
	Op               byte
	Stream           string
	Expected         int64 // api.Expect*, or the exact last version
	Time             int64 // Unix microseconds at the leader
	Before           uint64
	MaxAge, MaxCount uint64
	Custom           []byte // a JSON object, or nil
}

// StreamResult is what a StreamChange answers.
type StreamResult struct {
	State   api.StreamState
	Changed bool
}

// Kind implements Change.
func (c *StreamChange) Kind() int { return kindStream }

func (c *StreamChange) encode(b []byte) []byte {
	b = append(b, c.Op)
	b = appendBytes(b, c.Stream)
	b = binary.AppendVarint(b, c.Expected)
	b = binary.AppendVarint(b, c.Time)
	b = binary.AppendUvarint(b, c.Before)
	b = binary.AppendUvarint(b, c.MaxAge)
	b = binary.AppendUvarint(b, c.MaxCount)
	return appendBytes(b, c.Custom)
}

func decodeStreamChange(r *reader) *StreamChange {
	c := &StreamChange{
		Op: r.byte(), Stream: r.text(), Expected: r.varint(), Time: r.varint(), Before: r.uvarint(), MaxAge: r.uvarint(), MaxCount: r.uvarint(),
	}
	if c.Custom = r.bytes(); len(c.Custom) == 0 {
		c.Custom = nil
	}
	if c.Op < StreamDelete || c.Op > StreamExpire {
		r.fail()
	}
	return c
}

// streamState is what is kept under a stream's key. The zero state is not kept.
type streamState struct {
	first               uint64 // versions below it are gone
	deleted, tombstoned bool   // then first lies behind the last version
	maxAge, maxCount    uint64
	custom              []byte
}

const (
	flagDeleted    = 1
	flagTombstoned = 2
)

func streamKey(stream string) string { return string(rune(keyStream)) + stream }

func (s *streamState) encode(b []byte) []byte {
	var flags byte
	if s.deleted {
		flags |= flagDeleted
	}
	if s.tombstoned {
		flags |= flagTombstoned
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, s.first)
	b = binary.AppendUvarint(b, s.maxAge)
	b = binary.AppendUvarint(b, s.maxCount)
	return appendBytes(b, s.custom)
}

// decodeStream shares value's memory. A nil value is the zero state.
func decodeStream(value []byte) (s streamState, err error) {
	if value == nil {
		return s, nil
	}
	r := reader{rest: value}
	flags := r.byte()
	s = streamState{
		deleted: flags&flagDeleted != 0, tombstoned: flags&flagTombstoned != 0,
		first: r.uvarint(), maxAge: r.uvarint(), maxCount: r.uvarint(), custom: r.bytes(),
	}
	if len(s.custom) == 0 {
		s.custom = nil
	}
	if flags&^(flagDeleted|flagTombstoned) != 0 {
		r.fail()
	}
	if err := r.end(); err != nil {
		return s, fmt.Errorf("%w: the state of a stream: %w", ErrDamaged, err)
	}
	return s, nil
}

// zero reports whether there is nothing to keep.
func (s *streamState) zero() bool {
	return s.first == 0 && !s.deleted && !s.tombstoned && s.maxAge == 0 && s.maxCount == 0 && len(s.custom) == 0
}

// there reports whether a stream of so many events exists.
func (s *streamState) there(count uint64) bool { return count > 0 && !s.deleted && !s.tombstoned }

// last returns the last version of a stream of so many events as clients see it: -1 when it does not exist.
func (s *streamState) last(count uint64) int64 {
	if !s.there(count) {
		return api.ExpectNoStream
	}
	return int64(count) - 1
}

// meets reports whether a stream of so many events is as expected. Of a deleted stream, which does not exist, also its old last version is right: whoever read it before
// somebody deleted it may go on, as in KurrentDB.
func (s *streamState) meets(expected int64, count uint64) bool {
	if meets(expected, s.last(count)) {
		return true
	}
	return s.deleted && !s.tombstoned && expected >= 0 && expected == int64(count)-1
}

// keep moves first so that only the newest maxCount of so many events stay.
func (s *streamState) keep(count uint64) {
	if s.maxCount > 0 && count > s.maxCount {
		s.first = max(s.first, count-s.maxCount)
	}
}

// oldest returns the time before which events are too old at now, in Unix microseconds.
func (s *streamState) oldest(now int64) int64 {
	return now - int64(min(s.maxAge, api.MaxMaxAge))*1_000_000
}

// api copies: custom may lie in bbolt's memory.
func (s *streamState) api(stream string, count uint64) api.StreamState {
	return api.StreamState{
		Stream: strings.Clone(stream), FirstVersion: s.first, Version: int64(count) - 1, Deleted: s.deleted, Tombstoned: s.tombstoned,
		MaxAge: s.maxAge, MaxCount: s.maxCount, Custom: bytes.Clone(s.custom),
	}
}

// streamState returns the state of the stream; it may lie in the view's memory.
func (v *view) streamState(stream string) (streamState, error) {
	if v.st.trimmed == 0 {
		return streamState{}, nil
	}
	value, err := v.key(streamKey(stream))
	if err != nil {
		return streamState{}, err
	}
	return decodeStream(value)
}

// streamState returns the stream's state as the batch sees it.
func (a *applier) streamState(stream string) (streamState, error) {
	if a.st.trimmed == 0 {
		return streamState{}, nil
	}
	v, err := a.view(true)
	if err != nil {
		return streamState{}, err
	}
	return v.streamState(stream)
}

// putStream sets the stream's state.
func (a *applier) putStream(stream string, s *streamState) error {
	if s.zero() {
		_, err := a.dropKey(streamKey(stream))
		return err
	}
	return a.putKey(streamKey(stream), s.encode(make([]byte, 0, 32+len(s.custom))))
}

// written does to the stream's state what an append to the stream, whose head is h now, does: a deleted stream is back, and of a counted one the oldest events go.
func (a *applier) written(stream string, h *head) error {
	old, err := a.streamState(stream)
	if err != nil {
		return err
	}
	s := old
	s.deleted = false
	s.keep(h.count)
	if s.deleted == old.deleted && s.first == old.first {
		return nil
	}
	return a.putStream(stream, &s)
}

// tombstoned refuses an append to a stream that is deleted for ever.
func (a *applier) tombstoned(c *Append) (*api.Error, error) {
	if a.st.trimmed == 0 {
		return nil, nil
	}
	for i := range len(c.Others) + 1 {
		s, err := a.streamState(c.streamName(i))
		if err != nil {
			return nil, err
		}
		if s.tombstoned {
			return tombstoned(c.streamName(i)), nil
		}
	}
	return nil, nil
}

func tombstoned(stream string) *api.Error {
	return api.ErrStreamDeleted.With("stream %s was deleted for ever by a hard delete; nothing was written; use another name", stream)
}

// missing says that the stream is not there for readers, and why; nil: it is.
func missing(stream string, s *streamState, count uint64) *api.Error {
	switch {
	case s.tombstoned:
		return api.ErrStreamNotFound.With("stream %s was deleted for ever by a hard delete", stream)
	case count == 0:
		return api.ErrStreamNotFound.With("stream %s has no events; append one, or check the name", stream)
	case s.deleted:
		return api.ErrStreamNotFound.With("stream %s is deleted; an append brings it back, at version %d", stream, count)
	}
	return nil
}

func (c *StreamChange) check() *api.Error {
	if err := api.CheckStreamName(c.Stream); err != nil {
		return err
	}
	if c.Op == StreamMetadata {
		return (&api.StreamMetadataRequest{MaxAge: c.MaxAge, MaxCount: c.MaxCount, Custom: c.Custom, ExpectedVersion: &c.Expected}).Check()
	}
	return (&api.DeleteStreamRequest{ExpectedVersion: &c.Expected}).Check()
}

// apply implements Change. What is so already is answered as such, whatever version is expected: so a retry is safe, as it is for appends.
func (c *StreamChange) apply(a *applier) (any, *api.Error, error) {
	if err := c.check(); err != nil {
		return nil, err, nil
	}
	h, err := a.head(c.Stream)
	if err != nil {
		return nil, nil, err
	}
	old, err := a.streamState(c.Stream)
	if err != nil {
		return nil, nil, err
	}
	s, refused, err := c.change(a, h, old)
	if refused != nil || err != nil {
		return nil, refused, err
	}
	changed := !s.equal(&old)
	if changed {
		if !old.meets(c.Expected, h.count) {
			last := old.last(h.count)
			e := api.ErrWrongVersion.With("stream %s %s; expected was %s; nothing was changed; look at the stream again and decide anew", c.Stream, standing(last), wanted(c.Expected))
			e.ActualVersion = &last
			return nil, e, nil
		}
		if s.deleted || s.tombstoned { // what they are made of is gone, and a stream that comes back begins anew
			if _, err := a.dropKeys(snapshotPrefix(c.Stream), "", 0); err != nil {
				return nil, nil, err
			}
		}
		if err := a.putStream(c.Stream, &s); err != nil {
			return nil, nil, err
		}
	}
	return StreamResult{State: s.api(c.Stream, h.count), Changed: changed}, nil, nil
}

func (s *streamState) equal(o *streamState) bool {
	return s.first == o.first && s.deleted == o.deleted && s.tombstoned == o.tombstoned && s.maxAge == o.maxAge && s.maxCount == o.maxCount && bytes.Equal(s.custom, o.custom)
}

// change returns the state as the change would leave it.
func (c *StreamChange) change(a *applier, h *head, s streamState) (streamState, *api.Error, error) {
	switch c.Op {
	case StreamMetadata:
		if s.tombstoned {
			return s, tombstoned(c.Stream), nil
		}
		s.maxAge, s.maxCount, s.custom = c.MaxAge, c.MaxCount, c.Custom
		s.keep(h.count)
	case StreamTombstone:
		if h.count == 0 {
			return s, missing(c.Stream, &s, 0), nil
		}
		s = streamState{first: h.count, tombstoned: true}
	case StreamDelete:
		if s.tombstoned {
			return s, tombstoned(c.Stream), nil
		}
		if h.count == 0 {
			return s, missing(c.Stream, &s, 0), nil
		}
		s.first, s.deleted = h.count, true
	case StreamTruncate:
		if s.tombstoned {
			return s, tombstoned(c.Stream), nil
		}
		if refused := missing(c.Stream, &s, h.count); refused != nil {
			return s, refused, nil
		}
		if last := int64(h.count) - 1; c.Before > h.count {
			e := api.ErrWrongVersion.With("stream %s is at version %d, so before can be %d at most; nothing was changed", c.Stream, last, h.count)
			e.ActualVersion = &last
			return s, e, nil
		}
		s.first = max(s.first, c.Before)
	case StreamExpire:
		if s.maxAge == 0 || !s.there(h.count) {
			return s, nil, nil
		}
		first, err := a.expired(h, &s, c.Time)
		s.first = first
		return s, nil, err
	}
	return s, nil, nil
}

// expired returns the first version from s.first on that is not too old at now, or the one expireStep behind it.
func (a *applier) expired(h *head, s *streamState, now int64) (uint64, error) {
	v, err := a.view(true)
	if err != nil {
		return 0, err
	}
	version, oldest := s.first, s.oldest(now)
	for end := min(h.count, s.first+expireStep); version < end; {
		positions, err := v.positions(h, version, min(lastStretch, end-version))
		if err != nil {
			return 0, err
		}
		for _, position := range positions {
			value, err := v.record(position)
			if err != nil {
				return 0, err
			}
			rec, err := peekRecord(position, value)
			if err != nil {
				return 0, err
			}
			if rec.stream != h.number || rec.version != version {
				return 0, misled(h, version, position, rec.stream, rec.version)
			}
			if rec.time >= oldest {
				return version, nil
			}
			version++
		}
	}
	return version, nil
}

// misled says that pointers led to another event than they promised.
func misled(h *head, version, position, stream, found uint64) error {
	return fmt.Errorf("%w: pointers of stream number %d version %d lead to event %d, which is version %d of stream number %d", ErrDamaged, h.number, version, position, found, stream)
}

// StreamState returns what there is of a stream beside its events, and the entry the state is at. A stream that was never written is there when it has metadata.
func (f *FSM) StreamState(stream string) (state api.StreamState, exists bool, applied uint64, err error) {
	err = f.viewStream(stream, func(v *view, h head) error {
		if err := v.whole(); err != nil {
			return err
		}
		s, err := v.streamState(stream)
		if err != nil {
			return err
		}
		state, exists, applied = s.api(stream, h.count), h.count > 0 || !s.zero(), v.st.applied
		return nil
	})
	return state, exists, applied, err
}
