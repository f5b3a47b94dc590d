package stores

import (
	"context"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// CreateSubscription creates a durable subscription; see Begin for what it returns and when done is called. The result is an *api.SubscriptionCreateResponse. The config is
// complete.
func (s *Store) CreateSubscription(name string, config api.SubscriptionConfig, done Done) *api.Error {
	raw, err := api.Marshal(config)
	if err != nil {
		return api.ErrInternal.With("encode the config: %v", err)
	}
	if len(raw) > api.MaxSubscriptionConfig {
		return api.ErrTooLarge.With("the config has %d bytes; at most %d are allowed; use a shorter query, with prefixes for instance", len(raw), api.MaxSubscriptionConfig)
	}
	if err := s.admitBytes(); err != nil {
		if there, _, lerr := s.machine.Subscription(name); lerr != nil {
			return s.apiError(lerr)
		} else if there == nil { // else it is answered as what it is, and nothing is written
			return err
		}
	}
	return s.change(&fsm.SubscriptionCreate{Name: name, Time: s.now().UnixMicro(), Config: raw}, func(value any) any {
		v := value.(fsm.SubscriptionCreated)
		if config.DeliverSubject != "" {
			s.subscriptions.start(name)
		}
		return &api.SubscriptionCreateResponse{
			Reply: api.Reply{Type: api.TypeSubscriptionCreate}, Store: s.Name(), Created: v.Created, SubscriptionInfo: s.subscriptionInfo(&v.Subscription),
		}
	}, done)
}

// DeleteSubscription deletes a subscription and what it parked. The result is an *api.SubscriptionDeleteResponse.
func (s *Store) DeleteSubscription(name string, done Done) *api.Error {
	return s.change(&fsm.SubscriptionDelete{Name: name}, func(value any) any {
		s.tellConsumer(name, func(d *delivery) *api.Error {
			if sub, _, err := s.machine.Subscription(name); err == nil && sub != nil && sub.ID == d.id { // it was created since
				return nil
			}
			return api.ErrSubscriptionNotFound.With("subscription %s of store %s was deleted", name, s.Name())
		})
		return &api.SubscriptionDeleteResponse{Reply: api.Reply{Type: api.TypeSubscriptionDelete}, Store: s.Name(), Subscription: name, Deleted: value.(bool)}
	}, done)
}

// ReplaySubscription has parked events delivered again. The result is an *api.SubscriptionAckResponse.
func (s *Store) ReplaySubscription(name string, r api.SubscriptionReplayRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	slices.Sort(r.Positions)
	c := &fsm.SubscriptionReplay{Name: name, Positions: slices.Compact(r.Positions)}
	if len(c.Positions) > 0 && c.Positions[0] == 0 {
		return api.ErrBadRequest.With("positions begin at 1")
	}
	return s.change(c, func(value any) any {
		s.tellConsumer(name, func(d *delivery) *api.Error {
			sub, _, err := s.machine.Subscription(name)
			if err == nil && sub != nil && sub.ID == d.id {
				err = d.again(sub)
			}
			if err != nil {
				return s.apiError(err)
			}
			return nil
		})
		res := s.ackResponse(name, len(value.([]uint64)), 0)
		if sub, _, err := s.machine.Subscription(name); err == nil && sub != nil {
			res.Cursor = sub.Floor
		}
		return res
	}, done)
}

// tellConsumer tells the subscription's consumer of a change that is committed, if it has one.
func (s *Store) tellConsumer(name string, do func(*delivery) *api.Error) {
	if c, _ := s.subscriptions.find(name); c != nil {
		c.take(message{do: func(d *delivery, _ time.Time) *api.Error { return do(d) }, fail: func(*api.Error) {}})
	}
}

// FetchSubscription asks for events, and waits for one until the time if there is none. done is called once, with an *api.SubscriptionFetchResponse, when there are
// events or the wait is over. gone reports whether nobody would get them any more; nil: that cannot be told. It must not block. FetchSubscription writes nothing.
func (s *Store) FetchSubscription(name string, r api.SubscriptionFetchRequest, until time.Time, gone func() bool, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	if c, _ := s.subscriptions.find(name); c != nil && c.waiting.Load() >= maxWaiting {
		return api.ErrOverloaded.With("%d fetches wait at subscription %s; slow down and retry", maxWaiting, name)
	}
	id := uint64(0)
	f := &fetch{limit: r.Limit, until: until, gone: gone, done: func(events []api.DeliveredEvent, lag uint64, err *api.Error) {
		if err != nil {
			done(nil, err)
			return
		}
		if events == nil {
			events = []api.DeliveredEvent{}
		}
		done(&api.SubscriptionFetchResponse{
			Reply: api.Reply{Type: api.TypeSubscriptionFetch}, Store: s.Name(), Subscription: name, ID: id, Events: events, Lag: lag,
		}, nil)
	}}
	return s.subscriptions.tell(name, message{
		do: func(d *delivery, now time.Time) *api.Error {
			if isClosed(s.waits.over) { // it came too late for endWaits
				f.until = now.Add(-lookGrace)
			}
			id = d.id
			d.fetch(f)
			return nil
		},
		fail: func(err *api.Error) { done(nil, err) },
	})
}

// EndWaits answers fetches and reads that wait for events, as if their time were over, and from now on none waits: the node stops.
func (s *Store) EndWaits() {
	s.waits.end()
	s.subscriptions.endWaits()
}

// AckSubscription acknowledges events. The result is an *api.SubscriptionAckResponse, when that is committed.
func (s *Store) AckSubscription(name string, r api.SubscriptionAckRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	return s.tellAck(name, r.ID, done, func(d *delivery, now time.Time, done func(int, uint64, *api.Error)) error { return d.ack(&r, done) })
}

// NackSubscription says that events were not processed. The result is an *api.SubscriptionAckResponse, when that is committed.
func (s *Store) NackSubscription(name string, r api.SubscriptionNackRequest, done Done) *api.Error {
	if err := r.Check(); err != nil {
		return err
	}
	return s.tellAck(name, r.ID, done, func(d *delivery, now time.Time, done func(int, uint64, *api.Error)) error {
		d.nack(now, &r, done)
		return nil
	})
}

// ExtendSubscription gives the consumer of an event that is in flight more time; id is as in api.SubscriptionAckRequest. The result is an *api.SubscriptionAckResponse.
func (s *Store) ExtendSubscription(name string, id, position uint64, done Done) *api.Error {
	return s.tellAck(name, id, done, func(d *delivery, now time.Time, done func(int, uint64, *api.Error)) error {
		done(d.extend(now, position), d.floor, nil)
		return nil
	})
}

// tellAck tells the subscription's consumer of an acknowledgement. One that is meant for a subscription of another id than the present one has is refused; id 0 is meant for whichever there is.
func (s *Store) tellAck(name string, id uint64, answer Done, do func(d *delivery, now time.Time, done func(n int, cursor uint64, err *api.Error)) error) *api.Error {
	done, refused := answer, func() {}
	if c, _ := s.subscriptions.find(name); c != nil {
		if c.acks.Add(1) > maxAcks {
			c.acks.Add(-1)
			return api.ErrOverloaded.With("%d acknowledgements are not written yet at subscription %s; slow down and retry", maxAcks, name)
		}
		done = func(reply any, err *api.Error) {
			c.acks.Add(-1)
			answer(reply, err)
		}
		refused = func() { c.acks.Add(-1) }
	}
	err := s.subscriptions.tell(name, message{
		do: func(d *delivery, now time.Time) *api.Error {
			if id != 0 && id != d.id {
				done(nil, api.ErrSubscriptionNotFound.With("the subscription %s of store %s that has the id %d was deleted, and the one that was created under its name has the id %d; nothing was done", name, s.Name(), id, d.id))
				return nil
			}
			err := do(d, now, func(n int, cursor uint64, err *api.Error) {
				if err != nil {
					done(nil, err)
					return
				}
				done(s.ackResponse(name, n, cursor), nil)
			})
			if err != nil {
				return s.apiError(err)
			}
			return nil
		},
		fail: func(err *api.Error) { done(nil, err) },
	})
	if err != nil {
		refused()
	}
	return err
}

func (s *Store) ackResponse(name string, n int, cursor uint64) *api.SubscriptionAckResponse {
	return &api.SubscriptionAckResponse{Reply: api.Reply{Type: api.TypeSubscriptionAck}, Store: s.Name(), Subscription: name, Done: n, Cursor: cursor}
}

func (s *Store) subscriptionInfo(sub *fsm.Subscription) api.SubscriptionInfo {
	info := api.SubscriptionInfo{
		Name: sub.Name, ID: sub.ID, Config: sub.Config, Created: sub.Created, Cursor: sub.Floor, Lag: sub.LastPosition - min(sub.Floor, sub.LastPosition), Parked: sub.Parked, Acked: sub.Acked,
	}
	if c, serving := s.subscriptions.find(sub.Name); serving {
		info.InFlight, info.Waiting = new(int), new(int)
		if c != nil {
			*info.InFlight, *info.Waiting = int(c.inFlight.Load()), int(c.waiting.Load())
		}
	}
	return info
}

// Subscription describes one subscription.
func (s *Store) Subscription(ctx context.Context, name string, o api.ReadOptions) (*api.SubscriptionResponse, *api.Error) {
	if err := s.Catchup(ctx, o); err != nil {
		return nil, err
	}
	sub, applied, err := s.machine.Subscription(name)
	if err != nil {
		return nil, s.apiError(err)
	}
	if sub == nil {
		return nil, api.ErrSubscriptionNotFound.With("store %s has no subscription %s; create it with write.subscription.create.%s", s.Name(), name, name)
	}
	return &api.SubscriptionResponse{Reply: api.Reply{Type: api.TypeSubscription}, Store: s.Name(), SubscriptionInfo: s.subscriptionInfo(sub), Applied: applied}, nil
}

// Subscriptions lists the subscriptions in name order.
func (s *Store) Subscriptions(ctx context.Context, o api.ReadOptions) (*api.SubscriptionsResponse, *api.Error) {
	if err := s.Catchup(ctx, o); err != nil {
		return nil, err
	}
	list, applied, err := s.machine.Subscriptions()
	if err != nil {
		return nil, s.apiError(err)
	}
	res := &api.SubscriptionsResponse{Reply: api.Reply{Type: api.TypeSubscriptions}, Store: s.Name(), Subscriptions: []api.SubscriptionInfo{}, Applied: applied}
	for i := range list {
		res.Subscriptions = append(res.Subscriptions, s.subscriptionInfo(&list[i]))
	}
	return res, nil
}

// Parked lists a subscription's parked events by position. Of an event that is gone from the store only the position is left.
func (s *Store) Parked(ctx context.Context, name string, r api.ParkedRequest) (*api.ParkedResponse, *api.Error) {
	limit, aerr := checkPage(r.Limit, 0, false)
	if aerr == nil && limit > api.MaxFetch {
		aerr = api.ErrBadRequest.With("limit %d is out of range; 1 to %d, or leave it out for %d", limit, api.MaxFetch, defaultLimit)
	}
	if aerr == nil {
		aerr = s.Catchup(ctx, r.ReadOptions)
	}
	if aerr != nil {
		return nil, aerr
	}
	list, end, applied, err := s.machine.Parked(name, r.After, limit)
	if err != nil {
		return nil, s.apiError(err)
	}
	res := &api.ParkedResponse{
		Reply: api.Reply{Type: api.TypeParked}, Store: s.Name(), Subscription: name, Events: []api.ParkedEvent{}, Next: r.After, End: end, Applied: applied,
	}
	size := 0
	for _, p := range list {
		page, err := s.page(p.Position-1, p.Position, 1, nil)
		if err != nil {
			return nil, s.apiError(err)
		}
		e := api.ParkedEvent{Event: api.Event{Position: p.Position}, Attempts: p.N, Reason: p.Reason, ParkedAt: p.Time}
		if len(page.Events) > 0 && page.Events[0].Position == p.Position {
			e.Event = page.Events[0]
		}
		if size += eventBytes(&e.Event) + len(p.Reason); size > api.MaxPageBytes && len(res.Events) > 0 {
			res.End = false
			break
		}
		res.Events, res.Next = append(res.Events, e), p.Position
	}
	return res, nil
}
