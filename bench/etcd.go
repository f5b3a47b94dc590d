package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcd is three etcd members: one Raft group. A store is a prefix of keys, a stream a longer one, an event a key. That is less than an event store's append:
// nothing gives an event its place in the stream; the client counts.
type etcd struct {
	processes
	binary string
	admin  *clientv3.Client
}

// keys numbers what this program appends, so that no key is put twice.
var keys atomic.Uint64

func (e *etcd) name() string { return nameEtcd }

func (e *etcd) start(ctx context.Context) error {
	if err := e.prepare(2); err != nil {
		return err
	}
	for i := range 3 {
		if err := e.restart(i); err != nil {
			return err
		}
	}
	for i := range 3 {
		if err := eventually(ctx, "etcd is healthy", func() error { return e.caughtUp(ctx, i, 0) }); err != nil {
			return err
		}
	}
	var err error
	e.admin, err = e.connect(0, 1, 2)
	return err
}

func (e *etcd) restart(i int) error {
	url := func(node, port int) string { return "http://" + e.addr(node, port) }
	var members []string
	for j := range 3 {
		members = append(members, fmt.Sprintf("n%d=%s", j+1, url(j, 1)))
	}
	return e.run(i, e.binary, "--name", fmt.Sprintf("n%d", i+1), "--data-dir", e.data(i), "--log-level", "error",
		"--listen-client-urls", url(i, 0), "--advertise-client-urls", url(i, 0), "--listen-peer-urls", url(i, 1), "--initial-advertise-peer-urls", url(i, 1),
		"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new", "--quota-backend-bytes", "8589934592")
}

func (e *etcd) ready(ctx context.Context, node int) error {
	return healthy(ctx, "http://"+e.addr(node, 0)+"/health?serializable=true")
}

// caughtUp: without serializable, the health check is a linearizable read at the member.
func (e *etcd) caughtUp(ctx context.Context, node, _ int) error {
	return healthy(ctx, "http://"+e.addr(node, 0)+"/health")
}

func (e *etcd) stop() {
	if e.admin != nil {
		e.admin.Close()
		e.admin = nil
	}
	e.processes.stop()
}

func (e *etcd) store(context.Context, int) error { return leftOut("a prefix needs no making") }

func (e *etcd) connect(nodes ...int) (*clientv3.Client, error) {
	var urls []string
	for _, i := range nodes {
		urls = append(urls, "http://"+e.addr(i, 0))
	}
	return clientv3.New(clientv3.Config{Endpoints: urls, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
}

type etcdClient struct{ c *clientv3.Client }

func (e *etcd) client(node int) (client, error) {
	c, err := e.connect(node)
	if err != nil {
		return nil, err
	}
	return &etcdClient{c}, nil
}

func (c *etcdClient) close() { c.c.Close() }

func (c *etcdClient) append(ctx context.Context, store, writer int, payload []byte) error {
	_, err := c.c.Put(ctx, fmt.Sprintf("b%d/w%d/%016x", store, writer, keys.Add(1)), string(payload))
	return err
}

func (e *etcd) fill(context.Context, int, int, []byte) error { return e.noFill() }

func (e *etcd) noFill() error {
	return leftOut("it keeps an index of all keys in memory and advises at most 8 GB of data")
}

// read pages through a range of keys, about a MiB a page.
func (e *etcd) read(ctx context.Context, prefix string, limit int) (n int, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		most := 3500
		if limit > 0 {
			most = min(most, limit-n)
		}
		res, err := e.admin.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(most)))
		if err != nil {
			return n, err
		}
		n += len(res.Kvs)
		if !res.More || n == limit {
			return n, nil
		}
		from = string(res.Kvs[len(res.Kvs)-1].Key) + "\x00"
	}
}

func (e *etcd) readStream(ctx context.Context, store, writer int) (int, error) {
	return e.read(ctx, fmt.Sprintf("b%d/w%d/", store, writer), 0)
}

func (e *etcd) readAll(ctx context.Context, store, after, limit int) (int, error) {
	if after > 0 {
		return 0, leftOut("keys have no order over the streams of a store")
	}
	return e.read(ctx, fmt.Sprintf("b%d/", store), limit)
}

func (e *etcd) leaderOfMost(ctx context.Context) (int, float64, error) {
	led := make([]int, 3)
	for _, i := range e.up() {
		st, err := e.admin.Status(ctx, "http://"+e.addr(i, 0))
		if err != nil {
			return 0, 0, err
		}
		if st.Leader == st.Header.MemberId {
			led[i]++
		}
	}
	return most(led)
}

func (e *etcd) isLog(path string) bool { return strings.Contains(path, "/member/wal/") }
