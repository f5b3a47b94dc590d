package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/cluster"
	"github.com/quorate/quorate/configsvc"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// Config is what a Bus needs.
type Config struct {
	Server   ServerConfig
	ServerID string   // this member
	Inboxes  []string // prefixes that reply subjects may begin with, beyond _INBOX; with or without a dot at the end
	Now      func() time.Time
	Logger   *slog.Logger
}

// Backend is what requests are answered from.
type Backend struct {
	Stores    *stores.Manager
	Config    *configsvc.Service
	Directory *cluster.Directory
	// Ready says whether the node is fit to serve, and if not, why.
	Ready func() (ready bool, reason string)
}

// Bus is a node's NATS side. Start gives a server and peers; Serve begins to answer clients.
type Bus struct {
	cfg      Config
	subjects api.Subjects
	name     string
	log      *slog.Logger

	embedded *embedded
	clients  *nats.Conn // in the clients' account
	answers  *nats.Conn // there too, with the right to publish to inboxes only: micro answers whatever reply subject a PING or INFO names
	peers    *nats.Conn // in the account between nodes

	backend atomic.Pointer[Backend] // nil until Serve
	service micro.Service
	inboxes []string

	mu    sync.Mutex       // guards posts
	posts map[string]*post // by store name

	ctx      context.Context // done when Close begins; ends work in the background
	cancel   context.CancelFunc
	work     work
	slots    *shares       // bounds requests that wait on this node, beyond writes at a leader
	memory   *shares       // bounds the bytes of writes that wait on this node
	stopping atomic.Bool   // subscriptions are being withdrawn
	drained  atomic.Bool   // requests that still come are refused
	refused  atomic.Uint64 // requests whose reply subject is not an inbox
}

// Queue groups that requests are handed to. NATS makes one group of all queue subscriptions of a name, whatever their subjects, so these are names that no client may use.
const (
	groupPrefix = "$QUORATE."
	nodesGroup  = groupPrefix + "nodes" // of what any node can answer
	postsGroup  = groupPrefix + "post." // and the store's name: of its posts
)

// maxWaiting bounds requests that are being answered at once on a node, beyond the writes in flight at leaders. One store gets half of it at most, see shares.
const maxWaiting = 8192

// maxWaitingBytes bounds the bytes of writes that are under way on a node, as they arrived. They are in memory more than once while they are. Divided as the slots are.
const maxWaitingBytes = 128 << 20

// Start starts the NATS server and connects to it.
func Start(cfg Config) (*Bus, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Server.Logger == nil {
		cfg.Server.Logger = cfg.Logger
	}
	b := &Bus{
		cfg: cfg, subjects: api.Subjects{Prefix: cfg.Server.Prefix}, name: cfg.Server.Name, log: cfg.Logger,
		posts: make(map[string]*post), slots: newShares(maxWaiting), memory: newShares(maxWaitingBytes),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	var err error
	if b.inboxes, err = inboxes(cfg.Inboxes, cfg.Server.Prefix); err != nil {
		return nil, err
	}
	cfg.Server.inboxes = b.inboxes
	if b.embedded, err = startServer(cfg.Server); err != nil {
		return nil, err
	}
	if b.clients, err = b.embedded.connect(serviceUser, "quorate "+b.name, b.log); err == nil {
		b.answers, err = b.embedded.connect(answerUser, "quorate answers "+b.name, b.log)
	}
	if err == nil {
		b.peers, err = b.embedded.connect(peerUser, "quorate peer "+b.name, b.log)
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("connect to the embedded server: %w", err)
	}
	return b, nil
}

// ClientURL returns where clients connect.
func (b *Bus) ClientURL() string { return b.embedded.server.ClientURL() }

// RouteAddr returns the address of the route listener, with the port that was chosen.
func (b *Bus) RouteAddr() string { return b.embedded.server.ClusterAddr().String() }

// Serve begins to answer requests. Leaderships that were told before get their posts now.
func (b *Bus) Serve(backend Backend) error {
	b.backend.Store(&backend)
	if err := b.servePeers(); err != nil {
		return fmt.Errorf("serve peers: %w", err)
	}
	for _, s := range backend.Stores.List() {
		b.lead(s, s.Leadership) // asked while nobody tells the post of a newer one
	}
	service, err := micro.AddService(b.answers, micro.Config{
		Name: api.ServiceName, Version: api.Version,
		Description: "event stores; one instance a node; https://github.com/quorate/quorate",
		Metadata:    map[string]string{"node": b.name, "server_id": b.cfg.ServerID, "cluster": backend.Directory.ClusterID(), "prefix": b.cfg.Server.Prefix},
		QueueGroup:  nodesGroup,
		StatsHandler: func(*micro.Endpoint) any {
			return map[string]any{"node": b.name, "leads": b.leading(), "refused_reply_subjects": b.refused.Load()}
		},
		ErrorHandler: func(_ micro.Service, e *micro.NATSError) {
			b.log.Warn("nats service", "subject", e.Subject, "error", e.Description)
		},
	})
	if err != nil {
		return fmt.Errorf("micro service: %w", err)
	}
	b.service = service
	for _, ep := range []struct {
		name, subject string
		handle        micro.HandlerFunc
	}{
		{"read", b.subjects.Of("*", api.ClassRead, ">"), b.onRead},
		{"read-near", nearPrefix + b.name + "." + b.subjects.Of("*", api.ClassRead, ">"), b.onRead},
		{"write", b.subjects.Of("*", api.ClassWrite, ">"), b.onWrite},
	} {
		err := service.AddEndpoint(ep.name, ep.handle, micro.WithEndpointSubject(ep.subject), micro.WithEndpointPendingLimits(pendingMessages, pendingBytes))
		if err != nil {
			return fmt.Errorf("endpoint %s: %w", ep.name, err)
		}
	}
	b.work.start(b.watchReach) // ends when the bus drains or closes
	if err := errors.Join(b.clients.FlushTimeout(startTimeout), b.answers.FlushTimeout(startTimeout)); err != nil {
		return err
	}
	return b.serveNear() // the server knows the subscription by now
}

// spawn runs fn in the background unless too much is under way already; the request is then answered overloaded.
func (b *Bus) spawn(r *request, fn func()) {
	store := b.shareOf(r)
	if used, ok := b.slots.take(store, 1); !ok {
		r.giveUp(api.ErrOverloaded.With("node %s has %d requests of store %s under way, as many as there is room for all other stores; retry, or reach another node", b.name, used, r.subject.Store))
		return
	}
	b.work.start(func() { // ends with the request, which its own time limit bounds
		defer b.slots.give(store, 1)
		fn()
	})
}

// Publish sends v as JSON to whoever listens in the clients' account.
func (b *Bus) Publish(subject string, v any) {
	raw, err := api.Marshal(v)
	if err == nil {
		err = b.clients.Publish(subject, raw)
	}
	if err != nil {
		b.log.Warn("publish", "subject", subject, "error", err)
	}
}

// StopServing withdraws every subscription of clients' requests and waits until those that arrived are answered, or ctx is done.
// Leaderships should have been handed over: what comes meanwhile is then forwarded.
func (b *Bus) StopServing(ctx context.Context) error {
	b.stopping.Store(true)
	b.stopNear() // first: what is asked from here on goes to other nodes
	var errs []error
	if b.service != nil {
		errs = append(errs, b.service.Stop())
	}
	for _, p := range b.allPosts() {
		p.close()
	}
	errs = append(errs, b.answers.FlushWithContext(ctx), b.clients.FlushWithContext(ctx)) // from here on the server sends us no more requests
	if be := b.backend.Load(); be != nil {
		for _, s := range be.Stores.List() {
			s.EndWaits()
		}
	}
	if err := b.work.wait(ctx); err != nil {
		errs = append(errs, fmt.Errorf("requests are still under way: %w", err))
	}
	b.drained.Store(true)
	errs = append(errs, b.answers.FlushWithContext(ctx), b.clients.FlushWithContext(ctx)) // the answers are with the server
	return errors.Join(errs...)
}

func (b *Bus) allPosts() []*post {
	b.mu.Lock()
	defer b.mu.Unlock()
	posts := make([]*post, 0, len(b.posts))
	for _, p := range b.posts {
		posts = append(posts, p)
	}
	return posts
}

// Close ends connections and server. It waits for what runs in the background.
func (b *Bus) Close() {
	b.drained.Store(true)
	b.cancel()
	b.work.wait(context.Background())
	for _, nc := range []*nats.Conn{b.answers, b.clients, b.peers} {
		if nc != nil {
			nc.Close()
		}
	}
	b.embedded.shutdown()
}

// leading names the stores this node serves as leader.
func (b *Bus) leading() []string {
	led := []string{}
	if be := b.backend.Load(); be != nil {
		for _, s := range be.Stores.List() {
			if s.Leadership().Role == raftnode.Serving {
				led = append(led, s.Name())
			}
		}
	}
	return led
}

// inboxes returns what reply subjects may begin with: whole tokens, with the dot behind them.
func inboxes(more []string, prefix string) ([]string, error) {
	all := []string{"_INBOX."}
	for _, inbox := range more {
		inbox = strings.TrimSuffix(inbox, ".") + "."
		if strings.HasPrefix(inbox, ".") || strings.Contains(inbox, "..") || strings.ContainsAny(inbox, "*> \t\r\n") || strings.HasPrefix(inbox, "$") ||
			strings.HasPrefix(inbox, prefix+".") || strings.HasPrefix(prefix+".", inbox) { // above it is as bad as below: a reply to acme.es.orders.event.a would be taken for an event
			return nil, fmt.Errorf("--inbox-prefix %q is no prefix for replies; give what your clients' inboxes begin with, as in _INBOX_acme: tokens without wildcards, neither under %s nor above it, and not beginning with $", strings.TrimSuffix(inbox, "."), prefix)
		}
		all = append(all, inbox)
	}
	return all, nil
}

// isInbox reports whether a reply may be sent to the subject. The service may publish anywhere; its callers may not, so it must not write where
// a caller tells it to.
func (b *Bus) isInbox(reply string) bool {
	for _, prefix := range b.inboxes {
		if rest, ok := strings.CutPrefix(reply, prefix); ok && rest != "" && !strings.ContainsAny(rest, "*> \t\r\n") {
			return true
		}
	}
	return false
}
