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
