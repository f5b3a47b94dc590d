package stores

import (
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// restingManager has so many stores with open files, and no Raft groups.
func restingManager(t *testing.T, n int) (*Manager, []*Store) {
	m := &Manager{stores: make(map[string]*Store), stop: make(chan struct{})}
	list := make([]*Store, n)
	for i := range list {
		f, err := fsm.Open(fsm.Config{Path: filepath.Join(t.TempDir(), "store.db"), Store: 1, Incarnation: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		list[i] = &Store{spec: Spec{Name: fmt.Sprintf("s%04d", i)}, machine: f}
		m.stores[list[i].Name()] = list[i]
	}
	return m, list
}

func use(t *testing.T, s *Store, index uint64) {
	t.Helper()
	s.machine.ApplyBatch([]*raft.Log{{Index: index, Term: 1, Type: raft.LogNoop}})
}

func TestIdleStoresRest(t *testing.T) {
	m, list := restingManager(t, 2)
	var seen map[*Store]idleness
	for i := range restAfter {
		if list[1].machine.Resting() {
			t.Fatalf("it rests after %d sweeps, want %d", i, restAfter)
		}
		use(t, list[0], uint64(i+1))
		seen = m.sweep(seen)
	}
	m.sweep(seen)
	if list[0].machine.Resting() || !list[1].machine.Resting() {
		t.Errorf("the store in use rests: %v, the other: %v; want false, true", list[0].machine.Resting(), list[1].machine.Resting())
	}
	use(t, list[1], 1)
	if list[1].machine.Resting() {
		t.Error("the store that rested does not take an entry")
	}
}

// With many files open, whoever was not used since the last sweep rests, and no more than it takes. Those in use are bounded by fsm.Shared.
func TestTooManyOpenFiles(t *testing.T) {
	m, list := restingManager(t, restOpen+3)
	seen := m.sweep(nil)
	for _, s := range list[:restOpen] {
		use(t, s, 1)
	}
	m.sweep(seen)
	for i, s := range list {
		if got, want := s.machine.Resting(), i >= restOpen; got != want {
			t.Errorf("store %d rests: got %v, want %v", i, got, want)
		}
	}
}

// Whoever looks at every store now and then, for metrics say, is told the same of one that rests, and does not wake it.
func TestInfoLetsAStoreRest(t *testing.T) {
	_, s := openLone(t, Config{})
	look := func() *api.StoreInfoResponse {
		t.Helper()
		info, err := s.Info(t.Context(), api.InfoRequest{ReadOptions: api.ReadOptions{Consistency: api.Local}})
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if err := appendTo(s, "a", "", 1); err != nil {
		t.Fatal(err)
	}
	if err := s.machine.Flush(); err != nil {
		t.Fatal(err)
	}
	before := look()
	if rests, err := s.machine.Rest(); !rests || err != nil {
		t.Fatal(rests, err)
	}
	if now := look(); !reflect.DeepEqual(now, before) || now.Events != 1 || now.Bytes == 0 {
		t.Errorf("of the store that rests: %+v, before %+v", now, before)
	}
	if !s.machine.Resting() {
		t.Error("a look has woken it")
	}
}
