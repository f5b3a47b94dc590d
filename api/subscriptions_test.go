package api

import (
	"errors"
	"strings"
	"testing"
)

func TestSubscriptionConfig(t *testing.T) {
	query := &Query{Items: []QueryItem{{Types: []string{"T"}}}}
	for _, r := range []struct {
		name   string
		prefix string
		config SubscriptionConfig
		want   *Error
	}{
		{"nothing", "", SubscriptionConfig{}, nil},
		{"everything", "", SubscriptionConfig{After: 7, Query: query, AckWaitMS: 1, MaxInFlight: MaxInFlight, MaxAttempts: -1, Ordered: true, DeliverSubject: "mail.out", Ack: AckNone, Description: "x"}, nil},
		{"two beginnings", "", SubscriptionConfig{After: 7, FromEnd: true}, ErrBadRequest},
		{"a query of nothing", "", SubscriptionConfig{Query: &Query{}}, ErrBadRequest},
		{"no time", "", SubscriptionConfig{AckWaitMS: -1}, ErrBadRequest},
		{"too much time", "", SubscriptionConfig{AckWaitMS: MaxAckWait + 1}, ErrBadRequest},
		{"none in flight", "", SubscriptionConfig{MaxInFlight: -1}, ErrBadRequest},
		{"too many in flight", "", SubscriptionConfig{MaxInFlight: MaxInFlight + 1}, ErrBadRequest},
		{"attempts", "", SubscriptionConfig{MaxAttempts: -2}, ErrBadRequest},
		{"ack", "", SubscriptionConfig{Ack: "all"}, ErrBadRequest},
		{"long description", "", SubscriptionConfig{Description: strings.Repeat("x", MaxReason+1)}, ErrTooLarge},
		{"to the cluster", "", SubscriptionConfig{DeliverSubject: "es.orders.write.append.x"}, ErrBadRequest},
		{"to the prefix itself", "", SubscriptionConfig{DeliverSubject: "es"}, ErrBadRequest},
		{"to a cluster of another prefix", "prod.es", SubscriptionConfig{DeliverSubject: "prod.es.orders.event.x"}, ErrBadRequest},
		{"beside it", "prod.es", SubscriptionConfig{DeliverSubject: "prod.essay"}, nil},
		{"to the server", "", SubscriptionConfig{DeliverSubject: "$JS.API.x"}, ErrBadRequest},
		{"to an inbox", "", SubscriptionConfig{DeliverSubject: "_INBOX.x.y"}, ErrBadRequest},
		{"to nodes' own", "", SubscriptionConfig{DeliverSubject: "_QUORATE_READ.n1.es.orders.read.info"}, ErrBadRequest},
		{"to a wildcard", "", SubscriptionConfig{DeliverSubject: "mail.>"}, ErrBadRequest},
		{"an empty token", "", SubscriptionConfig{DeliverSubject: "mail..out"}, ErrBadRequest},
		{"a space", "", SubscriptionConfig{DeliverSubject: "mail out"}, ErrBadRequest},
	} {
		t.Run(r.name, func(t *testing.T) {
			err := r.config.Complete(r.prefix)
			if r.want == nil && err != nil || r.want != nil && !errors.Is(err, r.want) {
				t.Fatalf("got %v, want %v", err, r.want)
			}
			if err != nil {
				return
			}
			once := r.config
			if err := r.config.Complete(r.prefix); err != nil || r.config != once {
				t.Errorf("complete twice: %v, %+v after %+v", err, r.config, once)
			}
			if once.AckWaitMS == 0 || once.MaxInFlight == 0 || once.MaxAttempts == 0 || once.Ack == "" {
				t.Errorf("defaults are missing: %+v", once)
			}
		})
	}
}
