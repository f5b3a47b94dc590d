package stores

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/quorate/quorate/api"
)

// limiter holds appends against the limits of the store's record. Only the leader asks it, before it proposes.
//
// A refusal must be true: an append that is refused for good was not written and will not be. A client that lost an answer sends its append again, and meanwhile the
// store may have become full, by that very append. So an append whose first event is there already is let through, for the state machine to recognise it; and a store
// that is full while appends are under way asks to be tried again.
type limiter struct {
	mu     sync.Mutex // guards what follows
	set    api.Limits
	bucket *rate.Limiter // nil: as many appends as come
	// opening is the streams of appends under way, which may begin them, and how many appends that are. It is kept while the number of streams is limited.
	opening map[string]int
}

// SetLimits changes what the store may take, from the next append on.
func (s *Store) SetLimits(l api.Limits) {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	if old := s.limiter.set.MaxAppendsPerSecond; old != l.MaxAppendsPerSecond {
		s.limiter.bucket = nil
		if n := l.MaxAppendsPerSecond; n > 0 {
			s.limiter.bucket = rate.NewLimiter(rate.Limit(n), n)
		}
	}
	s.limiter.set = l
}

// Limits returns what the store may take.
func (s *Store) Limits() api.Limits {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	return s.limiter.set
}

// after calls release, if there is something to release, and done.
func after(release func(), done Done) Done {
	if release == nil {
		return done
	}
	return func(reply any, err *api.Error) {
		release()
		done(reply, err)
	}
}

// admit refuses an append that is beyond the store's limits. Otherwise release, unless it is nil, is to be called once the append has its result.
func (s *Store) admit(a *Append) (release func(), refused *api.Error) {
	l := s.Limits()
	if l == (api.Limits{}) {
		return nil, nil
	}
	if refused = s.tooLarge(a, &l); refused == nil && l.MaxBytes > 0 {
		refused = s.tooFull(&l)
	}
	if refused == nil && l.MaxStreams > 0 {
		release, refused = s.openStreams(a, &l)
	}
	if refused != nil {
		again, err := s.writtenBefore(a)
		if err != nil {
			return nil, s.apiError(err)
		}
		if !again {
			return nil, refused
		}
		return nil, nil
	}
	if refused = s.tooOften(); refused != nil {
		after(release, func(any, *api.Error) {})(nil, nil) // it is not under way
		return nil, refused
	}
	return release, nil
}

func (s *Store) tooLarge(a *Append, l *api.Limits) *api.Error {
	if l.MaxAppendEvents > 0 && len(a.Events) > l.MaxAppendEvents {
		return api.ErrTooLarge.With("%d events; the limit max_append_events of store %s is %d; split the append; nothing was written", len(a.Events), s.Name(), l.MaxAppendEvents)
	}
	sum := 0
	for i := range a.Events {
		e := &a.Events[i]
		n := len(e.Data) + len(e.DataBase64) + len(e.Metadata)
		if l.MaxEventBytes > 0 && n > l.MaxEventBytes {
			return api.ErrTooLarge.With("events[%d]: data and metadata have %d bytes; the limit max_event_bytes of store %s is %d; keep large bodies elsewhere and append a reference; nothing was written",
				i, n, s.Name(), l.MaxEventBytes)
		}
		sum += n
	}
	if l.MaxAppendBytes > 0 && sum > l.MaxAppendBytes {
		return api.ErrTooLarge.With("data and metadata of all events have %d bytes; the limit max_append_bytes of store %s is %d; split the append; nothing was written", sum, s.Name(), l.MaxAppendBytes)
	}
	return nil
}

func (s *Store) tooFull(l *api.Limits) *api.Error {
	n, err := s.machine.Bytes()
	switch {
	case err != nil:
		return s.apiError(err)
	case n < l.MaxBytes:
		return nil
	case s.door.busy(): // what is under way may be this append, sent before
		e := api.ErrRateLimited.With("store %s has %d bytes, its limit max_bytes is %d, and appends are under way; nothing was written; ask again to learn whether it is full", s.Name(), n, l.MaxBytes)
		e.RetryAfterMS = 10
		return e
	}
	return api.ErrStoreFull.With("store %s has %d bytes, and its limit max_bytes is %d; nothing was written; raise the limit (%s), or use another store",
		s.Name(), n, l.MaxBytes, s.raise("max-bytes"))
}

// admitBytes refuses what is not an append when the store is full. Whoever asks looks then whether it is there already, as admit does: who sends something again, or says what is so, is
// not told that nothing was written.
func (s *Store) admitBytes() *api.Error {
	if l := s.Limits(); l.MaxBytes > 0 {
		return s.tooFull(&l)
	}
	return nil
}

func (s *Store) raise(flag string) string {
	return fmt.Sprintf("quorate store update %s --%s N", s.Name(), flag)
}

// openStreams counts the streams that the append may begin. It is exact: what is under way is counted with what is there, in one state.
func (s *Store) openStreams(a *Append, l *api.Limits) (release func(), refused *api.Error) {
	names := []string{a.Stream}
	if a.Stream == "" {
		first, others, _ := spread(a.Events)
		names = append([]string{first}, others...)
	}
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	opening := s.limiter.opening
	if s.machine.StreamsNow()+uint64(len(opening)+len(names)) > uint64(l.MaxStreams) { // some of them may be there already
		all := make([]string, 0, len(opening)+len(names))
		for name := range opening {
			all = append(all, name)
		}
		_, ours, err := s.machine.StreamCount(names)
		if err != nil {
			return nil, s.apiError(err)
		}
		for _, name := range names {
			if opening[name] == 0 {
				all = append(all, name)
			}
		}
		streams, missing, err := s.machine.StreamCount(all)
		if err != nil {
			return nil, s.apiError(err)
		}
		if ours > 0 && streams+uint64(missing) > uint64(l.MaxStreams) {
			return nil, api.ErrStoreFull.With("store %s has %d streams, and its limit max_streams is %d; nothing was written; append to a stream that is there, or raise the limit (%s)",
				s.Name(), streams, l.MaxStreams, s.raise("max-streams"))
		}
	}
	if opening == nil {
		opening = make(map[string]int)
		s.limiter.opening = opening
	}
	for _, name := range names {
		opening[name]++
	}
	return func() {
		s.limiter.mu.Lock()
		defer s.limiter.mu.Unlock()
		for _, name := range names {
			if opening[name]--; opening[name] == 0 {
				delete(opening, name)
			}
		}
	}, nil
}

func (s *Store) tooOften() *api.Error {
	s.limiter.mu.Lock()
	bucket, limit := s.limiter.bucket, s.limiter.set.MaxAppendsPerSecond
	s.limiter.mu.Unlock()
	if bucket == nil {
		return nil
	}
	now := s.now()
	r := bucket.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	r.CancelAt(now)
	wait = max(wait.Round(time.Millisecond), time.Millisecond)
	e := api.ErrRateLimited.With("the limit max_appends_per_second of store %s is %d; nothing was written; retry after %v, put several events into one append, or raise the limit (%s)",
		s.Name(), limit, wait, s.raise("max-appends-per-second"))
	e.RetryAfterMS = wait.Milliseconds()
	return e
}

// writtenBefore reports whether the append's first event is there: then the append is a retry.
func (s *Store) writtenBefore(a *Append) (bool, error) {
	return s.machine.HasEvent(a.Events[0].ID)
}
