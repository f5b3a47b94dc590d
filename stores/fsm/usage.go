package fsm

import bolt "go.etcd.io/bbolt"

// What a leader asks before it proposes an append to a store with limits. Nothing of it is part of the replicated state: replicas may answer differently.

// Bytes returns what the state takes: the pages of the file that are in use, and what is to be written yet.
func (f *FSM) Bytes() (n int64, err error) {
	leave, err := f.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	err = f.db.View(func(tx *bolt.Tx) error {
		n = f.used(tx)
		return nil
	})
	return n, err
}

func (f *FSM) used(tx *bolt.Tx) int64 {
	stats := tx.DB().Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(tx.DB().Info().PageSize)
	return max(tx.Size()-free, 0) + int64(f.pending.Load()+f.held.Load())
}

// StreamCount returns how many streams there are, and how many of the names are not among them, in one state.
func (f *FSM) StreamCount(names []string) (streams uint64, missing int, err error) {
	err = f.viewWith(func(o overlaid) {
		for _, name := range names {
			o.add(name, f.active, f.frozen)
		}
	}, func(v *view, o overlaid) error {
		streams = v.st.streams
		for _, name := range names {
			if _, known := o[name]; known {
				continue
			}
			h, err := v.disk.head(name)
			if err != nil {
				return err
			}
			if h.count == 0 {
				missing++
			}
		}
		return nil
	})
	return streams, missing, err
}

// StreamsNow returns how many streams there are.
func (f *FSM) StreamsNow() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.streams
}

// LastPosition returns the position of the last event. It does not need the file.
func (f *FSM) LastPosition() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.position
}

// HasEvent reports whether there is an event with the id. It takes turns with the entries that are applied: it is for rare questions.
func (f *FSM) HasEvent(id string) (has bool, err error) {
	leave, err := f.enter()
	if err != nil {
		return false, err
	}
	defer leave()
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.RLock()
	a := applier{f: f, st: f.state, o: f.active, frozen: f.frozen}
	f.mu.RUnlock()
	if a.o == nil {
		a.o = newOverlay(a.st)
	}
	err = guard(func() error {
		position, _, err := a.find(id, hash64(id))
		has = position > 0
		return err
	})
	return has, err
}
