package natsbus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// ServerConfig says where the embedded NATS server listens and whom it joins.
type ServerConfig struct {
	Name          string   // the node's name; unique in the cluster
	ClusterName   string   // NATS servers of another cluster name are refused
	Listen        string   // host:port for clients; port -1 chooses one
	ClusterListen string   // host:port for routes between nodes; port -1 chooses one
	Routes        []string // host:port of other nodes' route listeners
	Prefix        string   // of all subjects
	Logger        *slog.Logger

	inboxes []string // prefixes of subjects that may be answered
}

// Accounts and users inside the embedded server. Clients without credentials act as clientUser; the node's own connections have
// passwords drawn at start that never leave the process.
const (
	clientAccount = "QUORATE"
	peerAccount   = "QUORATE_PEERS"
	clientUser    = "client"
	serviceUser   = "service"
	answerUser    = "answers"
	peerUser      = "peer"
)

// Pings on routes cut off a node that hangs with its connections open, so that requests stop being routed to it.
const (
	routePing     = 1 * time.Second
	routePingsOut = 2
	startTimeout  = 10 * time.Second
	listenLook    = 50 * time.Millisecond // between looks whether the server has given up
)

// embedded is the running server and the means to connect to it from inside the process.
type embedded struct {
	server   *server.Server
	password string
	clients  *server.Account
	peers    *server.Account
	said     chan struct{} // has room for one; filled when the server writes to its log
}

func startServer(cfg ServerConfig) (*embedded, error) {
	host, port, err := SplitAddr(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	clusterHost, clusterPort, err := SplitAddr(cfg.ClusterListen)
	if err != nil {
		return nil, fmt.Errorf("--cluster-listen: %w", err)
	}
	routes, err := routeURLs(cfg.Routes)
	if err != nil {
		return nil, fmt.Errorf("--join: %w", err)
	}
	var secret [16]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	password := hex.EncodeToString(secret[:])
	clients, peers := server.NewAccount(clientAccount), server.NewAccount(peerAccount)
	opts := &server.Options{
		ServerName: cfg.Name, Host: host, Port: port, NoSigs: true, MaxPayload: api.MaxPayload,
		Accounts: []*server.Account{clients, peers},
		Users: []*server.User{
			{Username: clientUser, Account: clients, Permissions: clientPermissions(cfg.Prefix)},
			{Username: serviceUser, Password: password, Account: clients},
			{Username: answerUser, Password: password, Account: clients, Permissions: answerPermissions(cfg.inboxes)},
			{Username: peerUser, Password: password, Account: peers},
		},
		NoAuthUser: clientUser,
		Routes:     routes,
		Cluster: server.ClusterOpts{
			Name: cfg.ClusterName, Host: clusterHost, Port: clusterPort, PingInterval: routePing, MaxPingsOut: routePingsOut,
			PoolSize: -1, // one connection for all accounts: what was subscribed first in one is known first elsewhere, also when the other is in another; see markerPrefix
		},
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("nats server: %w", err)
	}
	said, fatal := make(chan struct{}, 1), make(chan string, 1)
	srv.SetLoggerV2(&serverLogger{cfg.Logger, said, fatal}, false, false, false)
	srv.Start()
	if err := awaitListening(srv, fatal); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("nats server does not listen on %s and %s: %w; is another process using a port?", cfg.Listen, cfg.ClusterListen, err)
	}
	clientsAccount, err := srv.LookupAccount(clientAccount)
	var account *server.Account
	if err == nil {
		account, err = srv.LookupAccount(peerAccount)
	}
	if err != nil {
		srv.Shutdown()
		return nil, err
	}
	return &embedded{server: srv, password: password, clients: clientsAccount, peers: account, said: said}, nil
}

// awaitListening returns once the server listens, or says why it will not.
func awaitListening(srv *server.Server, fatal <-chan string) error {
	for until := time.Now().Add(startTimeout); time.Now().Before(until); {
		if srv.ReadyForConnections(listenLook) {
			return nil
		}
		select {
		case why := <-fatal:
			return errors.New(why)
		default:
		}
	}
	return fmt.Errorf("it is not ready after %v", startTimeout)
}

// clientPermissions keep a client without credentials from speaking for the cluster: it cannot publish events, cannot join the queue
// groups that requests are handed to, whatever subject it names. Whether a post exists is told in the nodes' account, where no client comes.
//
// No subject is denied that requests travel on. A subscription such as es.orders.> is wider than a denied es.*.write.>, so the server accepts it, tells the other servers, and refuses each message that
// comes for it; of a queue group the message then goes to a member at another server, and with two such clients it went to and fro for ever.
func clientPermissions(prefix string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Deny: []string{markerPrefix + ">", prefix + ".*.event.>", prefix + ".*.cloudevent.>"}},
		Subscribe: &server.SubjectPermission{Deny: []string{markerPrefix + ">", "> " + groupPrefix + ">"}},
	}
}

// answerPermissions are those of the connection on which the service answers: to inboxes, nothing else.
func answerPermissions(inboxes []string) *server.Permissions {
	allow := make([]string, len(inboxes))
	for i, prefix := range inboxes {
		allow[i] = prefix + ">"
	}
	return &server.Permissions{Publish: &server.SubjectPermission{Allow: allow}}
}

func (e *embedded) connect(user, name string, log *slog.Logger) (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(e.server), nats.UserInfo(user, e.password), nats.Name(name),
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.Timeout(startTimeout),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("nats connection", "user", user, "subject", subject, "error", err)
		}))
}

func (e *embedded) shutdown() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// SplitAddr takes host:port apart; port 0 becomes -1, which the server takes for "choose one".
func SplitAddr(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port: %w", addr, err)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("%q has no valid port", addr)
	}
	if port == 0 {
		port = -1
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, port, nil
}

func routeURLs(routes []string) ([]*url.URL, error) {
	var urls []*url.URL
	for _, r := range routes {
		if !strings.Contains(r, "://") {
			r = "nats-route://" + r
		}
		u, err := url.Parse(r)
		if err != nil {
			return nil, err
		}
		if u.Port() == "" {
			return nil, errors.New(r + " has no port")
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// serverLogger passes the server's log on, and tells that there was something: what it says is for people, that it says it is for watchReach. Its notices about routes and start are
// debug here; the node says what matters itself.
type serverLogger struct {
	log  *slog.Logger
	said chan<- struct{}
	// fatal has room for one; it gets what ends the server. The server itself goes on, and does nothing.
	fatal chan<- string
}

func (l *serverLogger) pass(level slog.Level, f string, v []any) {
	l.log.Log(context.Background(), level, "nats: "+fmt.Sprintf(f, v...))
	select {
	case l.said <- struct{}{}:
	default:
	}
}

func (l *serverLogger) Noticef(f string, v ...any) { l.pass(slog.LevelDebug, f, v) }
func (l *serverLogger) Warnf(f string, v ...any)   { l.pass(slog.LevelDebug, f, v) }
func (l *serverLogger) Errorf(f string, v ...any) {
	level := slog.LevelWarn
	if strings.HasPrefix(f, "Error trying to connect to route") { // every second, for every node that is down
		level = slog.LevelDebug
	}
	l.pass(level, f, v)
}
func (l *serverLogger) Fatalf(f string, v ...any) {
	l.pass(slog.LevelError, f, v)
	select {
	case l.fatal <- fmt.Sprintf(f, v...):
	default:
	}
}
func (l *serverLogger) Debugf(string, ...any) {}
func (l *serverLogger) Tracef(string, ...any) {}
