package natsbus

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// Events of a subscription with a deliver_subject are published there as live events are, with a reply subject that acknowledges: whoever responds has processed the event.
// "+ACK" does so too. The words for anything else are JetStream's.
const (
	wordNak      = "-NAK"  // not processed; may be followed by {"delay_ms":…,"reason":…}, or as JetStream has it {"delay":…} in nanoseconds
	wordTerm     = "+TERM" // give it up: it is parked; what follows is the reason
	wordProgress = "+WPI"  // still at work: the time to acknowledge begins anew

	headerAttempt = "Quorate-Attempt"
)

var _ stores.Pusher = (*Bus)(nil)

// Wanted implements stores.Pusher.
func (b *Bus) Wanted(subject string) bool {
	if be := b.backend.Load(); be != nil && be.Directory != nil && be.Directory.Foreign() != "" { // its acknowledgement would be refused, or go to the other cluster
		return false
	}
	return b.mayPush(subject) == nil && b.embedded.clients.Interest(subject) > 0
}

// mayPush refuses a subject to which the service may publish and those who create subscriptions may not. It is asked again before events are pushed: a
// subscription may have come with a backup, of a cluster with another prefix or of nobody knows whom.
func (b *Bus) mayPush(subject string) *api.Error {
	if slices.ContainsFunc(b.inboxes, func(prefix string) bool { return strings.HasPrefix(subject, prefix) }) {
		return api.ErrBadRequest.With("deliver_subject %q is an inbox, where only the one who asked may be answered; choose another", subject)
	}
	return api.CheckDeliverSubject(subject, b.cfg.Server.Prefix)
}

// Push implements stores.Pusher.
func (b *Bus) Push(s *stores.Store, subscription string, id uint64, config *api.SubscriptionConfig, e *api.DeliveredEvent) error {
	m := &nats.Msg{Subject: config.DeliverSubject, Data: e.Body(), Header: cloudEventHeaders(b.subjects, s.Name(), &e.Event)}
	m.Header[headerAttempt] = []string{strconv.Itoa(e.Attempt)}
	if config.Ack != api.AckNone {
		m.Reply = b.subjects.Write(s.Name(), "subscription.ack", fmt.Sprintf("%s.%d.%d.%d", subscription, e.Position, id, e.Attempt))
	}
	return b.clients.PublishMsg(m)
}

// newPushAck decodes what a consumer answered to an event that was pushed: write.subscription.ack.<name>.<position>.<id of the subscription>.<attempt>. Without the last two, which is what somebody may
// write by hand, it is for whichever subscription has the name, and whichever delivery is in flight.
func newPushAck(r *request, s *stores.Store) (write, *api.Error) {
	name, last, _ := strings.Cut(r.subject.Name, ".")
	var of [3]uint64 // position, id, attempt
	for i, token := range strings.Split(last, ".") {
		n, err := strconv.ParseUint(token, 10, 63)
		if err != nil || i == len(of) {
			return nil, api.ErrBadSubject.With("%q is no position with, or without, a subscription's id and an attempt; a subject that acknowledges one event is …write.subscription.ack.<name>.<position>.<id>.<attempt>", last)
		}
		of[i] = n
	}
	position, id := of[0], of[1]
	if err := api.CheckSubscriptionName(name); err != nil {
		return nil, err
	}
	w := &change{raw: r.message.Data(), crowd: true}
	nack := api.SubscriptionNackRequest{Positions: []uint64{position}, ID: id}
	if of[2] > 0 {
		nack.Attempts = []int{int(of[2])}
	}
	switch body := bytes.TrimSpace(w.raw); {
	case bytes.HasPrefix(body, []byte(wordNak)):
		var q struct {
			DelayMS int           `json:"delay_ms"`
			Delay   time.Duration `json:"delay"`
			Reason  string        `json:"reason"`
		}
		if err := api.Unmarshal(body[len(wordNak):], &q); err != nil {
			return nil, err
		}
		nack.DelayMS, nack.Reason = max(q.DelayMS, int(q.Delay.Milliseconds())), q.Reason
	case bytes.HasPrefix(body, []byte(wordTerm)):
		nack.Park, nack.Reason = true, string(bytes.TrimSpace(body[len(wordTerm):]))
	case bytes.HasPrefix(body, []byte(wordProgress)):
		w.start = func(done stores.Done) *api.Error { return s.ExtendSubscription(name, id, position, done) }
		return w, nil
	case r.message.Header().Get(api.HeaderErrorCode) != "": // the consumer is a service and reports an error
		nack.Reason = r.message.Header().Get(api.HeaderError)
	default:
		w.start = func(done stores.Done) *api.Error {
			return s.AckSubscription(name, api.SubscriptionAckRequest{Positions: nack.Positions, ID: id}, done)
		}
		return w, nil
	}
	nack.Reason = strings.ToValidUTF8(nack.Reason[:min(len(nack.Reason), api.MaxReason)], "")
	if !nack.Park { // a request that is forwarded has no headers
		raw, err := api.Marshal(map[string]any{"delay_ms": nack.DelayMS, "reason": nack.Reason})
		if err != nil {
			return nil, api.ErrInternal.With("encode the request: %v", err)
		}
		w.raw = append([]byte(wordNak+" "), raw...)
	}
	w.once = !nack.Repeatable()
	w.start = func(done stores.Done) *api.Error { return s.NackSubscription(name, nack, done) }
	return w, nil
}
