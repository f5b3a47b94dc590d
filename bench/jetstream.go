package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// jetStream is three nats-servers with JetStream; a store is an R3 stream in files, a stream a subject of it.
type jetStream struct {
	processes
	binary, title string
	always        bool
	nc            *nats.Conn
	js            jetstream.JetStream
}

func (j *jetStream) name() string { return j.title }

func (j *jetStream) start(ctx context.Context) error {
	if err := j.prepare(3); err != nil {
		return err
	}
	var routes []string
	for i := range 3 {
		routes = append(routes, "nats-route://"+j.addr(i, 1))
	}
	for i := range 3 {
		sync := ""
		if j.always {
			sync = "sync_interval: always"
		}
		conf := fmt.Sprintf("server_name: n%d\nlisten: %q\nhttp: %q\njetstream { store_dir: %q\nmax_file_store: 100GB\nmax_memory_store: 1GB\n%s }\ncluster { name: bench\nlisten: %q\nroutes: [%s] }\n",
			i+1, j.addr(i, 0), j.addr(i, 2), j.data(i), sync, j.addr(i, 1), strings.Join(routes, ", "))
		if err := os.WriteFile(j.data(i)+".conf", []byte(conf), 0o644); err != nil {
			return err
		}
		if err := j.restart(i); err != nil {
			return err
		}
	}
	err := eventually(ctx, "JetStream answers", func() (err error) {
		if j.nc == nil {
			if j.nc, err = connect(j.natsURLs()); err != nil {
				j.nc = nil
				return err
			}
		}
		if j.js, err = jetstream.New(j.nc); err == nil {
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err = j.js.CreateOrUpdateStream(short, jetstream.StreamConfig{Name: "ready", Subjects: []string{"ready"}, Replicas: 3})
		}
		return err
	})
	if err != nil {
		return err
	}
	return j.js.DeleteStream(ctx, "ready")
}

func (j *jetStream) restart(i int) error { return j.run(i, j.binary, "-c", j.data(i)+".conf") }

func (j *jetStream) ready(ctx context.Context, node int) error {
	return healthy(ctx, "http://"+j.addr(node, 2)+"/healthz?js-enabled-only=true")
}

// caughtUp: the full health check is about every stream's replica at the node.
func (j *jetStream) caughtUp(ctx context.Context, node, _ int) error {
	return healthy(ctx, "http://"+j.addr(node, 2)+"/healthz")
}

func (j *jetStream) stop() {
	if j.nc != nil {
		j.nc.Close()
		j.nc = nil
	}
	j.processes.stop()
}

func (j *jetStream) store(ctx context.Context, n int) error {
	return eventually(ctx, "the stream is made", func() error { // a cluster that has just started has no place for it at first
		_, err := j.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: fmt.Sprintf("b%d", n), Subjects: []string{fmt.Sprintf("b%d.>", n)}, Replicas: 3, Storage: jetstream.FileStorage,
		})
		return err
	})
}

type jetStreamClient struct {
	nc *nats.Conn
	js jetstream.JetStream
}

func (j *jetStream) client(node int) (client, error) {
	nc, err := connect("nats://" + j.addr(node, 0))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	return &jetStreamClient{nc, js}, err
}

func (c *jetStreamClient) close() { c.nc.Close() }

func (c *jetStreamClient) append(ctx context.Context, store, writer int, payload []byte) error {
	_, err := c.js.Publish(ctx, fmt.Sprintf("b%d.w%d", store, writer), payload, jetstream.WithRetryAttempts(0))
	return err
}

func (j *jetStream) noFill() error {
	if j.always {
		return leftOut("an fsync a message would take too long for so many")
	}
	return nil
}

// fill publishes without waiting for each answer, from three clients with up to 4096 messages under way each.
func (j *jetStream) fill(ctx context.Context, store, events int, payload []byte) error {
	if err := j.noFill(); err != nil {
		return err
	}
	const streams, under = 1000, 4096
	return all(3, 3, func(i int) error {
		nc, err := connect("nats://" + j.addr(i, 0))
		if err != nil {
			return err
		}
		defer nc.Close()
		var failed atomic.Pointer[error]
		js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(under),
			jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { failed.CompareAndSwap(nil, &err) }))
		if err != nil {
			return err
		}
		for n := i; n < events && ctx.Err() == nil && failed.Load() == nil; n += 3 {
			_, err = js.PublishAsync(fmt.Sprintf("b%d.w%d", store, n/1000%streams), payload, jetstream.WithStallWait(time.Minute))
			if err != nil {
				return err
			}
		}
		select {
		case <-js.PublishAsyncComplete():
		case <-ctx.Done():
		}
		if err := failed.Load(); err != nil {
			return *err
		}
		return ctx.Err()
	})
}

// consume reads with an ordered consumer, which is JetStream's way to catch up.
func (j *jetStream) consume(ctx context.Context, store int, cfg jetstream.OrderedConsumerConfig, limit int) (int, error) {
	st, err := j.js.Stream(ctx, fmt.Sprintf("b%d", store))
	if err != nil {
		return 0, err
	}
	cons, err := st.OrderedConsumer(ctx, cfg)
	if err != nil {
		return 0, err
	}
	it, err := cons.Messages()
	if err != nil {
		return 0, err
	}
	defer it.Stop()
	stop := context.AfterFunc(ctx, it.Stop)
	defer stop()
	for n := 1; ; n++ {
		m, err := it.Next()
		if err != nil {
			return n - 1, err
		}
		meta, err := m.Metadata()
		if err != nil || meta.NumPending == 0 || n == limit {
			return n, err
		}
	}
}

func (j *jetStream) readStream(ctx context.Context, store, writer int) (int, error) {
	return j.consume(ctx, store, jetstream.OrderedConsumerConfig{FilterSubjects: []string{fmt.Sprintf("b%d.w%d", store, writer)}}, 0)
}

func (j *jetStream) readAll(ctx context.Context, store, after, limit int) (int, error) {
	return j.consume(ctx, store, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(after) + 1}, limit)
}

func (j *jetStream) leaderOfMost(ctx context.Context) (int, float64, error) {
	led := make([]int, 3)
	names := j.js.ListStreams(ctx)
	for info := range names.Info() {
		if info.Cluster != nil {
			for i := range 3 {
				if info.Cluster.Leader == fmt.Sprintf("n%d", i+1) {
					led[i]++
				}
			}
		}
	}
	if names.Err() != nil {
		return 0, 0, names.Err()
	}
	return most(led)
}

// isLog: the Raft groups' own files are in the system account's folder; the messages are written once more, to the streams' files.
func (j *jetStream) isLog(path string) bool { return strings.Contains(path, "/_js_/") }
