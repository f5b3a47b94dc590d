package stores

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/quorate/quorate/api"
)

// TestFeatureWaitsForAllMembers: what needs a newer program is refused until every member can apply it; what does not is never refused; and what the store has taken once it
// takes for good, also while a member has not been heard.
func TestFeatureWaitsForAllMembers(t *testing.T) {
	var can atomic.Int64
	var heard atomic.Bool
	var member string
	_, s := openLone(t, Config{Commands: func(serverID string) (int, bool) {
		if serverID != member {
			t.Errorf("asked for %s", serverID)
		}
		return int(can.Load()), heard.Load()
	}})
	member = s.spec.Members[0]
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
