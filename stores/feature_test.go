package stores

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// TestFeatureWaitsForAllMembers: what needs a newer program is refused until every member can apply it; what does not is never refused; and what the store has taken once it
// takes for good, also while a member has not been heard.
func TestFeatureWaitsForAllMembers(t *testing.T) {
	dir := t.TempDir()
	identity, err := raftnode.OpenIdentity(dir, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer identity.Close()
	node, err := raftnode.Open(raftnode.Config{
		Identity: identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
		Resolve: func(string) (string, error) { return "", errors.New("there is no other member") },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	var can atomic.Int64
	var heard atomic.Bool
	m := NewManager(Config{
		Node: node, Dir: dir, OnFatal: func(err error) { t.Error(err) },
		Commands: func(serverID string) (int, bool) {
			if serverID != identity.ServerID() {
				t.Errorf("asked for %s", serverID)
			}
			return int(can.Load()), heard.Load()
		},
	})
	defer m.Close()
	s, err := m.Open(Spec{Name: "orders", ID: 1, Incarnation: 1, Members: []string{identity.ServerID()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
		t.Fatal(err)
	}
	none := api.ExpectNoStream
	plain := func(stream string) *Append {
		return &Append{Stream: stream, Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T"}}}
	}
	guarded := func(stream string) *Append {
		a := plain(stream)
		a.Conditions = []api.Condition{{Stream: "never", Version: &none}}
		return a
	}
	refused := func(says string) {
		t.Helper()
		_, err := s.Append(guarded("a"))
		if !errors.Is(err, api.ErrFeature) || !strings.Contains(err.Description, says) || !strings.Contains(err.Description, "n1") || err.Code != 503 {
			t.Errorf("got %v, want feature_unavailable that says %q", err, says)
		}
		if _, err := s.Append(plain("b")); err != nil {
			t.Errorf("a plain append: %v", err)
		}
	}
	refused("has not said yet")
	heard.Store(true)
	refused("upgrade it")
	can.Store(1)
	refused("upgrade it")
	if version, err := s.LastVersion("a"); err != nil || version != api.ExpectNoStream {
		t.Errorf("a refused append wrote: version %d, %v", version, err)
	}
	can.Store(Commands)
	if _, err := s.Append(guarded("a")); err != nil {
		t.Fatal(err)
	}
	can.Store(0)
	heard.Store(false)
	if res, err := s.Append(guarded("a")); err != nil || res.Version != 1 {
		t.Errorf("once all members could: %+v, %v", res, err)
	}
}
