package stores

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// openLone opens a store of one replica, which serves when it returns. cfg says what the manager needs beside a node and a folder.
func openLone(t *testing.T, cfg Config) (*Manager, *Store) {
	t.Helper()
	return openLoneWith(t, cfg, func(*Manager) {})
}

// openLoneWith is openLone with a manager that is changed before it opens the store.
func openLoneWith(t *testing.T, cfg Config, change func(*Manager)) (*Manager, *Store) {
	t.Helper()
	dir := t.TempDir()
	identity, err := raftnode.OpenIdentity(dir, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { identity.Close() })
	node, err := raftnode.Open(raftnode.Config{
		Identity: identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
		Resolve: func(string) (string, error) { return "", errors.New("there is no other member") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	cfg.Node, cfg.Dir, cfg.OnFatal = node, dir, func(err error) { t.Error(err) }
	m := NewManager(cfg)
	change(m)
	t.Cleanup(func() { m.Close() })
	s, err := m.Open(Spec{Name: "orders", ID: 1, Incarnation: 1, Members: []string{identity.ServerID()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
		t.Fatal(err)
	}
	return m, s
}

// The entries that a replica applies while it is opened may show damage before the manager has listed it. It is closed, and not left open with a machine that has failed.
func TestDamageThatIsMetBeforeAStoreIsListed(t *testing.T) {
	var closing []string
	m, first := openLone(t, Config{OnClosing: func(s *Store, dropped bool) { closing = append(closing, s.Name()) }})
	spec := Spec{Name: "other", ID: 2, Incarnation: 1, Members: first.spec.Members}
	dir := m.dir(spec)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(m, spec, dir)
	if err != nil {
		t.Fatal(err)
	}
	reason := fmt.Errorf("%w: an event is missing", fsm.ErrDamaged)
	m.damaged(s, dir, reason)
	if _, err := m.list(spec, s, nil); !errors.Is(err, fsm.ErrDamaged) {
		t.Errorf("the store is opened: %v", err)
	}
	if len(closing) != 1 || closing[0] != "other" {
		t.Errorf("whoever heard of its leadership is told that %v close", closing)
	}
	if _, ok := m.Get("other"); ok {
		t.Error("it is listed")
	}
	if list := m.Failures(); len(list) != 1 || !errors.Is(list[0].Err, fsm.ErrDamaged) {
		t.Errorf("failures: %v", list)
	}
	if _, err := s.group.Propose([]byte("x")); !errors.Is(err, raftnode.ErrClosed) {
		t.Errorf("its group goes on: %v", err)
	}
}

// However often a store's state file is flushed by something else than its timer, and the store written to again, no more than one timed flush of it is due.
func TestTimedFlushesDoNotPileUp(t *testing.T) {
	_, s := openLone(t, Config{})
	due := func() time.Time {
		s.flushes.mu.Lock()
		defer s.flushes.mu.Unlock()
		return s.flushes.next
	}
	began := time.Now()
	for i := range 200 {
		done := make(chan *api.Error, 1)
		if err := s.Begin(&Append{Stream: "s", Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T"}}}, func(_ any, err *api.Error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := s.machine.Flush(); err != nil {
			t.Fatal(i, err)
		}
	}
	// A timer fires a second after it was set, and then another one may be set: so many at most, and as much again for a slow machine.
	most := 2 * (2 + int(time.Since(began)/flushEvery))
	if left := time.Until(due()) - flushEvery; left > time.Duration(most)*flushGap {
		t.Errorf("after 200 flushes the next timed one is due %s late", left)
	}
}
