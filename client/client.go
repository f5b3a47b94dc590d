package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// Client speaks with a cluster over a NATS connection, which stays the caller's. It may be used concurrently.
type Client struct {
	nc       *nats.Conn
	subjects api.Subjects
	try      time.Duration
}

// Option changes how a Client works.
type Option func(*Client)

// WithPrefix says what the cluster's subjects begin with. Default: es.
func WithPrefix(prefix string) Option { return func(c *Client) { c.subjects.Prefix = prefix } }

// WithTryTimeout bounds one try of a request; the context bounds them all. Default: 5 s.
func WithTryTimeout(d time.Duration) Option { return func(c *Client) { c.try = d } }

// New returns a client on the connection.
func New(nc *nats.Conn, opts ...Option) *Client {
	c := &Client{nc: nc, try: 5 * time.Second}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Store returns a handle on the store. It asks nobody; a store that does not exist is told by its first request.
func (c *Client) Store(name string) *Store { return &Store{client: c, name: name} }

// Subjects returns the grammar of the cluster's subjects.
func (c *Client) Subjects() api.Subjects { return c.subjects }

// Conn returns the NATS connection.
func (c *Client) Conn() *nats.Conn { return c.nc }

// retryPause lies between tries; doubled each time up to retryPauseMax.
const (
	retryPause    = 25 * time.Millisecond
	retryPauseMax = 500 * time.Millisecond
)

// call sends one request until it is answered for good or ctx is done. A request is repeated after an answer that says so, and, when repeatable,
// after silence: it must then have the same effect once or twice.
func (c *Client) call(ctx context.Context, subject string, request any, repeatable bool, into any) error {
	return c.callWithin(ctx, c.try, subject, request, repeatable, into)
}

func (c *Client) callWithin(ctx context.Context, try time.Duration, subject string, request any, repeatable bool, into any) error {
	payload, err := api.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	if int64(len(payload)) > c.nc.MaxPayload() {
		return fmt.Errorf("%s: %w", subject, api.ErrTooLarge.With("the request has %d bytes; at most %d are allowed; split it", len(payload), c.nc.MaxPayload()))
	}
	unknown := false // an earlier try may have taken effect
	for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
		err := c.once(ctx, try, subject, payload, into)
		again, maybe := retryable(err)
		unknown = unknown || maybe
		if !again || maybe && !repeatable {
			return c.explain(subject, err, unknown && !repeatable)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return c.explain(subject, err, unknown)
		}
	}
}

func (c *Client) once(ctx context.Context, try time.Duration, subject string, payload []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, try)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, subject, payload)
	if err != nil {
		return err
	}
	var head api.Reply
	if err := json.Unmarshal(m.Data, &head); err != nil {
		return fmt.Errorf("the reply is not understood: %w", err)
	}
	if head.Error != nil {
		return head.Error
	}
	if err := json.Unmarshal(m.Data, into); err != nil {
		return fmt.Errorf("the reply is not understood: %w", err)
	}
	return nil
}

// retryable reports whether another try may help, and whether this one may have taken effect.
func retryable(err error) (again, maybe bool) {
	var e *api.Error
	switch {
	case err == nil:
		return false, false
	case errors.As(err, &e):
		maybe = errors.Is(e, api.ErrOutcomeUnknown)
		return e.Retryable(), maybe
	case errors.Is(err, nats.ErrNoResponders):
		return true, false
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting):
		return true, true
	}
	return false, false
}

// explain says what is known after the last try. A write without a definite answer is ErrOutcomeUnknown, never a failure.
func (c *Client) explain(subject string, err error, unknown bool) error {
	var e *api.Error
	switch {
	case err == nil:
		return nil
	case unknown && !errors.Is(err, api.ErrOutcomeUnknown):
		err = fmt.Errorf("%w (last: %w)", api.ErrOutcomeUnknown, err)
	case errors.As(err, &e):
	case errors.Is(err, nats.ErrNoResponders):
		err = fmt.Errorf("%w: no node answers on %q; is this a Quorate cluster, and is it up?", err, subject)
	}
	return fmt.Errorf("%s: %w", subject, err)
}

// CreateStore creates the store, or returns what there is when it exists already. It returns once a leader serves the store.
func (c *Client) CreateStore(ctx context.Context, name string, r api.ConfigPutRequest) (*api.ConfigPutResponse, error) {
	var res api.ConfigPutResponse
	err := c.callWithin(ctx, 12*time.Second, c.subjects.Write(api.ConfigStore, "put", name), r, r.ExpectedVersion == nil, &res)
	return &res, err
}

// DeleteStore drops the store. Its files are moved aside on every node.
func (c *Client) DeleteStore(ctx context.Context, name string, r api.ConfigDeleteRequest) (*api.ConfigPutResponse, error) {
	var res api.ConfigPutResponse
	err := c.call(ctx, c.subjects.Write(api.ConfigStore, "delete", name), r, false, &res)
	return &res, err
}

// StoreRecord returns what the configuration says of the store.
func (c *Client) StoreRecord(ctx context.Context, name string) (*api.StoreRecord, error) {
	var res api.ConfigGetResponse
	err := c.call(ctx, c.subjects.Read(api.ConfigStore, "get", name), api.ReadOptions{}, true, &res)
	return res.StoreRecord, err
}

// Stores lists the records of all stores in name order.
func (c *Client) Stores(ctx context.Context) ([]api.StoreRecord, error) {
	var res api.ConfigListResponse
	err := c.call(ctx, c.subjects.Read(api.ConfigStore, "list", ""), api.ReadOptions{}, true, &res)
	return res.Stores, err
}

// ClusterInfo says who is here.
func (c *Client) ClusterInfo(ctx context.Context) (*api.ClusterInfoResponse, error) {
	var res api.ClusterInfoResponse
	err := c.call(ctx, c.subjects.Read(api.ClusterStore, "info", ""), struct{}{}, true, &res)
	return &res, err
}

// Leaders says who leads what.
func (c *Client) Leaders(ctx context.Context) (*api.LeadersResponse, error) {
	var res api.LeadersResponse
	err := c.call(ctx, c.subjects.Read(api.ClusterStore, "leaders", ""), struct{}{}, true, &res)
	return &res, err
}

// Transfer moves the store's leadership to the node, or to the best follower when it is empty, and returns who serves then.
func (c *Client) Transfer(ctx context.Context, store, to string) (*api.TransferResponse, error) {
	var res api.TransferResponse
	err := c.callWithin(ctx, 12*time.Second, c.subjects.Write(api.ClusterStore, "transfer", store), api.TransferRequest{To: to}, to != "", &res)
	return &res, err
}
