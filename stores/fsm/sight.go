package fsm

// sight is what a reader can see: an event is there for it unless its version is below the first one that its stream keeps, or its stream has a maximal age and the
// event is older. While no stream has a state of its own, nothing is asked.
type sight struct {
	v     *view
	now   int64 // Unix microseconds; 0: no event is too old
	name  func(*record) (string, error)
	known map[uint64]streamState // by stream number; of the states only what sight asks
	left  int                    // events that a page may still pass over without giving any
}

// passOver is how many events that are gone a page passes over at most; then it ends early and says how far it came.
const passOver = 20_000

func (v *view) sight(now int64, name func(*record) (string, error)) *sight {
	return &sight{v: v, now: now, name: name, left: passOver}
}

// hides reports whether the event of the record is gone.
func (s *sight) hides(rec *record) (bool, error) {
	if rec.stub || s.v.st.trimmed == 0 {
		return rec.stub, nil
	}
	state, ok := s.known[rec.stream]
	if !ok {
		name, err := s.name(rec)
		if err != nil {
			return false, err
		}
		if state, err = s.v.streamState(name); err != nil {
			return false, err
		}
		if s.known == nil {
			s.known = make(map[uint64]streamState)
		}
		state.custom = nil
		s.known[rec.stream] = state
	}
	return state.hides(rec.version, rec.time, s.now), nil
}

// hidesAt is hides, of a record that was not decoded yet. Also where no stream has a state there may be stubs, in a store that was restored: a backup may hold some whose stream's state it
// does not.
func (s *sight) hidesAt(position uint64, value []byte) (bool, error) {
	if s.v.st.trimmed == 0 && !looksLikeStub(position, value) {
		return false, nil
	}
	rec, err := peekRecord(position, value)
	if err != nil {
		return false, err
	}
	hidden, err := s.hides(&rec)
	if hidden {
		s.left--
	}
	return hidden, err
}

func (s *streamState) hides(version uint64, time, now int64) bool {
	return version < s.first || s.maxAge > 0 && now > 0 && time < s.oldest(now)
}
