package stores

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
)

// waitingRead begins a read that waits for long, and returns when it has looked for the first time. wait returns its answer.
func waitingRead(t *testing.T, s *Store, read func() (*api.ReadResponse, *api.Error)) (wait func() (*api.ReadResponse, *api.Error)) {
	t.Helper()
	type answer struct {
		res *api.ReadResponse
		err *api.Error
	}
	answers := make(chan answer, 1)
	uses := s.machine.Uses()
	go func() { // ends with the read
		res, err := read()
		answers <- answer{res, err}
	}()
	for s.machine.Uses() == uses {
		runtime.Gosched()
	}
	return func() (*api.ReadResponse, *api.Error) {
		t.Helper()
		select {
		case a := <-answers:
			return a.res, a.err
		case <-time.After(20 * time.Second):
			t.Fatal("the read waits on")
			return nil, nil
		}
	}
}

// When the node stops, reads that wait are answered with what there is, and those that come later do not wait.
func TestEndWaitsEndsReads(t *testing.T) {
	_, s := openLone(t, Config{})
	all := func() (*api.ReadResponse, *api.Error) {
		return s.ReadAll(t.Context(), api.ReadAllRequest{WaitMS: api.MaxWait})
	}
	stream := func() (*api.ReadResponse, *api.Error) {
		return s.ReadStream(t.Context(), "a", api.ReadStreamRequest{WaitMS: api.MaxWait})
	}
	first, second := waitingRead(t, s, all), waitingRead(t, s, stream)
	createSubscription(t, s, api.SubscriptionConfig{})
	s.EndWaits()
	for what, wait := range map[string]func() (*api.ReadResponse, *api.Error){"one that waited": first, "one that comes": waitingRead(t, s, all)} {
		if res, err := wait(); err != nil || len(res.Events) > 0 || !res.End {
			t.Errorf("%s: %+v, %v", what, res, err)
		}
	}
	if _, err := second(); !errors.Is(err, api.ErrStreamNotFound) {
		t.Errorf("of a stream that does not exist: %v", err)
	}
	var a answers
	if res, err := ask[api.SubscriptionFetchResponse](&a, func(done Done) *api.Error {
		return s.FetchSubscription("mail", api.SubscriptionFetchRequest{}, time.Now().Add(time.Hour), nil, done)
	}); err != nil || len(res.Events) > 0 {
		t.Errorf("a fetch that comes: %+v, %v", res, err)
	}
	s.EndWaits()
}

// Reads of a store that is closed here are told so at once, also those that wait; of one that was dropped they are told that there is none.
func TestReadsOfAStoreThatCloses(t *testing.T) {
	for _, r := range []struct {
		name  string
		close func(*Manager, *Store) error
		want  *api.Error
	}{
		{"dropped", (*Manager).Remove, api.ErrStoreNotFound},
		{"the node stops", func(m *Manager, _ *Store) error { return m.Close() }, api.ErrShuttingDown},
	} {
		t.Run(r.name, func(t *testing.T) {
			m, s := openLone(t, Config{})
			read := func(c string, wait int) (*api.ReadResponse, *api.Error) {
				return s.ReadAll(t.Context(), api.ReadAllRequest{WaitMS: wait, ReadOptions: api.ReadOptions{Consistency: c}})
			}
			waited := waitingRead(t, s, func() (*api.ReadResponse, *api.Error) { return read(api.Linearizable, api.MaxWait) })
			if err := r.close(m, s); err != nil {
				t.Fatal(err)
			}
			if _, err := waited(); !errors.Is(err, r.want) {
				t.Errorf("one that waited: %v", err)
			}
			for _, c := range []string{api.Linearizable, api.Local} {
				if _, err := read(c, 0); !errors.Is(err, r.want) {
					t.Errorf("one that comes, %s: %v", c, err)
				}
			}
			if _, err := s.Info(t.Context(), api.InfoRequest{ReadOptions: api.ReadOptions{Consistency: api.Local}}); !errors.Is(err, r.want) {
				t.Errorf("info: %v", err)
			}
		})
	}
}
