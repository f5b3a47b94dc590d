package client

import (
	"context"
	"iter"
	"time"

	"github.com/quorate/quorate/api"
)

// Subscription is a handle on a durable subscription of a store: the cluster remembers what was acknowledged, and who consumes at the same time shares the events.
// It may be used concurrently.
type Subscription struct {
	store *Store
	name  string
}

// Subscription returns a handle on the subscription. It asks nobody.
func (s *Store) Subscription(name string) *Subscription { return &Subscription{s, name} }

// Subscriptions lists the store's subscriptions in name order.
func (s *Store) Subscriptions(ctx context.Context) ([]api.SubscriptionInfo, error) {
	res, err := call[api.SubscriptionsResponse](ctx, s.client, request{subject: s.client.subjects.Read(s.name, "subscriptions", ""), body: api.ReadOptions{}})
	if err != nil {
		return nil, err
	}
	return res.Subscriptions, nil
}

// Name returns the subscription's name.
func (p *Subscription) Name() string { return p.name }

func (p *Subscription) write(verb string, twice effect, body any) request {
	return request{subject: p.store.client.subjects.Write(p.store.name, "subscription."+verb, p.name), effect: twice, body: body}
}

func (p *Subscription) read(verb string, body any) request {
	return request{subject: p.store.client.subjects.Read(p.store.name, verb, p.name), body: body}
}

// Create creates the subscription. One that exists with the same config is left as it is, so every consumer may create it when it starts.
func (p *Subscription) Create(ctx context.Context, config api.SubscriptionConfig) (*api.SubscriptionCreateResponse, error) {
	return call[api.SubscriptionCreateResponse](ctx, p.store.client, p.write("create", safe, config))
}

// Info describes the subscription.
func (p *Subscription) Info(ctx context.Context) (*api.SubscriptionResponse, error) {
	return call[api.SubscriptionResponse](ctx, p.store.client, p.read("subscription", api.ReadOptions{}))
}

// Delete drops the subscription and what it remembers, and tells whether there was one. It is not retried after a time-out, which is ErrOutcomeUnknown: it might drop one that was created since.
func (p *Subscription) Delete(ctx context.Context) (*api.SubscriptionDeleteResponse, error) {
	return call[api.SubscriptionDeleteResponse](ctx, p.store.client, p.write("delete", single, struct{}{}))
}

// Fetch gets up to limit events, waiting for at least one. They are delivered again unless they are acknowledged in time. What a lost answer held is delivered again too.
func (p *Subscription) Fetch(ctx context.Context, limit int, wait time.Duration) (*api.SubscriptionFetchResponse, error) {
	r := p.write("fetch", reads, api.SubscriptionFetchRequest{Limit: limit, WaitMS: int(wait / time.Millisecond)})
	r.wait = wait
	return call[api.SubscriptionFetchResponse](ctx, p.store.client, r)
}

// Ack says that events were processed. Done in the reply is how many of them were in flight until now: one that was acknowledged before, or is delivered again already, is not.
func (p *Subscription) Ack(ctx context.Context, positions ...uint64) (*api.SubscriptionAckResponse, error) {
	return p.settle(ctx, "ack", safe, api.SubscriptionAckRequest{Positions: positions})
}

// AckUpTo says that every event in flight up to the position was processed.
func (p *Subscription) AckUpTo(ctx context.Context, position uint64) (*api.SubscriptionAckResponse, error) {
	return p.settle(ctx, "ack", safe, api.SubscriptionAckRequest{UpTo: position})
}

// Nack says that events were not processed: they are delivered again, later, or parked. Without r.Attempts it is not retried after a time-out, which is ErrOutcomeUnknown: somebody else may have the event by then.
func (p *Subscription) Nack(ctx context.Context, r api.SubscriptionNackRequest) (*api.SubscriptionAckResponse, error) {
	return p.settle(ctx, "nack", unless(r.Repeatable()), r)
}

// Replay has parked events delivered again, all of them without positions. Then it is not retried after a time-out, which is ErrOutcomeUnknown: others may have been parked since.
func (p *Subscription) Replay(ctx context.Context, positions ...uint64) (*api.SubscriptionAckResponse, error) {
	return p.settle(ctx, "replay", unless(len(positions) > 0), api.SubscriptionReplayRequest{Positions: positions})
}

func (p *Subscription) settle(ctx context.Context, verb string, twice effect, body any) (*api.SubscriptionAckResponse, error) {
	return call[api.SubscriptionAckResponse](ctx, p.store.client, p.write(verb, twice, body))
}

// Parked yields the events that were given up, by position.
func (p *Subscription) Parked(ctx context.Context) iter.Seq2[api.ParkedEvent, error] {
	return func(yield func(api.ParkedEvent, error) bool) {
		for after := uint64(0); ; {
			res, err := p.ParkedPage(ctx, after, 1000)
			if err != nil {
				yield(api.ParkedEvent{}, err)
				return
			}
			for _, e := range res.Events {
				if !yield(e, nil) {
					return
				}
			}
			if res.End {
				return
			}
			after = res.Next
		}
	}
}

// ParkedPage gets up to limit of the events that were given up, behind the position.
func (p *Subscription) ParkedPage(ctx context.Context, after uint64, limit int) (*api.ParkedResponse, error) {
	return call[api.ParkedResponse](ctx, p.store.client, p.read("parked", api.ParkedRequest{After: after, Limit: limit}))
}
