package stores

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
)

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// appendTo appends an event with so many bytes of data; id may be empty.
func appendTo(s *Store, stream, id string, bytes int) *api.Error {
	_, err := s.Append(&Append{Stream: stream, Expected: api.ExpectAny, Events: []api.NewEvent{{ID: id, Type: "T", DataBase64: make([]byte, bytes)}}})
	return err
}

// TestLimits: every limit refuses what is beyond it with an error that names it, its value and what to do, takes what is within it, and writes nothing of what it refuses.
func TestLimits(t *testing.T) {
	_, s := openLone(t, Config{})
	three := func() *api.Error {
		_, err := s.Append(&Append{Stream: "a", Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T", Data: []byte("11")}, {Type: "T", Data: []byte("22")}, {Type: "T", Data: []byte("33")}}})
		return err
	}
	for _, row := range []struct {
		name           string
		limits         api.Limits
		beyond, within func() *api.Error
		want           *api.Error
		says           string
	}{
		{"event bytes", api.Limits{MaxEventBytes: 10}, func() *api.Error { return appendTo(s, "a", "", 11) }, func() *api.Error { return appendTo(s, "a", "", 10) }, api.ErrTooLarge, "max_event_bytes of store orders is 10"},
		{"append bytes", api.Limits{MaxAppendBytes: 5}, three, func() *api.Error { return appendTo(s, "a", "", 5) }, api.ErrTooLarge, "max_append_bytes of store orders is 5"},
		{"events", api.Limits{MaxAppendEvents: 2}, three, func() *api.Error { return appendTo(s, "a", "", 1) }, api.ErrTooLarge, "max_append_events of store orders is 2"},
		{"streams", api.Limits{MaxStreams: 1}, func() *api.Error { return appendTo(s, "b", "", 1) }, three, api.ErrStoreFull, "max_streams is 1"},
		{"bytes", api.Limits{MaxBytes: 1}, func() *api.Error { return appendTo(s, "a", "", 1) }, nil, api.ErrStoreFull, "max_bytes is 1"},
	} {
		s.SetLimits(row.limits)
		before, _ := s.Info(t.Context(), api.InfoRequest{})
		err := row.beyond()
		if !errors.Is(err, row.want) || !strings.Contains(err.Description, row.says) || !strings.Contains(err.Description, "nothing was written") || err.Retryable() {
			t.Errorf("%s: beyond: got %v, want %s that says %q", row.name, err, row.want.Name, row.says)
		}
		if after, _ := s.Info(t.Context(), api.InfoRequest{}); after.Events != before.Events || after.Limits != row.limits {
			t.Errorf("%s: there were %d events and are %d; limits %+v", row.name, before.Events, after.Events, after.Limits)
		}
		if row.within == nil {
			s.SetLimits(api.Limits{})
			row.within = row.beyond
		}
		if err := row.within(); err != nil {
			t.Errorf("%s: within: %v", row.name, err)
		}
	}
}

// TestChangesThatAreThereInAFullStore: what is not an append is held against the limits only when it would write something. Every consumer may create its subscription when it starts, and
// whoever lost an answer may send his change again.
func TestChangesThatAreThereInAFullStore(t *testing.T) {
	_, s := openLone(t, Config{})
	if err := appendTo(s, "cart", "", 1); err != nil {
		t.Fatal(err)
	}
	var a answers
	create := func(config api.SubscriptionConfig) (*api.SubscriptionCreateResponse, *api.Error) {
		if err := config.Complete(""); err != nil {
			t.Fatal(err)
		}
		return ask[api.SubscriptionCreateResponse](&a, func(done Done) *api.Error { return s.CreateSubscription("mail", config, done) })
	}
	metadata := func(custom string) (*api.StreamStateResponse, *api.Error) {
		return ask[api.StreamStateResponse](&a, func(done Done) *api.Error {
			return s.PutStreamMetadata("cart", api.StreamMetadataRequest{Custom: []byte(custom)}, done)
		})
	}
	snapshot := func(r api.SnapshotPutRequest) (*api.SnapshotPutResponse, *api.Error) {
		return ask[api.SnapshotPutResponse](&a, func(done Done) *api.Error { return s.PutSnapshot("cart", r, done) })
	}
	first := func(what string, err *api.Error) {
		t.Helper()
		if err != nil {
			t.Fatal(what, err)
		}
	}
	_, err := create(api.SubscriptionConfig{})
	first("create", err)
	_, err = metadata(`{"a": 1}`)
	first("metadata", err)
	_, err = snapshot(api.SnapshotPutRequest{Data: []byte("1")})
	first("snapshot", err)
	s.SetLimits(api.Limits{MaxBytes: 1})
	if r, err := create(api.SubscriptionConfig{}); err != nil || r.Created {
		t.Errorf("create again: %+v, %v", r, err)
	}
	if _, err := create(api.SubscriptionConfig{Ordered: true}); !errors.Is(err, api.ErrSubscriptionExists) {
		t.Errorf("create another one of the name: %v", err)
	}
	if r, err := metadata(`{"a":1}`); err != nil || r.Changed {
		t.Errorf("metadata again: %+v, %v", r, err)
	}
	if r, err := snapshot(api.SnapshotPutRequest{Data: []byte("1")}); err != nil || !r.Replaced {
		t.Errorf("snapshot again: %+v, %v", r, err)
	}
	if _, err := metadata(`{"a":2}`); !errors.Is(err, api.ErrStoreFull) {
		t.Errorf("other metadata: %v", err)
	}
	for _, r := range []api.SnapshotPutRequest{{Data: []byte("2")}, {DataBase64: []byte("1")}, {Data: []byte("1"), Type: "T"}, {Data: []byte("1"), Metadata: []byte(`{}`)}} {
		if _, err := snapshot(r); !errors.Is(err, api.ErrStoreFull) {
			t.Errorf("another snapshot, %+v: %v", r, err)
		}
	}
}

// TestLimitsAndRetries: an append that was taken is still answered with its first result when it comes again after the store became full, or its limits lower.
func TestLimitsAndRetries(t *testing.T) {
	_, s := openLone(t, Config{})
	if err := appendTo(s, "a", "id-1", 100); err != nil {
		t.Fatal(err)
	}
	for _, l := range []api.Limits{{MaxBytes: 1}, {MaxEventBytes: 1}, {MaxStreams: 1}} {
		s.SetLimits(l)
		res, err := s.Append(&Append{Stream: "a", Expected: api.ExpectNoStream, Events: []api.NewEvent{{ID: "id-1", Type: "T", DataBase64: make([]byte, 100)}}})
		if err != nil || !res.Duplicate {
			t.Errorf("%+v: the retry: %+v, %v", l, res, err)
		}
	}
}

// TestStreamLimitIsExact: of many appends at once, each to a stream of its own, exactly as many succeed as the limit has room for; those to one stream count once.
func TestStreamLimitIsExact(t *testing.T) {
	_, s := openLone(t, Config{})
	s.SetLimits(api.Limits{MaxStreams: 20})
	var wg sync.WaitGroup
	var mu sync.Mutex
	done, full := 0, 0
	for i := range 100 {
		wg.Go(func() {
			err := appendTo(s, fmt.Sprintf("s%d", i/2), "", 1)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case errors.Is(err, api.ErrStoreFull):
				full++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, err := s.Info(t.Context(), api.InfoRequest{})
	if err != nil || info.Streams != 20 || done != 40 || full != 60 {
		t.Errorf("%d streams, %d appends done, %d refused, %v; want 20, 40, 60", info.Streams, done, full, err)
	}
	if n := len(s.limiter.opening); n != 0 {
		t.Errorf("%d streams are being opened, and nothing is under way", n)
	}
}

// TestRate: a bucket's worth of appends goes at once, the next is told how long to wait, and after that wait it goes.
func TestRate(t *testing.T) {
	c := &clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	_, s := openLone(t, Config{Now: c.now})
	s.SetLimits(api.Limits{MaxAppendsPerSecond: 5})
	for round := range 3 {
		for i := range 5 {
			if err := appendTo(s, "a", "", 1); err != nil {
				t.Fatalf("round %d, append %d: %v", round, i, err)
			}
		}
		err := appendTo(s, "a", "", 1)
		if !errors.Is(err, api.ErrRateLimited) || !err.Retryable() || err.RetryAfterMS != 200 || !strings.Contains(err.Description, "max_appends_per_second of store orders is 5") {
			t.Fatalf("round %d: got %v, retry_after_ms %d", round, err, err.RetryAfterMS)
		}
		c.move(time.Duration(err.RetryAfterMS) * time.Millisecond)
		if err := appendTo(s, "a", "", 1); err != nil {
			t.Errorf("round %d, after the wait: %v", round, err)
		}
		if err := appendTo(s, "a", "", 1); !errors.Is(err, api.ErrRateLimited) {
			t.Errorf("round %d, at once after that: %v", round, err)
		}
		c.move(time.Second)
	}
	s.SetLimits(api.Limits{})
	for range 20 {
		if err := appendTo(s, "a", "", 1); err != nil {
			t.Fatal(err)
		}
	}
}
