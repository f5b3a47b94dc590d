package api

import (
	"strings"
	"time"
)

// SubscriptionConfig is what a durable subscription is created with. It never changes; delete the subscription and create it anew.
type SubscriptionConfig struct {
	After          uint64 `json:"after,omitempty"`           // begins behind this position; 0: at the store's first event
	FromEnd        bool   `json:"from_end,omitempty"`        // begins behind the last event there is when it is created
	Query          *Query `json:"query,omitempty"`           // only what it selects; left out: every event
	AckWaitMS      int    `json:"ack_wait_ms,omitempty"`     // an event that is not acknowledged so long is delivered again; default 30,000
	MaxInFlight    int    `json:"max_in_flight,omitempty"`   // events delivered and not acknowledged, at most; default 1,000
	MaxAttempts    int    `json:"max_attempts,omitempty"`    // an event that was delivered so often in vain is parked; default 10, -1: never
	Ordered        bool   `json:"ordered,omitempty"`         // an event waits until those before it in its stream are acknowledged or parked
	DeliverSubject string `json:"deliver_subject,omitempty"` // push: every event is published there, while somebody subscribes
	Ack            string `json:"ack,omitempty"`             // AckExplicit (default), or AckNone: delivered is acknowledged
	Description    string `json:"description,omitempty"`     // free text, at most 256 bytes
}

// Ways to acknowledge.
const (
	AckExplicit = "explicit"
	AckNone     = "none"
)

// SubscriptionInfo describes a subscription.
type SubscriptionInfo struct {
	Name    string             `json:"name"`
	ID      uint64             `json:"id,omitempty"` // no other of the store ever has it, whatever its name
	Config  SubscriptionConfig `json:"config"`
	Created time.Time          `json:"created"`
	Cursor  uint64             `json:"cursor"` // everything up to this position is acknowledged, parked or not selected
	Lag     uint64             `json:"lag"`    // positions between the cursor and the store's last
	Parked  uint64             `json:"parked"` // events that were given up; see replay
	Acked   uint64             `json:"acked"`  // events acknowledged since it was created

	// What only the leader knows; left out by other nodes.
	InFlight *int `json:"in_flight,omitempty"` // delivered and not acknowledged
	Waiting  *int `json:"waiting,omitempty"`   // fetch requests that wait
}

// SubscriptionCreateResponse is the result of a create. Creating again with the same config answers created false; with another it is refused.
type SubscriptionCreateResponse struct {
	Reply
	Store   string `json:"store,omitempty"`
	Created bool   `json:"created"`
	SubscriptionInfo
}

// SubscriptionFetchRequest asks for events. Who asks at the same time shares them.
type SubscriptionFetchRequest struct {
	Limit  int `json:"limit,omitempty"`   // events, 1 to MaxFetch; default 10
	WaitMS int `json:"wait_ms,omitempty"` // 0 to MaxWait: wait so long for at least one event
}

// DeliveredEvent is an event with how often it was delivered.
type DeliveredEvent struct {
	Event
	Attempt int `json:"attempt"` // 1 the first time
}

// SubscriptionFetchResponse is what a fetch got; events may be empty.
type SubscriptionFetchResponse struct {
	Reply
	Store        string           `json:"store,omitempty"`
	Subscription string           `json:"subscription,omitempty"`
	ID           uint64           `json:"id,omitempty"` // of the subscription that delivers; see SubscriptionAckRequest
	Events       []DeliveredEvent `json:"events"`
	Lag          uint64           `json:"lag"`
}

// SubscriptionAckRequest acknowledges events by position.
type SubscriptionAckRequest struct {
	Positions []uint64 `json:"positions,omitempty"` // at most MaxFetch
	UpTo      uint64   `json:"up_to,omitempty"`     // every event in flight up to this position
	// ID is that of the subscription that delivered the events. When it was deleted since, the request is refused, and does nothing to one that was created under its name. 0: whichever
	// has the name now.
	ID uint64 `json:"id,omitempty"`
}

// SubscriptionNackRequest says that events were not processed.
type SubscriptionNackRequest struct {
	Positions []uint64 `json:"positions"`
	DelayMS   int      `json:"delay_ms,omitempty"` // not again before so long; 0 to one hour
	Park      bool     `json:"park,omitempty"`     // give it up at once: it is parked, and the others go on
	Reason    string   `json:"reason,omitempty"`   // kept with a parked event; at most 256 bytes
	ID        uint64   `json:"id,omitempty"`       // as in SubscriptionAckRequest
	// Attempts are those of the deliveries that are meant, one for each position: a later delivery of the event, which somebody else may be at work on, is left alone, and so the request
	// may be sent twice. Left out: whichever is in flight.
	Attempts []int `json:"attempts,omitempty"`
	// Unseen says that nobody has looked at the events: the delivery does not count as an attempt.
	Unseen bool `json:"unseen,omitempty"`
}

// Repeatable reports whether the request has no other effect when it is carried out twice.
func (r *SubscriptionNackRequest) Repeatable() bool { return len(r.Attempts) > 0 && !r.Unseen }

// SubscriptionAckResponse answers ack, nack and replay: how many of the positions it was about.
type SubscriptionAckResponse struct {
	Reply
	Store        string `json:"store,omitempty"`
	Subscription string `json:"subscription,omitempty"`
	Done         int    `json:"done"` // events that were in flight (of replay: parked) and now are what was asked for
	Cursor       uint64 `json:"cursor"`
}

// SubscriptionReplayRequest has parked events delivered again, from attempt 1.
type SubscriptionReplayRequest struct {
	Positions []uint64 `json:"positions,omitempty"` // left out: all
}

// SubscriptionDeleteResponse answers delete.
type SubscriptionDeleteResponse struct {
	Reply
	Store        string `json:"store,omitempty"`
	Subscription string `json:"subscription,omitempty"`
	Deleted      bool   `json:"deleted"`
}

// SubscriptionsResponse lists subscriptions in name order.
type SubscriptionsResponse struct {
	Reply
	Store         string             `json:"store,omitempty"`
	Subscriptions []SubscriptionInfo `json:"subscriptions"`
	Applied       uint64             `json:"applied"`
}

// SubscriptionResponse is one subscription.
type SubscriptionResponse struct {
	Reply
	Store string `json:"store,omitempty"`
	SubscriptionInfo
	Applied uint64 `json:"applied"`
}

// ParkedRequest lists a subscription's parked events by position.
type ParkedRequest struct {
	ReadOptions
	After uint64 `json:"after,omitempty"` // exclusive position
	Limit int    `json:"limit,omitempty"` // 1 to 1,000; default 100
}

// ParkedEvent is an event that was given up.
type ParkedEvent struct {
	Event
	Attempts int       `json:"attempts"`
	Reason   string    `json:"reason,omitempty"`
	ParkedAt time.Time `json:"parked_at"`
}

// ParkedResponse is a page of parked events.
type ParkedResponse struct {
	Reply
	Store        string        `json:"store,omitempty"`
	Subscription string        `json:"subscription,omitempty"`
	Events       []ParkedEvent `json:"events"`
	Next         uint64        `json:"next"` // after of the page that follows
	End          bool          `json:"end"`
	Applied      uint64        `json:"applied"`
}

// Types of the replies about subscriptions.
const (
	TypeSubscriptionCreate = "io.quorate.v1.subscription_create_response"
	TypeSubscriptionFetch  = "io.quorate.v1.subscription_fetch_response"
	TypeSubscriptionAck    = "io.quorate.v1.subscription_ack_response"
	TypeSubscriptionDelete = "io.quorate.v1.subscription_delete_response"
	TypeSubscription       = "io.quorate.v1.subscription_response"
	TypeSubscriptions      = "io.quorate.v1.subscriptions_response"
	TypeParked             = "io.quorate.v1.parked_response"
)

// What a config that leaves them out gets.
const (
	defaultAckWait     = 30_000
	defaultMaxInFlight = 1000
	defaultMaxAttempts = 10
	defaultFetch       = 10
)

// Complete fills the defaults in and reports the first thing that is wrong with the config. prefix begins the cluster's own subjects.
func (c *SubscriptionConfig) Complete(prefix string) *Error {
	fill := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	fill(&c.AckWaitMS, defaultAckWait)
	fill(&c.MaxInFlight, defaultMaxInFlight)
	fill(&c.MaxAttempts, defaultMaxAttempts)
	if c.Ack == "" {
		c.Ack = AckExplicit
	}
	if err := c.Check(); err != nil {
		return err
	}
	if c.DeliverSubject != "" {
		return CheckDeliverSubject(c.DeliverSubject, prefix)
	}
	return nil
}

// Check reports the first thing that is wrong with a completed config, but for its deliver_subject, which is a matter of the cluster it is used in.
func (c *SubscriptionConfig) Check() *Error {
	switch {
	case c.FromEnd && c.After != 0:
		return ErrBadRequest.With("after and from_end are both given; a subscription begins at one place")
	case c.AckWaitMS < 1 || c.AckWaitMS > MaxAckWait:
		return ErrBadRequest.With("ack_wait_ms %d is out of range; 1 to %d, or leave it out for %d", c.AckWaitMS, MaxAckWait, defaultAckWait)
	case c.MaxInFlight < 1 || c.MaxInFlight > MaxInFlight:
		return ErrBadRequest.With("max_in_flight %d is out of range; 1 to %d, or leave it out for %d", c.MaxInFlight, MaxInFlight, defaultMaxInFlight)
	case c.MaxAttempts < -1 || c.MaxAttempts > 1<<20:
		return ErrBadRequest.With("max_attempts %d is out of range; 1 to %d, -1 for any number, or leave it out for %d", c.MaxAttempts, 1<<20, defaultMaxAttempts)
	case c.Ack != AckExplicit && c.Ack != AckNone:
		return ErrBadRequest.With("ack %q is not known; use %q (default) or %q", c.Ack, AckExplicit, AckNone)
	case len(c.Description) > MaxReason:
		return ErrTooLarge.With("description has %d bytes; at most %d are allowed", len(c.Description), MaxReason)
	}
	if c.Query != nil {
		return c.Query.Check("query")
	}
	return nil
}

// CheckDeliverSubject refuses subjects where the service may publish and its caller may not: those of the cluster itself, of the server, and inboxes of others.
func CheckDeliverSubject(subject, prefix string) *Error {
	if err := CheckStreamName(subject); err != nil {
		return ErrBadRequest.With("deliver_subject %q is not a subject to publish on: tokens separated by single dots, no wildcards, spaces or control characters, at most %d bytes", subject, MaxStreamName)
	}
	first, _, _ := strings.Cut(subject, ".")
	own := Subjects{Prefix: prefix}.prefix()
	switch {
	case subject == own || strings.HasPrefix(subject, own+"."):
		return ErrBadRequest.With("deliver_subject %q lies under %s., which is the cluster's own; choose another", subject, own)
	case strings.HasPrefix(first, "$"), strings.HasPrefix(first, "_"):
		return ErrBadRequest.With("deliver_subject %q begins as subjects of the NATS server and inboxes do ($ and _); choose another", subject)
	}
	return nil
}

// Check fills the defaults in and reports the first thing that is wrong with the request.
func (r *SubscriptionFetchRequest) Check() *Error {
	if r.Limit == 0 {
		r.Limit = defaultFetch
	}
	switch {
	case r.Limit < 1 || r.Limit > MaxFetch:
		return ErrBadRequest.With("limit %d is out of range; 1 to %d, or leave it out for %d", r.Limit, MaxFetch, defaultFetch)
	case r.WaitMS < 0 || r.WaitMS > MaxWait:
		return ErrBadRequest.With("wait_ms %d is out of range; 0 to %d", r.WaitMS, MaxWait)
	}
	return nil
}

// Check reports the first thing that is wrong with the request.
func (r *SubscriptionAckRequest) Check() *Error {
	if len(r.Positions) == 0 && r.UpTo == 0 {
		return ErrBadRequest.With("positions is empty; name the events to acknowledge, or use up_to")
	}
	return checkPositions(r.Positions)
}

// Check reports the first thing that is wrong with the request.
func (r *SubscriptionNackRequest) Check() *Error {
	switch {
	case len(r.Positions) == 0:
		return ErrBadRequest.With("positions is empty; name the events that were not processed")
	case r.DelayMS < 0 || r.DelayMS > MaxNackDelay:
		return ErrBadRequest.With("delay_ms %d is out of range; 0 to %d", r.DelayMS, MaxNackDelay)
	case r.Park && r.DelayMS != 0:
		return ErrBadRequest.With("park and delay_ms do not go together: a parked event is not delivered again before it is replayed")
	case len(r.Attempts) != 0 && len(r.Attempts) != len(r.Positions):
		return ErrBadRequest.With("there are %d attempts for %d positions; one for each, or none", len(r.Attempts), len(r.Positions))
	case r.Unseen && (r.Park || r.DelayMS != 0 || r.Reason != ""):
		return ErrBadRequest.With("unseen goes with no park, delay_ms or reason: it says that nothing was tried")
	case len(r.Reason) > MaxReason:
		return ErrTooLarge.With("reason has %d bytes; at most %d are allowed", len(r.Reason), MaxReason)
	}
	return checkPositions(r.Positions)
}

// Check reports the first thing that is wrong with the request.
func (r *SubscriptionReplayRequest) Check() *Error { return checkPositions(r.Positions) }

func checkPositions(positions []uint64) *Error {
	if len(positions) > MaxFetch {
		return ErrTooLarge.With("%d positions; at most %d go into one request; split it", len(positions), MaxFetch)
	}
	return nil
}
