package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"

	"github.com/quorate/quorate/client"
)

// clientFlags are what every command that speaks with a cluster takes.
type clientFlags struct {
	Server  string        `help:"NATS URL of a node, or several separated by commas. Default: the nats CLI's context, then nats://127.0.0.1:4222." env:"QUORATE_SERVER,NATS_URL" placeholder:"URL" short:"s"`
	Context string        `help:"A saved context of the nats CLI." env:"QUORATE_CONTEXT,NATS_CONTEXT" placeholder:"NAME"`
	Creds   string        `help:"NATS credentials file." env:"QUORATE_CREDS,NATS_CREDS" type:"existingfile" placeholder:"FILE"`
	TLSCA   string        `name:"tlsca" help:"File with the CA certificates to trust." env:"QUORATE_TLSCA,NATS_CA" type:"existingfile" placeholder:"FILE"`
	TLSCert string        `name:"tlscert" help:"Client certificate." env:"QUORATE_TLSCERT,NATS_CERT" type:"existingfile" placeholder:"FILE"`
	TLSKey  string        `name:"tlskey" help:"Key of the client certificate." env:"QUORATE_TLSKEY,NATS_KEY" type:"existingfile" placeholder:"FILE"`
	Prefix  string        `help:"What the cluster's subjects begin with." default:"es"`
	Timeout time.Duration `help:"How long to try before giving up." default:"15s"`
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
	var nc *nats.Conn
	var err error
	url := f.Server
	if url != "" {
		nc, err = nats.Connect(url, opts...)
	} else {
		var settings natscontext.Settings
		nc, settings, err = natscontext.Connect(f.Context, opts...)
		url = settings.URL
		if f.Context == "" && (err != nil || url == "") {
			url = defaultURL
			nc, err = nats.Connect(url, opts...)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w; is a node up there? try: quorate dev", url, err)
	}
	return client.New(nc, client.WithPrefix(f.Prefix)), nc.Close, nil
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
