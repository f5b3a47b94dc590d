package stores

import (
	"slices"
	"time"
)

// Stores that nobody uses have their state files closed (fsm.FSM.Rest): a node's memory and open files go with the stores in use, not with all there are.
// However many are in use, no more than openFiles are open: there a store rests whenever another one wakes (fsm.Shared).
const (
	restSweep = 5 * time.Second // how often the manager looks
	restAfter = 3               // sweeps without a use before a store rests …
	restOpen  = 512             // … or one, while more files than this are open: those in use may be more
)

// idleness is what the manager remembers of a store from one sweep to the next.
type idleness struct {
	uses   uint64
	sweeps int // since the uses changed
}

// restIdle closes the files of idle stores until stop is closed, and tries to open those that could not be opened.
func (m *Manager) restIdle(stop <-chan struct{}) {
	tick := time.NewTicker(restSweep)
	defer tick.Stop()
	idle := make(map[*Store]idleness)
	for {
		select {
		case <-tick.C:
			idle = m.sweep(idle)
			m.reopen()
		case <-stop:
			return
		}
	}
}

// sweep rests stores that were idle for long enough, those that were idle the longest first when too many are open, and returns what to remember.
func (m *Manager) sweep(before map[*Store]idleness) map[*Store]idleness {
	now := make(map[*Store]idleness, len(before))
	var open []*Store
	for _, s := range m.List() {
		uses := s.machine.Uses()
		i := before[s]
		if i.sweeps++; i.uses != uses {
			i = idleness{uses: uses}
		}
		now[s] = i
		if !s.machine.Resting() {
			open = append(open, s)
		}
	}
	slices.SortFunc(open, func(a, b *Store) int { return now[b].sweeps - now[a].sweeps })
	tooMany := len(open) - restOpen
	for n, s := range open {
		if i := now[s]; i.sweeps < restAfter && (i.sweeps < 1 || n >= tooMany) {
			continue
		}
		if _, err := s.machine.Rest(); err != nil {
			s.log.Error("an idle store's file was not closed cleanly", "error", err)
		}
	}
	return now
}
