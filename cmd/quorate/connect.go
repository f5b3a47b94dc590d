package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// clientFlags are what every command that speaks with a cluster takes.
type clientFlags struct {
	Server  string        `help:"NATS URL of a node, or several separated by commas. Default: the context that the nats CLI has selected; if none is, nats://127.0.0.1:4222." env:"QUORATE_SERVER,NATS_URL" placeholder:"URL" short:"s"`
	Context string        `help:"A saved context of the nats CLI." env:"QUORATE_CONTEXT,NATS_CONTEXT" placeholder:"NAME"`
	Creds   string        `help:"NATS credentials file." env:"QUORATE_CREDS,NATS_CREDS" type:"existingfile" placeholder:"FILE"`
	TLSCA   string        `name:"tlsca" help:"File with the CA certificates to trust." env:"QUORATE_TLSCA,NATS_CA" type:"existingfile" placeholder:"FILE"`
	TLSCert string        `name:"tlscert" help:"Client certificate." env:"QUORATE_TLSCERT,NATS_CERT" type:"existingfile" placeholder:"FILE"`
	TLSKey  string        `name:"tlskey" help:"Key of the client certificate." env:"QUORATE_TLSKEY,NATS_KEY" type:"existingfile" placeholder:"FILE"`
	Prefix  string        `help:"What the cluster's subjects begin with." default:"es"`
	Timeout time.Duration `help:"How long to try a request before giving up; of backup, restore, import and --follow: the first one." default:"15s"`
	JSON    bool          `name:"json" help:"Print JSON for machines."`
}

const defaultURL = "nats://127.0.0.1:4222"

// connect opens a connection as the flags, the environment or a saved context say.
func (f *clientFlags) connect(e *env) (*client.Client, func(), error) {
	opts := []nats.Option{
		nats.Name("quorate CLI"), nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond), nats.Timeout(5 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { fmt.Fprintln(e.stderr, "quorate:", err) }),
	}
	if f.Creds != "" {
		opts = append(opts, nats.UserCredentials(f.Creds))
	}
	if f.TLSCA != "" {
		opts = append(opts, nats.RootCAs(f.TLSCA))
	}
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return nil, nil, usagef("--tlscert and --tlskey go together")
	}
	if f.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(f.TLSCert, f.TLSKey); err != nil {
			return nil, nil, usagef("--tlscert, --tlskey: %w", err)
		}
		opts = append(opts, nats.ClientCert(f.TLSCert, f.TLSKey))
	}
	nc, err := f.dial(opts)
	if err != nil {
		return nil, nil, err
	}
	return client.New(nc, client.WithPrefix(f.Prefix)), nc.Close, nil
}

// dial connects to --server, or as the context says that was named or selected with the nats CLI. Only who has neither is connected to the default: whoever selected a
// context means that cluster, and must not change another one because it cannot be reached.
func (f *clientFlags) dial(opts []nats.Option) (*nats.Conn, error) {
	name := f.Context
	if f.Server == "" && name == "" {
		var err error
		if name, err = selectedContext(); err != nil {
			return nil, fmt.Errorf("which context the nats CLI has selected: %w", err)
		}
	}
	if f.Server == "" && name != "" {
		nc, _, err := natscontext.Connect(name, opts...)
		if err != nil {
			return nil, fmt.Errorf("connect with the nats CLI's context %s: %w; is a node up there? --server and --context name another", name, err)
		}
		return nc, nil
	}
	url := f.Server
	if url == "" {
		url = defaultURL
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w; is a node up there? try: quorate dev", url, err)
	}
	return nc, nil
}

// selectedContext returns the name of the context that the nats CLI has selected, or none. natscontext does not tell it, and connects to its own default when there is none.
func selectedContext() (string, error) {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		u, err := user.Current()
		if err != nil || u.HomeDir == "" {
			return "", nil // without a home, as in a container, nothing was selected
		}
		dir = filepath.Join(u.HomeDir, ".config")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "nats", "context.txt"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(raw)), err
}

// with connects and runs fn within the time limit.
func (f *clientFlags) with(e *env, fn func(ctx context.Context, c *client.Client) error) error {
	c, done, err := f.connect(e)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(e.ctx, f.Timeout)
	defer cancel()
	return fn(ctx, c)
}

// answers reports, within the time limit, why a store cannot be read. What follows may take as long as there are events, and a client tries for ever.
func (f *clientFlags) answers(e *env, s *client.Store) error {
	ctx, cancel := context.WithTimeout(e.ctx, f.Timeout)
	defer cancel()
	_, err := s.Info(ctx)
	return err
}

// patiently yields what is read, and gives up when nothing comes within the limit: neither the next item nor, which read says by calling answered, an answer without any. What the caller does with
// an item takes as long as it takes: a pager may stand still.
func patiently[T any](e *env, limit time.Duration, read func(ctx context.Context, answered func()) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancelCause(e.ctx)
		defer cancel(nil)
		timer := time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) })
		defer timer.Stop()
		var mu sync.Mutex // guards waiting
		waiting := true   // for an item; the caller works on one otherwise
		wait := func(now bool) {
			mu.Lock()
			defer mu.Unlock()
			if waiting = now; now {
				timer.Reset(limit)
			} else {
				timer.Stop()
			}
		}
		answered := func() {
			mu.Lock()
			defer mu.Unlock()
			if waiting {
				timer.Reset(limit)
			}
		}
		for item, err := range read(ctx, answered) {
			wait(false)
			var known *api.Error
			if err != nil && context.Cause(ctx) == context.DeadlineExceeded && !errors.As(err, &known) {
				err = fmt.Errorf("no answer within %v: %v", limit, err) // not with %w: the user did not interrupt it
			}
			if !yield(item, err) {
				return
			}
			wait(true)
		}
	}
}

// print writes v as JSON, or calls table for people.
func (f *clientFlags) print(e *env, v any, table func(w *tabwriter.Writer)) error {
	if f.JSON {
		return printJSON(e, v)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

func printJSON(e *env, v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
