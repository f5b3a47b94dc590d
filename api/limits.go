package api

// Limits are what one store may take, set in its record. 0, or left out, is the cluster-wide limit where there is one, and else no limit. The store's leader
// enforces them, before anything is written.
type Limits struct {
	MaxEventBytes       int   `json:"max_event_bytes,omitempty"`        // data and metadata of one event
	MaxAppendBytes      int   `json:"max_append_bytes,omitempty"`       // data and metadata of all events of one append
	MaxAppendEvents     int   `json:"max_append_events,omitempty"`      // events in one append
	MaxStreams          int64 `json:"max_streams,omitempty"`            // streams in the store; those there are can be appended to
	MaxBytes            int64 `json:"max_bytes,omitempty"`              // what the store takes on the leader's disk, without the log; what is under way may overshoot it
	MaxAppendsPerSecond int   `json:"max_appends_per_second,omitempty"` // on average; as many may come at once after a pause
}

// Check returns what is wrong with the limits.
func (l *Limits) Check() *Error {
	for _, f := range []struct {
		name       string
		value, max int64
	}{
		{"max_event_bytes", int64(l.MaxEventBytes), MaxEventData},
		{"max_append_bytes", int64(l.MaxAppendBytes), MaxAppendRequest},
		{"max_append_events", int64(l.MaxAppendEvents), MaxAppendEvents},
		{"max_streams", l.MaxStreams, 0},
		{"max_bytes", l.MaxBytes, 0},
		{"max_appends_per_second", int64(l.MaxAppendsPerSecond), MaxAppendRate},
	} {
		switch {
		case f.value < 0:
			return ErrBadRequest.With("options.limits.%s is %d; it needs a whole number from 1, or 0 for no limit of the store's own", f.name, f.value)
		case f.max > 0 && f.value > f.max:
			return ErrBadRequest.With("options.limits.%s is %d; the cluster-wide limit is %d, and a store's own can only be lower", f.name, f.value, f.max)
		}
	}
	return nil
}

// Check returns what is wrong with the options.
func (o *StoreOptions) Check() *Error {
	if len(o.Description) > MaxDescription {
		return ErrTooLarge.With("options.description has %d bytes; at most %d are allowed", len(o.Description), MaxDescription)
	}
	return o.Limits.Check()
}
