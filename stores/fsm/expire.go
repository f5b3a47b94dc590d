package fsm

import (
	"errors"
	"math"

	berrors "go.etcd.io/bbolt/errors"
)

// Events that are too old are hidden from readers by their time, and stay so only while nobody raises the stream's maximal age and nobody's clock is set back. So the leader proposes
// StreamExpire for what Expirable finds; then they are gone for good, and may be scavenged.

// expireKeys is how many streams a call of Expirable looks at.
const expireKeys = 10_000

// Expirable returns streams whose first event is too old at now, limit of them at most. More says that the next call should follow: it looks at the streams behind those. When all
// were looked at, they are not looked at again before one can have such an event: a machine whose streams have none is not touched.
func (f *FSM) Expirable(now int64, limit int) (streams []string, more bool, err error) {
	s := &f.sweep
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aged == "" {
		s.agedRound, s.agedNext = s.cuts.Load(), math.MaxInt64
	}
	if f.nothingGone() || s.aged == "" && s.agedDone == s.agedRound+1 && now < s.due {
		return nil, false, nil
	}
	some, err := f.agedStreams(limit)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) { // closed meanwhile
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, a := range some {
		due := now + (now - a.state.oldest(now)) // of an event that is appended from now on
		err := f.viewStream(a.name, func(v *view, h head) error {
			if a.state.first >= h.count {
				return nil
			}
			position, err := v.seek(&h, a.state.first)
			if err != nil {
				return err
			}
			value, err := v.record(position)
			if err != nil {
				return err
			}
			rec, err := peekRecord(position, value)
			if err != nil {
				return err
			}
			if due = rec.time + (now - a.state.oldest(now)) + 1; due <= now {
				streams = append(streams, a.name)
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		s.agedNext = min(s.agedNext, due)
	}
	if s.aged == "" {
		s.agedDone, s.due = s.agedRound+1, s.agedNext
	}
	return streams, s.aged != "", nil
}

// aged is a stream with a maximal age.
type aged struct {
	name  string
	state streamState
}

// agedStreams returns the next streams that have a maximal age and are not deleted. It moves the place where expiry goes on.
func (f *FSM) agedStreams(limit int) (some []aged, err error) {
	next, looked := "", 0
	err = f.view(func(v *view) error {
		return v.scan(streamKey(""), streamKey(f.sweep.aged), func(key string, sealed []byte) (bool, error) {
			name := key[len(streamKey("")):]
			if looked++; looked > expireKeys || len(some) == limit {
				next = name
				return false, nil
			}
			value, err := unseal([]byte(key), sealed)
			if err != nil {
				return false, err
			}
			state, err := decodeStream(value)
			state.custom = nil // it lies in the view's memory
			if err == nil && state.maxAge > 0 && !state.deleted {
				some = append(some, aged{name, state})
			}
			return true, err
		})
	})
	f.sweep.aged = next
	return some, err
}
