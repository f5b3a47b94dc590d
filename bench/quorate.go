package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	quorateclient "github.com/quorate/quorate/client"
)

// quorate is three quorate servers, written to with plain NATS requests and read with the Go client, as JetStream is with its own.
type quorate struct {
	processes
	binary string
	title  string
	admin  *nats.Conn
	reader *quorateclient.Client // on admin
	pprof  bool                  // the nodes serve profiles
}

func (q *quorate) name() string { return q.title }

func connect(urls string) (*nats.Conn, error) {
	return nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.Timeout(5*time.Second))
}

func (p *processes) natsURLs() string {
	return "nats://" + p.addr(0, 0) + ",nats://" + p.addr(1, 0) + ",nats://" + p.addr(2, 0)
}

func (q *quorate) start(ctx context.Context) error {
	if err := q.prepare(4); err != nil {
		return err
	}
	for i := range 3 {
		if err := q.restart(i); err != nil {
			return err
		}
	}
	for i := range 3 {
		if err := eventually(ctx, "quorate is ready", func() error { return q.ready(ctx, i) }); err != nil {
			return err
		}
	}
	var err error
	if q.admin, err = connect(q.natsURLs()); err != nil {
		return err
	}
	q.reader = quorateclient.New(q.admin)
	return nil
}

func (q *quorate) restart(i int) error {
	args := []string{"server", "--name", fmt.Sprintf("n%d", i+1), "--data", q.data(i), "--listen", q.addr(i, 0), "--cluster-listen", q.addr(i, 1),
		"--raft-listen", q.addr(i, 2), "--http", q.addr(i, 3), "--expect", "3", "--log-level", "warn"}
	if q.pprof {
		args = append(args, "--pprof")
	}
	for j := range 3 {
		if j != i {
			args = append(args, "--join", q.addr(j, 1))
		}
	}
	return q.run(i, q.binary, args...)
}

func (q *quorate) ready(ctx context.Context, node int) error {
	return healthy(ctx, "http://"+q.addr(node, 3)+"/readyz")
}

// caughtUp reads every store at the node, linearizably: it answers from its own replica, once that has everything that was acknowledged.
func (q *quorate) caughtUp(ctx context.Context, node, stores int) error {
	nc, err := connect("nats://" + q.addr(node, 0))
	if err != nil {
		return err
	}
	defer nc.Close()
	return all(stores, 64, func(i int) error {
		return eventually(ctx, "the replica has caught up", func() error {
			try, stop := context.WithTimeout(ctx, 5*time.Second)
			defer stop()
			return ask(try, nc, fmt.Sprintf("es.b%d.read.info", i), nil, nil)
		})
	})
}

func (q *quorate) stop() {
	if q.admin != nil {
		q.admin.Close()
		q.admin = nil
	}
	q.processes.stop()
}

// refused is an error that Quorate answered.
type refused struct{ code, text string }

func (r refused) Error() string { return r.text }

func ask(ctx context.Context, nc *nats.Conn, subject string, body []byte, into any) error {
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err == nil {
		err = refusal(m)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(m.Data, into)
	}
	return err
}

func refusal(m *nats.Msg) error {
	if e := m.Header.Get("Nats-Service-Error"); e != "" {
		return refused{m.Header.Get("Nats-Service-Error-Code"), e}
	}
	return nil
}

func (q *quorate) store(ctx context.Context, n int) error {
	return ask(ctx, q.admin, fmt.Sprintf("es.config.write.put.b%d", n), nil, nil)
}

type quorateClient struct{ nc *nats.Conn }

func (q *quorate) client(node int) (client, error) {
	nc, err := connect("nats://" + q.addr(node, 0))
	if err != nil {
		return nil, err
	}
	return &quorateClient{nc}, nil
}

func (c *quorateClient) close() { c.nc.Close() }

// append sends the payload as an event's data: the body of a CloudEvent in binary mode is taken as it is.
func (c *quorateClient) append(ctx context.Context, store, writer int, payload []byte) error {
	m := nats.NewMsg(fmt.Sprintf("es.b%d.write.append.w%d", store, writer))
	m.Header.Set("ce-type", "Benchmarked")
	m.Data = payload
	res, err := c.nc.RequestMsgWithContext(ctx, m)
	if err == nil {
		err = refusal(res)
	}
	return err
}

// floor is Quorate with clients that send what they would append to a node other than theirs, where the library that speaks NATS answers by itself.
type floor struct{ *quorate }

func (f floor) client(node int) (client, error) {
	nc, err := connect("nats://" + f.addr(node, 0))
	if err != nil {
		return nil, err
	}
	id, err := instanceOf(nc, fmt.Sprintf("n%d", (node+1)%3+1))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &floorClient{quorateClient{nc}, "$SRV.PING.quorate." + id}, nil
}

// instanceOf returns the id of a node's service.
func instanceOf(nc *nats.Conn, node string) (string, error) {
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return "", err
	}
	defer sub.Unsubscribe()
	if err := nc.PublishRequest("$SRV.PING.quorate", sub.Subject, nil); err != nil {
		return "", err
	}
	for {
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			return "", fmt.Errorf("ask for the service of node %s: %w", node, err)
		}
		var pong struct {
			ID       string            `json:"id"`
			Metadata map[string]string `json:"metadata"`
		}
		if err := json.Unmarshal(m.Data, &pong); err != nil {
			return "", err
		}
		if pong.Metadata["node"] == node {
			return pong.ID, nil
		}
	}
}

type floorClient struct {
	quorateClient
	subject string
}

func (c *floorClient) append(ctx context.Context, _, _ int, payload []byte) error {
	_, err := c.nc.RequestWithContext(ctx, c.subject, payload)
	return err
}

// near is Quorate with clients that are connected to the node that leads the store they append to.
type near struct{ *quorate }

func (n near) client(int) (client, error) { return &nearClient{n.quorate, map[int]client{}}, nil }

type nearClient struct {
	q     *quorate
	conns map[int]client // by store
}

func (c *nearClient) close() {
	for _, conn := range c.conns {
		conn.close()
	}
}

func (c *nearClient) append(ctx context.Context, store, writer int, payload []byte) error {
	conn := c.conns[store]
	if conn == nil {
		node, err := c.q.leaderOf(ctx, store)
		if err != nil {
			return err
		}
		if conn, err = c.q.client(node); err != nil {
			return err
		}
		c.conns[store] = conn
	}
	return conn.append(ctx, store, writer, payload)
}

func (q *quorate) noFill() error { return nil }

// fill sends a thousand events an append, each append to the next of a thousand streams, eight at once.
func (q *quorate) fill(ctx context.Context, store, events int, payload []byte) error {
	const batch, streams, atOnce = 1000, 1000, 8
	var left atomic.Int64
	left.Store(int64(events))
	var at atomic.Int64
	return all(atOnce, atOnce, func(i int) error {
		nc, err := connect("nats://" + q.addr(i%3, 0))
		if err != nil {
			return err
		}
		defer nc.Close()
		for {
			n := min(batch, left.Add(-batch)+batch)
			if n <= 0 {
				return nil
			}
			one := fmt.Sprintf(`,{"type":"Benchmarked","data":%s}`, payload)
			body := `{"events":[` + strings.Repeat(one, int(n))[1:] + `]}`
			subject := fmt.Sprintf("es.b%d.write.append.w%d", store, at.Add(1)%streams)
			err := eventually(ctx, "the append is taken", func() error {
				try, stop := context.WithTimeout(ctx, time.Minute)
				defer stop()
				return ask(try, nc, subject, []byte(body), nil)
			}, func(err error) bool { // what was not written may be sent again: these events have no ids
				var r refused
				return errors.As(err, &r) && r.code == "503"
			})
			if err != nil {
				return err
			}
		}
	})
}

func (q *quorate) readStream(ctx context.Context, store, writer int) (int, error) {
	return countEvents(q.reader.Store(fmt.Sprintf("b%d", store)).ReadStream(ctx, fmt.Sprintf("w%d", writer), quorateclient.ReadOptions{}))
}

func (q *quorate) readAll(ctx context.Context, store, after, limit int) (int, error) {
	return countEvents(q.reader.Store(fmt.Sprintf("b%d", store)).ReadAll(ctx, quorateclient.ReadOptions{From: uint64(after), Limit: limit}))
}

// countEvents looks at every event.
func countEvents(events iter.Seq2[api.Event, error]) (n int, err error) {
	for _, err := range events {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// leaders returns the nodes that lead stores, by the store's name.
func (q *quorate) leaders(ctx context.Context) (map[string]int, error) {
	var res struct {
		Stores []struct{ Store, Leader string } `json:"stores"`
	}
	try, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if err := ask(try, q.admin, "es.cluster.read.leaders", nil, &res); err != nil {
		return nil, err
	}
	nodes := map[string]int{}
	for _, s := range res.Stores {
		for i := range 3 {
			if s.Leader == fmt.Sprintf("n%d", i+1) && s.Store != "config" {
				nodes[s.Store] = i
			}
		}
	}
	return nodes, nil
}

func (q *quorate) leaderOf(ctx context.Context, store int) (int, error) {
	nodes, err := q.leaders(ctx)
	if err != nil {
		return 0, err
	}
	node, ok := nodes[fmt.Sprintf("b%d", store)]
	if !ok {
		return 0, fmt.Errorf("nobody leads store b%d", store)
	}
	return node, nil
}

func (q *quorate) leaderOfMost(ctx context.Context) (int, float64, error) {
	nodes, err := q.leaders(ctx)
	if err != nil {
		return 0, 0, err
	}
	led := make([]int, 3)
	for _, node := range nodes {
		led[node]++
	}
	return most(led)
}

// isLog: the segments, and what outlived its segment.
func (q *quorate) isLog(path string) bool {
	base := filepath.Base(path)
	return strings.HasPrefix(base, "raft-") && strings.HasSuffix(base, ".wal") || base == "raft.db"
}
