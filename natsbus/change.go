package natsbus

import (
	"errors"
	"strings"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// change is a write that is not an append. It is the same whichever leader carries it out, and unless it says once, once or twice makes no difference, but for what is told: see tells.
type change struct {
	raw   []byte
	crowd bool // see counts
	once  bool // a second time it might meet what somebody did since the first
	start func(done stores.Done) *api.Error
}

func (c *change) begin(done func(any, *api.Error)) *api.Error { return c.start(done) }
func (c *change) payload() ([]byte, error)                    { return c.raw, nil }
func (c *change) repeatable() bool                            { return !c.once }

// tells: a second try may find that the stream has gone on since the first, or a store that the first has filled.
func (c *change) tells(refusal *api.Error) bool {
	return !refusal.Retryable() && !errors.Is(refusal, api.ErrWrongVersion) && !errors.Is(refusal, api.ErrStoreFull)
}

// only has the change carried out once, when it is so.
func (c *change) only(once bool) *change {
	if c != nil {
		c.once = once
	}
	return c
}

// newChange decodes the request of a verb that is not append.
func newChange(r *request, s *stores.Store) (write, *api.Error) {
	name := r.subject.Name
	switch r.subject.Verb {
	case "snapshot":
		var q api.SnapshotPutRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.PutSnapshot(name, q, done) })
	case "snapshot_delete":
		var q api.SnapshotDeleteRequest
		w, err := streamChange(r, &q, func(done stores.Done) *api.Error { return s.DeleteSnapshots(name, q, done) })
		return w.only(q.Version == nil && q.UpTo == nil), err
	case "restore":
		var q api.RestoreRequest
		if name != "" {
			return nil, api.ErrBadSubject.With("write.restore takes no name; leave %q out", name)
		}
		err := api.Unmarshal(r.message.Data(), &q)
		return &change{raw: r.message.Data(), start: func(done stores.Done) *api.Error { return s.Restore(q, done) }}, err
	case "delete":
		var q api.DeleteStreamRequest
		w, err := streamChange(r, &q, func(done stores.Done) *api.Error { return s.DeleteStream(name, q, done) })
		return w.only(q.ExpectedVersion == nil), err
	case "truncate":
		var q api.TruncateStreamRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.TruncateStream(name, q, done) })
	case "metadata":
		var q api.StreamMetadataRequest
		w, err := streamChange(r, &q, func(done stores.Done) *api.Error { return s.PutStreamMetadata(name, q, done) })
		return w.only(true), err // what somebody else has set since the first try would be gone: the version that may be expected does not move with metadata
	}
	if strings.HasPrefix(r.subject.Verb, "subscription.") {
		return newSubscriptionChange(r, s)
	}
	return nil, api.UnknownVerb(r.subject)
}

// streamChange decodes the request of a verb behind which a stream is named.
func streamChange(r *request, into any, start func(stores.Done) *api.Error) (*change, *api.Error) {
	if err := api.CheckStreamName(r.subject.Name); err != nil {
		return nil, err
	}
	return &change{raw: r.message.Data(), start: start}, api.Unmarshal(r.message.Data(), into)
}
