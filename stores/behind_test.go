package stores

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// holdFlushes takes all slots for flushes, as a disk that takes nothing more does. release gives them back.
func holdFlushes(m *Manager) (release func()) {
	var slots []func()
	for range flushSlots {
		slots = append(slots, m.shared.Slot())
	}
	return func() {
		for _, done := range slots {
			done()
		}
	}
}

// appendUntil appends events of so many bytes, one after the other, until one is refused, and returns the ids of those that were acknowledged.
func appendUntil(t *testing.T, s *Store, bytes, atMost int) (ids []string, refused *api.Error) {
	t.Helper()
	for i := range atMost {
		id := fmt.Sprintf("%s-%03d", s.Name(), i)
		if err := appendTo(s, "a", id, bytes); err != nil {
			return ids, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// appendAgain appends until the store takes the event, and fails the test when it refuses it for another reason than before.
func appendAgain(t *testing.T, s *Store, id string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		err := appendTo(s, "a", id, 10)
		if err == nil {
			return
		}
		if !errors.Is(err, api.ErrDiskBehind) || time.Now().After(deadline) {
			t.Fatalf("store %s: %v", s.Name(), err)
		}
	}
}

// hasExactly fails the test unless the store's events have these ids, in this order.
func hasExactly(t *testing.T, when string, s *Store, ids []string) {
	t.Helper()
	var got []string
	for after := uint64(0); ; {
		page, err := s.machine.ReadAll(fsm.AllQuery{After: after, Limit: 1000, MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			got = append(got, e.ID)
		}
		if after = page.Next; page.End {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(ids) {
		t.Errorf("%s store %s has the events %v, want those that were acknowledged: %v", when, s.Name(), got, ids)
	}
}

// TestDiskBehind: while nothing can be flushed, appends go on until the store holds too much that is not on disk, and are then refused with disk_behind and
// not written. What was acknowledged is there, before the flush and after it, and when the disk takes something again, so does the store.
func TestDiskBehind(t *testing.T) {
	m, s := openLone(t, Config{})
	release := holdFlushes(m)
	ids, refused := appendUntil(t, s, api.MaxEventData, 100)
	if !errors.Is(refused, api.ErrDiskBehind) {
		release()
		t.Fatalf("after %d MiB: got %v, want disk_behind", len(ids), refused)
	}
	if refused.Code != 503 || len(ids) < 16 || len(ids) > 64 {
		t.Errorf("refused after %d MiB with %+v", len(ids), refused)
	}
	if err := s.change(&fsm.StreamChange{Op: fsm.StreamDelete, Stream: "a", Expected: api.ExpectAny}, func(v any) any { return v }, nil); !errors.Is(err, api.ErrDiskBehind) {
		t.Errorf("a delete: got %v, want disk_behind", err)
	}
	hasExactly(t, "before the flush", s, ids)
	release()
	appendAgain(t, s, "after")
	if err := s.machine.Verify(); err != nil { // flushes
		t.Fatal(err)
	}
	hasExactly(t, "after the flush", s, append(ids, "after"))
}

// TestDiskBehindOfTheNode: the same when no store holds much, but all together do. config goes on.
func TestDiskBehindOfTheNode(t *testing.T) {
	m, first := openLoneWith(t, Config{}, func(m *Manager) {
		m.shared = fsm.NewShared(fsm.Bounds{Flushes: flushSlots, Files: 100, Unflushed: 1 << 20})
	})
	open := func(name string, id uint64) *Store {
		s, err := m.Open(Spec{Name: name, ID: id, Incarnation: 1, Members: first.Spec().Members})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
			t.Fatal(err)
		}
		return s
	}
	second, config := open("second", 2), open(api.ConfigStore, 3)
	t.Cleanup(func() { m.CloseConfig() })
	release := holdFlushes(m)
	some, refused := appendUntil(t, first, 100<<10, 10) // 1 MB: too little to be refused
	if refused != nil {
		release()
		t.Fatal(refused)
	}
	ids, refused := appendUntil(t, second, 100<<10, 100)
	if !errors.Is(refused, api.ErrDiskBehind) {
		release()
		t.Fatalf("after %d appends more: got %v, want disk_behind", len(ids), refused)
	}
	if err := appendTo(first, "a", "", 10); !errors.Is(err, api.ErrDiskBehind) {
		t.Errorf("the other store: got %v, want disk_behind", err)
	}
	if err := appendTo(config, "a", "", 10); err != nil {
		t.Errorf("config: %v", err)
	}
	release()
	appendAgain(t, first, "after")
	appendAgain(t, second, "after")
	hasExactly(t, "after the flush", first, append(some, "after"))
	hasExactly(t, "after the flush", second, append(ids, "after"))
}
