package client

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// Client speaks with a cluster over a NATS connection, which stays the caller's. It may be used concurrently.
type Client struct {
	nc       *nats.Conn
	subjects api.Subjects
	try      time.Duration
	watch    watch
}

// Option changes how a Client works.
type Option func(*Client)

// WithPrefix says what the cluster's subjects begin with. Default: es.
func WithPrefix(prefix string) Option { return func(c *Client) { c.subjects.Prefix = prefix } }

// WithTryTimeout bounds one try of a request; the context bounds them all. Default: 5 s. The first try of what may be sent twice takes 1.5 s at most.
func WithTryTimeout(d time.Duration) Option { return func(c *Client) { c.try = d } }

// New returns a client on the connection. There is nothing to close: what it keeps ends with the connection. One client for a connection is enough.
//
// Connect with nats.MaxReconnects(-1) and the addresses of several nodes, so that the client finds another node when its own dies.
func New(nc *nats.Conn, opts ...Option) *Client {
	c := &Client{nc: nc, try: 5 * time.Second, watch: watch{waiting: map[uint64]context.CancelCauseFunc{}}}
	for _, o := range opts {
		o(c)
	}
	go c.watch.run(nc) // ends when the connection is closed
	return c
}

// Store returns a handle on the store. It asks nobody; a store that does not exist is told by its first request.
func (c *Client) Store(name string) *Store { return &Store{client: c, name: name} }

// Subjects returns the grammar of the cluster's subjects.
func (c *Client) Subjects() api.Subjects { return c.subjects }

// Conn returns the NATS connection.
func (c *Client) Conn() *nats.Conn { return c.nc }

// adminTry bounds one try of a request that the cluster takes longer for.
const adminTry = 12 * time.Second

// CreateStore creates the store, or changes its options when it exists; with an ExpectedVersion of NoStream it is only created. It returns once a leader serves the store.
func (c *Client) CreateStore(ctx context.Context, name string, r api.ConfigPutRequest) (*api.ConfigPutResponse, error) {
	twice := safe
	if r.ExpectedVersion != nil {
		twice = single
	}
	return call[api.ConfigPutResponse](ctx, c, request{subject: c.subjects.Write(api.ConfigStore, "put", name), effect: twice, body: r, try: adminTry})
}

// DeleteStore drops the store. Its files are moved aside on every node.
func (c *Client) DeleteStore(ctx context.Context, name string, r api.ConfigDeleteRequest) (*api.ConfigPutResponse, error) {
	return call[api.ConfigPutResponse](ctx, c, request{subject: c.subjects.Write(api.ConfigStore, "delete", name), effect: single, body: r})
}

// StoreRecord returns what the configuration says of the store.
func (c *Client) StoreRecord(ctx context.Context, name string) (*api.StoreRecord, error) {
	res, err := call[api.ConfigGetResponse](ctx, c, request{subject: c.subjects.Read(api.ConfigStore, "get", name), body: api.ReadOptions{}})
	if err != nil {
		return nil, err
	}
	return res.StoreRecord, nil
}

// Stores lists the records of all stores in name order.
func (c *Client) Stores(ctx context.Context) ([]api.StoreRecord, error) {
	res, err := call[api.ConfigListResponse](ctx, c, request{subject: c.subjects.Read(api.ConfigStore, "list", ""), body: api.ReadOptions{}})
	if err != nil {
		return nil, err
	}
	return res.Stores, nil
}

// ClusterInfo says who is here.
func (c *Client) ClusterInfo(ctx context.Context) (*api.ClusterInfoResponse, error) {
	return call[api.ClusterInfoResponse](ctx, c, request{subject: c.subjects.Read(api.ClusterStore, "info", ""), body: struct{}{}})
}

// Leaders says who leads what.
func (c *Client) Leaders(ctx context.Context) (*api.LeadersResponse, error) {
	return call[api.LeadersResponse](ctx, c, request{subject: c.subjects.Read(api.ClusterStore, "leaders", ""), body: struct{}{}})
}

// Transfer moves the store's leadership to the node, or to the best follower when it is empty, and returns who serves then.
func (c *Client) Transfer(ctx context.Context, store, to string) (*api.TransferResponse, error) {
	return call[api.TransferResponse](ctx, c, request{subject: c.subjects.Write(api.ClusterStore, "transfer", store), effect: unless(to != ""), body: api.TransferRequest{To: to}, try: adminTry})
}
