package natsbus

import (
	"strings"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// change is a write that is not an append. It is the same whichever leader carries it out, and once or twice makes no difference.
type change struct {
	raw   []byte
	crowd bool // see counts
	start func(done stores.Done) *api.Error
}

func (c *change) begin(done func(any, *api.Error)) *api.Error { return c.start(done) }
func (c *change) payload() ([]byte, error)                    { return c.raw, nil }
func (c *change) repeatable() bool                            { return true }

// newChange decodes the request of a verb that is not append.
func newChange(r *request, s *stores.Store) (write, *api.Error) {
	name := r.subject.Name
	switch r.subject.Verb {
	case "snapshot":
		var q api.SnapshotPutRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.PutSnapshot(name, q, done) })
	case "snapshot_delete":
		var q api.SnapshotDeleteRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.DeleteSnapshots(name, q, done) })
	case "restore":
		var q api.RestoreRequest
		if name != "" {
			return nil, api.ErrBadSubject.With("write.restore takes no name; leave %q out", name)
		}
		err := api.Unmarshal(r.message.Data(), &q)
		return &change{raw: r.message.Data(), start: func(done stores.Done) *api.Error { return s.Restore(q, done) }}, err
	case "delete":
		var q api.DeleteStreamRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.DeleteStream(name, q, done) })
	case "truncate":
		var q api.TruncateStreamRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.TruncateStream(name, q, done) })
	case "metadata":
		var q api.StreamMetadataRequest
		return streamChange(r, &q, func(done stores.Done) *api.Error { return s.PutStreamMetadata(name, q, done) })
	}
	if strings.HasPrefix(r.subject.Verb, "subscription.") {
		return newSubscriptionChange(r, s)
	}
	return nil, api.UnknownVerb(r.subject)
}

// streamChange decodes the request of a verb behind which a stream is named.
func streamChange(r *request, into any, start func(stores.Done) *api.Error) (write, *api.Error) {
	if err := api.CheckStreamName(r.subject.Name); err != nil {
		return nil, err
	}
	return &change{raw: r.message.Data(), start: start}, api.Unmarshal(r.message.Data(), into)
}
