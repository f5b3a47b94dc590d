package fsm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// stored is a subscription with its config as it was encoded.
type stored struct {
	Subscription
	config []byte
}

// subscription returns nil when there is none of the name.
func (v *view) subscription(name string) (*stored, error) {
	value, err := v.key(subscriptionKey(name))
	if err != nil || value == nil || name == "" {
		return nil, err
	}
	r := reader{rest: bytes.Clone(value)}
	s := &stored{Subscription: Subscription{Name: string([]byte(name)), ID: r.uvarint(), Created: time.UnixMicro(r.varint()).UTC(), LastPosition: v.st.position}}
	s.config = r.bytes()
	err = r.end()
	if err == nil {
		err = json.Unmarshal(s.config, &s.Config)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: subscription %s: %w", ErrDamaged, name, err)
	}
	progress, err := v.key(progressKey(name))
	if err != nil {
		return nil, err
	}
	id, err := s.decode(name, progress)
	if err == nil && id != s.ID {
		err = fmt.Errorf("%w: subscription %s has id %d, and its progress %d", ErrDamaged, name, s.ID, id)
	}
	return s, err
}

// MayHaveSubscriptions is false when there is no subscription for sure. It does not need the file.
func (f *FSM) MayHaveSubscriptions() bool { return f.Kinds() >= kindSubscription }

// Subscription returns the subscription; nil: there is none of the name. applied is the entry the state is at.
func (f *FSM) Subscription(name string) (s *Subscription, applied uint64, err error) {
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		applied = v.st.applied
		found, err := v.subscription(name)
		if found != nil {
			s = &found.Subscription
		}
		return err
	})
	return s, applied, err
}

// Subscriptions lists the subscriptions in name order.
func (f *FSM) Subscriptions() (list []Subscription, applied uint64, err error) {
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		applied = v.st.applied
		return v.scan(subscriptionKey(""), "", func(key string, _ []byte) (bool, error) {
			found, err := v.subscription(key[1:])
			if found != nil {
				list = append(list, found.Subscription)
			}
			return true, err
		})
	})
	return list, applied, err
}

// ParkedEvent is an event that a subscription gave up.
type ParkedEvent struct {
	Park
	Time time.Time
}

// Parked lists what the subscription parked behind the position. It is api.ErrSubscriptionNotFound when there is no subscription of the name.
func (f *FSM) Parked(name string, after uint64, limit int) (list []ParkedEvent, end bool, applied uint64, err error) {
	end = true
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		applied = v.st.applied
		if found, err := v.subscription(name); found == nil || err != nil {
			if err == nil {
				err = noSubscription(name)
			}
			return err
		}
		if after == math.MaxUint64 { // the last position there can be
			return nil
		}
		return v.scan(parkedPrefix(name), parkedKey(name, after+1), func(key string, sealed []byte) (bool, error) {
			if len(list) == limit {
				end = false
				return false, nil
			}
			value, err := unseal([]byte(key), sealed)
			if err != nil {
				return false, fmt.Errorf("a parked event: %w", err)
			}
			p, err := decodeParked(key, value)
			if err != nil {
				return false, err
			}
			list = append(list, p)
			return true, nil
		})
	})
	return list, end, applied, err
}

// decodeParked copies what it returns.
func decodeParked(key string, value []byte) (ParkedEvent, error) {
	r := reader{rest: value}
	p := ParkedEvent{Park: Park{Attempt: Attempt{Position: parkedPosition(key), N: int(r.uvarint())}}, Time: time.UnixMicro(r.varint()).UTC()}
	p.Reason = r.text()
	if err := r.end(); err != nil {
		return p, fmt.Errorf("%w: a parked event: %w", ErrDamaged, err)
	}
	return p, nil
}
