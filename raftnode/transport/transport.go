package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Handler answers a peer's Call. It may be called concurrently; ctx is done when the transport closes.
type Handler func(ctx context.Context, from string, method byte, body []byte) ([]byte, error)

// Config is what a Transport needs.
type Config struct {
	Listen    string                                // host:port; port 0 chooses one
	ClusterID func() string                         // checked in both directions; empty before the cluster is formed: everybody is refused
	LocalID   string                                // this server's id, at most 255 bytes
	Resolve   func(serverID string) (string, error) // where that server listens now; asked before each dial
	Handler   Handler                               // answers Call

	// Waits reports the methods whose Handler waits for answers to calls of its own. They have places and workers of their own: if they could take all of those of the
	// others, the calls that they wait for would wait for them. Nil: none does.
	Waits func(method byte) bool

	// OnMessage gets what a peer gave to Send: in order for one peer, concurrently for several. It should not block: while it does, at most 1,024
	// messages of that peer wait and the others are dropped. body is the callee's. Nil: messages are dropped.
	OnMessage func(from string, method byte, body []byte)

	// OnBroken is told that the connection for Call and Send to a server has broken. It must not block.
	OnBroken func(to string)

	// HeartbeatWait is how long a heartbeat, and the answer to one, may wait at each end for another message to be written with. Zero: it goes at once.
	HeartbeatWait time.Duration

	TLS         *tls.Config   // for both directions; nil: plain TCP
	DialTimeout time.Duration // including the handshake; default 2 s

	// IOTimeout bounds one exchange of a group; one of more than 8 MiB gets as much again for each 8 MiB. A connection on which nothing was heard
	// for so long, while the peer owed an answer, is closed. Default 3 s.
	IOTimeout time.Duration

	SnapshotRate int // bytes a second of all outgoing snapshots together; default 64 MiB
	SnapshotsOut int // outgoing at once; who finds no place waits an IOTimeout; default 2
	SnapshotsIn  int // incoming at once; others are refused and come again; default 4

	Logger *slog.Logger
}

// Transport is one node's end of all connections. Its methods may be called concurrently.
type Transport struct {
	cfg      Config
	listener net.Listener
	ctx      context.Context // done when Close begins
	cancel   context.CancelFunc
	wg       sync.WaitGroup // every goroutine but those of groups

	counts    counters
	strangers atomic.Uint64
	inbound   atomic.Int64 // bytes in all inboxes
	calls     callBox
	waits     callBox       // those whose handler waits for others
	own       *inbox[note]  // what this node sends to itself
	limit     *rate.Limiter // of outgoing snapshots, in bytes
	outgoing  chan struct{} // a place for each snapshot
	incoming  chan struct{}

	mu       sync.RWMutex // guards what follows
	groups   map[string]*Group
	links    map[linkKey]*link
	accepted map[acceptedKey]*accepted
	closed   bool
}

type linkKey struct {
	to   string
	kind byte
}

type acceptedKey struct {
	from string
	kind byte
}

type accepted struct {
	conn net.Conn
	out  *outbox
}

// lastWords is how long Close waits until answers that raft has given are written. One that gets lost costs the peer a repetition, and hashicorp/raft
// 1.8.0 more: a leader that missed the answer names an entry as predecessor that the follower may have compacted, and then sends it snapshots for ever.
const lastWords = 500 * time.Millisecond

// ErrClosed means that the transport or the group's part of it is closed.
var ErrClosed = errors.New("transport is closed")

// errStopped means that the one who waited went away.
var errStopped = errors.New("given up")

// Listen begins to accept connections.
func Listen(cfg Config) (*Transport, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.IOTimeout == 0 {
		cfg.IOTimeout = 3 * time.Second
	}
	if cfg.SnapshotRate == 0 {
		cfg.SnapshotRate = 64 << 20
	}
	if cfg.SnapshotsOut == 0 {
		cfg.SnapshotsOut = 2
	}
	if cfg.SnapshotsIn == 0 {
		cfg.SnapshotsIn = 4
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.SnapshotRate < 0 || cfg.SnapshotsOut < 0 || cfg.SnapshotsIn < 0 || cfg.DialTimeout < 0 || cfg.IOTimeout < 0 {
		return nil, errors.New("transport: a rate, bound or timeout is negative")
	}
	l, err := (&net.ListenConfig{KeepAliveConfig: keepAlive}).Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		l = tls.NewListener(l, cfg.TLS)
	}
	t := &Transport{
		cfg: cfg, listener: l,
		limit:    rate.NewLimiter(rate.Limit(cfg.SnapshotRate), snapshotPiece(cfg.SnapshotRate, cfg.IOTimeout)),
		outgoing: make(chan struct{}, cfg.SnapshotsOut), incoming: make(chan struct{}, cfg.SnapshotsIn),
		groups: make(map[string]*Group), links: make(map[linkKey]*link), accepted: make(map[acceptedKey]*accepted),
	}
	t.calls, t.waits = t.newCalls(callLane, maxCalls), t.newCalls(waitLane, maxCallsWaiting)
	t.own = t.newNotes()
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.spawn(t.accept) // ends when the listener is closed
	return t, nil
}

// spawn runs f in a goroutine that Close waits for; false: the transport is closed.
func (t *Transport) spawn(f func()) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	go func() { // ends with f, whose caller says when
		defer t.wg.Done()
		f()
	}()
	return true
}

// Addr returns where the transport listens.
func (t *Transport) Addr() net.Addr { return t.listener.Addr() }

// Stats are a transport's counters since it was opened. Frames/Writes tells how well frames share writes.
type Stats struct {
	Connections int64 // open now, of both directions
	Snapshots   int64 // in progress now, of both directions

	Frames   uint64 // written, without snapshots
	Writes   uint64 // that carried them
	BytesOut uint64
	FramesIn uint64 // messages read
	BytesIn  uint64
	Dropped  uint64 // messages for which a queue had no room, here or on arrival
	Broken   uint64 // connections this node dialled that ended before Close
	Inbound  int64  // bytes that wait for raft or a handler now

	Strangers uint64 // connections that did not speak the protocol, or not with a certificate that is asked for
}

// Stats returns the counters. It is cheap.
func (t *Transport) Stats() Stats {
	c := &t.counts
	return Stats{
		Connections: c.connections.Load(), Snapshots: c.snapshots.Load(), Frames: c.frames.Load(), Writes: c.writes.Load(), BytesOut: c.bytesOut.Load(),
		FramesIn: c.framesIn.Load(), BytesIn: c.bytesIn.Load(), Dropped: c.dropped.Load(), Broken: c.broken.Load(), Inbound: t.inbound.Load(),
		Strangers: t.strangers.Load(),
	}
}

// Group returns raft's transport for the group with the key, 1 to 255 bytes that do not begin with 0. The address of a server is its id. Closing it,
// which raft does when it shuts down, frees the key.
func (t *Transport) Group(key string) (*Group, error) { return t.InspectedGroup(key, nil) }

// InspectedGroup is Group, and what peers ask of it is inspected before raft is given it.
func (t *Transport) InspectedGroup(key string, inspect Inspect) (*Group, error) {
	if len(key) == 0 || len(key) > 255 || key[0] == 0 {
		return nil, fmt.Errorf("%q cannot be a group's key", key)
	}
	g := newGroup(t, key)
	g.inspect = inspect
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	if t.groups[key] != nil {
		return nil, fmt.Errorf("group %s is open already", key)
	}
	t.groups[key] = g
	return g, nil
}

func (t *Transport) group(key []byte) *Group {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.groups[string(key)]
}

func (t *Transport) link(to string, kind byte) *link {
	key := linkKey{to, kind}
	t.mu.RLock()
	l := t.links[key]
	t.mu.RUnlock()
	if l != nil {
		return l
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l = t.links[key]; l == nil {
		l = &link{transport: t, to: to, kind: kind}
		t.links[key] = l
	}
	return l
}

// Close ends all connections and waits for every goroutine it started. Groups should be closed before, by their raft's shutdown; Close closes those
// that are not.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	groups := make([]*Group, 0, len(t.groups))
	for _, g := range t.groups {
		groups = append(groups, g)
	}
	outs := make([]*outbox, 0, len(t.accepted))
	for _, a := range t.accepted {
		outs = append(outs, a.out)
	}
	t.mu.Unlock()
	patience := time.NewTimer(lastWords)
	defer patience.Stop()
	for _, out := range outs {
		select {
		case <-out.drained():
		case <-patience.C:
			patience.Reset(0)
		}
	}
	t.cancel() // connections end with it
	err := t.listener.Close()
	t.calls.close()
	t.waits.close()
	t.own.close()
	for _, g := range groups {
		g.Close()
	}
	t.wg.Wait()
	return err
}
