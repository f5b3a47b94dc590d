package natsbus

import (
	"strings"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// newSubscriptionChange decodes a request of a subscription's verb.
func newSubscriptionChange(r *request, s *stores.Store) (write, *api.Error) {
	verb, _ := strings.CutPrefix(r.subject.Verb, "subscription.")
	if verb == "ack" && strings.Contains(r.subject.Name, ".") {
		return newPushAck(r, s)
	}
	name, raw := r.subject.Name, r.message.Data()
	if _, known := api.FindVerb(r.subject); !known {
		return nil, api.UnknownVerb(r.subject)
	}
	if err := api.CheckSubscriptionName(name); err != nil {
		return nil, err
	}
	w := &change{raw: raw, crowd: verb == "ack" || verb == "nack"}
	var err *api.Error
	switch verb {
	case "create":
		var q api.SubscriptionConfig
		if err = api.Unmarshal(raw, &q); err == nil {
			err = q.Complete(r.bus.cfg.Server.Prefix)
		}
		if err == nil && q.DeliverSubject != "" {
			err = r.bus.mayPush(q.DeliverSubject)
		}
		w.start = func(done stores.Done) *api.Error { return s.CreateSubscription(name, q, done) }
	case "fetch":
		f := &fetchWrite{store: s, name: name, gone: r.askerGone()}
		if err = api.Unmarshal(raw, &f.fetch); err == nil {
			err = f.fetch.Check()
		}
		f.until = time.Now().Add(time.Duration(f.fetch.WaitMS) * time.Millisecond)
		return f, err
	case "ack":
		var q api.SubscriptionAckRequest
		err = api.Unmarshal(raw, &q)
		w.start = func(done stores.Done) *api.Error { return s.AckSubscription(name, q, done) }
	case "nack":
		var q api.SubscriptionNackRequest
		err = api.Unmarshal(raw, &q)
		w.once = !q.Repeatable()
		w.start = func(done stores.Done) *api.Error { return s.NackSubscription(name, q, done) }
	case "replay":
		var q api.SubscriptionReplayRequest
		err = api.Unmarshal(raw, &q)
		w.once = len(q.Positions) == 0
		w.start = func(done stores.Done) *api.Error { return s.ReplaySubscription(name, q, done) }
	case "delete":
		err = api.Unmarshal(raw, &struct{}{})
		w.once = true
		w.start = func(done stores.Done) *api.Error { return s.DeleteSubscription(name, done) }
	}
	return w, err
}

// fetchWrite is a fetch of a subscription. It goes to the leader as writes do and may wait there for long, so it does not count among the writes under way.
type fetchWrite struct {
	store *stores.Store
	name  string
	fetch api.SubscriptionFetchRequest
	until time.Time
	gone  func() bool
}

func (w *fetchWrite) begin(done func(any, *api.Error)) *api.Error {
	return w.store.FetchSubscription(w.name, w.fetch, w.until, w.gone, done)
}

// payload waits less long than forward does.
func (w *fetchWrite) payload() ([]byte, error) {
	q := w.fetch
	q.WaitMS = int(max(min(time.Until(w.until), forwardTimeout/2), 0) / time.Millisecond)
	return api.Marshal(q)
}

func (w *fetchWrite) repeatable() bool { return true }

func (w *fetchWrite) tells(refusal *api.Error) bool { return !refusal.Retryable() }

// counts reports whether the write counts among those under way at the leader, whose number is bounded. Fetches wait for something else than the leader's work, and
// acknowledgements come in crowds, as many as there are events in flight; the subscription itself bounds both.
func counts(w write) bool {
	switch w := w.(type) {
	case *fetchWrite:
		return false
	case *change:
		return !w.crowd
	}
	return true
}
