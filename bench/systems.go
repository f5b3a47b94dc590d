package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// system is a cluster of three processes that is measured.
type system interface {
	name() string
	start(ctx context.Context) error
	// store makes the store with the number.
	store(ctx context.Context, n int) error
	// client connects to the node with the number.
	client(node int) (client, error)
	// readAll reads a store from its beginning and returns how many events there were.
	readAll(ctx context.Context, store int) (int, error)
	// leaderOfMost kills the node that leads most stores, as kill -9 does.
	killLeaderOfMost(ctx context.Context) error
	nodes() *processes
	stop()
}

// client appends; one request is under way at a time.
type client interface {
	append(ctx context.Context, store, writer int, payload []byte) error
	close()
}

// processes are three nodes.
type processes struct {
	dir   string
	cmds  []*exec.Cmd
	ports [][]int // of each node
}

func (p *processes) prepare(perNode int) error {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	p.cmds, p.ports = make([]*exec.Cmd, 3), make([][]int, 3)
	for i := range 3 {
		for range perNode {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			held = append(held, l)
			p.ports[i] = append(p.ports[i], l.Addr().(*net.TCPAddr).Port)
		}
		if err := os.MkdirAll(p.data(i), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (p *processes) data(i int) string { return filepath.Join(p.dir, fmt.Sprintf("n%d", i+1)) }

func (p *processes) run(i int, binary string, args ...string) error {
	log, err := os.OpenFile(p.data(i)+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmds[i] = cmd
	return nil
}

func (p *processes) kill(i int) {
	if cmd := p.cmds[i]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
		p.cmds[i] = nil
	}
}

func (p *processes) stop() {
	for i := range p.cmds {
		p.kill(i)
	}
	os.RemoveAll(p.dir)
}

// cpu is the processor time that all nodes have used.
func (p *processes) cpu() (sum time.Duration) {
	for _, cmd := range p.cmds {
		if cmd == nil {
			continue
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		user, _ := strconv.Atoi(f[11])
		sys, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+sys) * 10 * time.Millisecond
	}
	return sum
}

// memory is the resident memory of each node, in MB.
func (p *processes) memory() (mb []float64) {
	for _, cmd := range p.cmds {
		if cmd == nil {
			continue
		}
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if _, after, ok := strings.Cut(string(raw), "VmRSS:"); ok {
			var kb float64
			fmt.Sscan(after, &kb)
			mb = append(mb, kb/1024)
		}
	}
	return mb
}

// disk is what all nodes' files take, in bytes.
func (p *processes) disk() (sum int64) {
	filepath.WalkDir(p.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		return nil
	})
	return sum
}

func (p *processes) url(node, port int) string {
	return fmt.Sprintf("nats://127.0.0.1:%d", p.ports[node][port])
}

func eventually(ctx context.Context, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited until %s: %w", what, err)
		}
	}
}

// quorate is three quorate servers.
type quorate struct {
	processes
	title  string
	binary string
	pprof  bool
	admin  *nats.Conn
}

func newQuorate(binary, dir string, pprof bool) *quorate {
	return &quorate{processes: processes{dir: dir}, title: "Quorate", binary: binary, pprof: pprof}
}

func (q *quorate) name() string      { return q.title }
func (q *quorate) nodes() *processes { return &q.processes }

func (q *quorate) start(ctx context.Context) error {
	if err := q.prepare(4); err != nil {
		return err
	}
	for i, p := range q.ports {
		addr := func(k int) string { return fmt.Sprintf("127.0.0.1:%d", p[k]) }
		args := []string{"server", "--name", fmt.Sprintf("n%d", i+1), "--data", q.data(i), "--listen", addr(0), "--cluster-listen", addr(1),
			"--raft-listen", addr(2), "--http", addr(3), "--expect", "3", "--log-level", "warn"}
		if q.pprof {
			args = append(args, "--pprof")
		}
		for j, other := range q.ports {
			if j != i {
				args = append(args, "--join", fmt.Sprintf("127.0.0.1:%d", other[1]))
			}
		}
		if err := q.run(i, q.binary, args...); err != nil {
			return err
		}
	}
	for i := range 3 {
		err := eventually(ctx, "quorate is ready", func() error {
			res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", q.ports[i][3]))
			if err == nil {
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					err = errors.New(res.Status)
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var err error
	q.admin, err = nats.Connect(q.url(0, 0)+","+q.url(1, 0)+","+q.url(2, 0), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	return err
}

func (q *quorate) stop() {
	if q.admin != nil {
		q.admin.Close()
	}
	q.processes.stop()
}

func ask(ctx context.Context, nc *nats.Conn, subject string, body []byte, into any) error {
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return err
	}
	if e := m.Header.Get("Nats-Service-Error"); e != "" {
		return errors.New(e)
	}
	if into != nil {
		return json.Unmarshal(m.Data, into)
	}
	return nil
}

func (q *quorate) store(ctx context.Context, n int) error {
	return ask(ctx, q.admin, fmt.Sprintf("es.config.write.put.b%d", n), nil, nil)
}

type quorateClient struct{ nc *nats.Conn }

func (q *quorate) client(node int) (client, error) {
	nc, err := nats.Connect(q.url(node, 0), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	return &quorateClient{nc}, err
}

func (c *quorateClient) close() { c.nc.Close() }

// append sends the payload as an event's data: the body of a CloudEvent in binary mode is taken as it is.
func (c *quorateClient) append(ctx context.Context, store, writer int, payload []byte) error {
	m := nats.NewMsg(fmt.Sprintf("es.b%d.write.append.w%d", store, writer))
	m.Header.Set("ce-type", "Benchmarked")
	m.Data = payload
	res, err := c.nc.RequestMsgWithContext(ctx, m)
	if err == nil {
		if e := res.Header.Get("Nats-Service-Error"); e != "" {
			err = errors.New(e)
		}
	}
	return err
}

func (q *quorate) readAll(ctx context.Context, store int) (n int, err error) {
	after := uint64(0)
	for {
		var page struct {
			Events []json.RawMessage `json:"events"`
			Next   uint64            `json:"next"`
			End    bool              `json:"end"`
		}
		body := fmt.Appendf(nil, `{"after":%d,"limit":10000}`, after)
		if err := ask(ctx, q.admin, fmt.Sprintf("es.b%d.read.all", store), body, &page); err != nil {
			return n, err
		}
		n, after = n+len(page.Events), page.Next
		if page.End {
			return n, nil
		}
	}
}

func (q *quorate) killLeaderOfMost(ctx context.Context) error {
	var leaders struct {
		Stores []struct{ Store, Leader string } `json:"stores"`
	}
	if err := ask(ctx, q.admin, "es.cluster.read.leaders", nil, &leaders); err != nil {
		return err
	}
	led := map[string]int{}
	for _, s := range leaders.Stores {
		led[s.Leader]++
	}
	worst := 0
	for i := range 3 {
		if led[fmt.Sprintf("n%d", i+1)] > led[fmt.Sprintf("n%d", worst+1)] {
			worst = i
		}
	}
	q.kill(worst)
	return nil
}

// jetStream is three nats-servers with JetStream; a store is an R3 stream in files.
type jetStream struct {
	processes
	binary, title string
	always        bool
	nc            *nats.Conn
	js            jetstream.JetStream
}

func newJetStream(binary, dir, title string, always bool) *jetStream {
	return &jetStream{processes: processes{dir: dir}, binary: binary, title: title, always: always}
}

func (j *jetStream) name() string      { return j.title }
func (j *jetStream) nodes() *processes { return &j.processes }

func (j *jetStream) start(ctx context.Context) error {
	if err := j.prepare(3); err != nil {
		return err
	}
	var routes []string
	for _, p := range j.ports {
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", p[1]))
	}
	for i, p := range j.ports {
		sync := ""
		if j.always {
			sync = "sync_interval: always"
		}
		conf := fmt.Sprintf("server_name: n%d\nlisten: 127.0.0.1:%d\nhttp: 127.0.0.1:%d\njetstream { store_dir: %q\nmax_file_store: 100GB\nmax_memory_store: 1GB\n%s }\ncluster { name: bench\nlisten: 127.0.0.1:%d\nroutes: [%s] }\n",
			i+1, p[0], p[2], j.data(i), sync, p[1], strings.Join(routes, ", "))
		file := j.data(i) + ".conf"
		if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
			return err
		}
		if err := j.run(i, j.binary, "-c", file); err != nil {
			return err
		}
	}
	err := eventually(ctx, "JetStream answers", func() (err error) {
		if j.nc == nil {
			if j.nc, err = nats.Connect(j.url(0, 0)+","+j.url(1, 0)+","+j.url(2, 0), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond)); err != nil {
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
	nc, err := nats.Connect(j.url(node, 0), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	return &jetStreamClient{nc, js}, err
}

func (c *jetStreamClient) close() { c.nc.Close() }

func (c *jetStreamClient) append(ctx context.Context, store, writer int, payload []byte) error {
	_, err := c.js.Publish(ctx, fmt.Sprintf("b%d.w%d", store, writer), payload)
	return err
}

func (j *jetStream) readAll(ctx context.Context, store int) (int, error) {
	st, err := j.js.Stream(ctx, fmt.Sprintf("b%d", store))
	if err != nil {
		return 0, err
	}
	last := st.CachedInfo().State.LastSeq
	cons, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return 0, err
	}
	n := 0
	it, err := cons.Messages()
	if err != nil {
		return 0, err
	}
	defer it.Stop()
	for {
		m, err := it.Next()
		if err != nil {
			return n, err
		}
		n++
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream >= last {
			return n, err
		}
	}
}

func (j *jetStream) killLeaderOfMost(ctx context.Context) error {
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
	worst := 0
	for i := range led {
		if led[i] > led[worst] {
			worst = i
		}
	}
	j.kill(worst)
	return names.Err()
}

// all does fn for n things, so many at once, and returns the first error.
func all(n, atOnce int, fn func(i int) error) error {
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Add(1)
		go func() { // ends with fn
			defer func() { <-slots; wg.Done() }()
			if err := fn(i); err != nil {
				once.Do(func() { first = err })
			}
		}()
	}
	wg.Wait()
	return first
}
