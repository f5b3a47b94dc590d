package stores

import (
	"errors"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// Streams are tended in the background, one store after the other: the leader proposes expiries of events that are too old, and every replica scavenges what is gone and gives the
// space to the file system. What there is to do is done in small steps, with a pause after each as long as the step took, so that it takes half of one core and of the disk at most.
const (
	tendEvery   = 5 * time.Second  // how often the manager looks
	tendAtMost  = 20 * time.Second // at one store, before it is the next one's turn
	expireAtOne = 16               // streams whose expiries wait together: each reads a thousand events while it is applied
)

// tend tends all stores now and then, until stop is closed.
func (m *Manager) tend(stop <-chan struct{}) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, s := range m.List() {
				s.tend(stop)
			}
		case <-stop:
			return
		}
	}
}

// tend does what there is to do for the store's streams.
func (s *Store) tend(stop <-chan struct{}) {
	deadline := time.Now().Add(tendAtMost)
	steps := func(step func() bool) {
		for more := true; more && time.Now().Before(deadline); {
			began := time.Now()
			more = step()
			select {
			case <-time.After(time.Since(began)):
			case <-stop:
				return
			}
		}
	}
	var cut []string
	steps(func() (more bool) {
		cut, more = s.expire(cut, stop)
		return more
	})
	steps(s.scavenge)
	steps(s.giveBack)
}

// expire makes events that are too old gone for good. cut are the streams of which the last step cut something: there may be more in them. more reports whether another step should
// follow.
func (s *Store) expire(cut []string, stop <-chan struct{}) (_ []string, more bool) {
	if s.Leadership().Role != raftnode.Serving || s.machine.Pressure() > maxPressure/2 {
		return nil, false
	}
	now := s.now().UnixMicro()
	more = true // streams were not looked for yet
	if len(cut) < expireAtOne {
		var found []string
		var err error
		if found, more, err = s.machine.Expirable(now, expireAtOne-len(cut)); err != nil {
			s.log.Error("looking for events that are too old failed", "error", err)
			return nil, false
		}
		cut = append(cut, found...)
	}
	results := make(chan string, len(cut)) // each stream is told once: its name when something was cut, else nothing
	for _, stream := range cut {
		c := &fsm.StreamChange{Op: fsm.StreamExpire, Stream: stream, Expected: api.ExpectAny, Time: now}
		if err := s.change(c, func(v any) any { return v }, func(v any, err *api.Error) {
			if r, ok := v.(fsm.StreamResult); ok && err == nil && r.Changed {
				results <- stream
			} else {
				results <- ""
			}
		}); err != nil {
			results <- ""
		}
	}
	var again []string
	for range cut {
		select {
		case stream := <-results:
			if stream != "" {
				again = append(again, stream)
			}
		case <-stop:
			return nil, false
		}
	}
	return again, more || len(again) > 0
}

// scavenge makes a step of replacing what is gone.
func (s *Store) scavenge() (more bool) {
	did, err := s.machine.Scavenge()
	if err != nil { // it has ended the replica through OnFatal
		return false
	}
	s.scavenged.Add(uint64(did.Events))
	return did.More
}

// giveBack makes a step of giving what is free to the file system.
func (s *Store) giveBack() (more bool) {
	n, more, err := s.machine.GiveBack()
	s.givenBack.Add(uint64(n))
	switch {
	case errors.Is(err, fsm.ErrNoHoles):
		if !s.noHoles.Swap(true) { // once; what is free is used for new events all the same
			s.log.Warn("space of events that are gone is used again, but not given back", "error", err)
		}
	case err != nil:
		s.log.Error("space was not given back", "error", err)
	case n > 0:
		s.log.Info("space of events that are gone was given back", "bytes", n, "in_all", s.givenBack.Load(), "events_scavenged", s.scavenged.Load())
	}
	return more && err == nil
}

// Scavenged returns how many events this replica has scavenged since it was opened, and how many bytes it has given back to the file system.
func (s *Store) Scavenged() (events, bytes uint64) { return s.scavenged.Load(), s.givenBack.Load() }
