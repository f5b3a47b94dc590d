package natsbus

import (
	"sync"

	"github.com/quorate/quorate/api"
)

// shares divides a number of things, slots or bytes, among stores without fixed portions: a store may have as many as are free. One store alone gets half of them; n busy
// stores get a part of n+1 each, and as much stays free for a store that was quiet. So whoever comes new finds room, however many requests the others have waiting.
type shares struct {
	mu   sync.Mutex // guards what follows
	free int
	used map[string]int
}

func newShares(n int) *shares { return &shares{free: n, used: make(map[string]int)} }

// take gives the store n more, or reports how many it has.
func (s *shares) take(store string, n int) (used int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if used = s.used[store]; used+n > s.free {
		return used, false
	}
	s.free -= n
	s.used[store] = used + n
	return used + n, true
}

// give takes n back.
func (s *shares) give(store string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	if s.used[store] -= n; s.used[store] == 0 {
		delete(s.used, store)
	}
}

// shareOf names whose slots the request takes. All stores that do not exist share, so that names drawn at will get no room of their own.
func (b *Bus) shareOf(r *request) string {
	store := r.subject.Store
	if store == api.ConfigStore || store == api.ClusterStore || b.backend.Load().Config.Has(store) {
		return store
	}
	return ""
}
