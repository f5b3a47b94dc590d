package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/quorate/quorate/internal/node"
)

// drainTime bounds how long a node that was told to stop waits for hand-overs and requests.
const drainTime = 15 * time.Second

type logFlags struct {
	LogLevel  string `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat string `help:"text or json." enum:"text,json" default:"text"`
}

func (f *logFlags) logger(e *env) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(f.LogLevel)) // the enum allows only what it understands
	opts := &slog.HandlerOptions{Level: level}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(e.stderr, opts))
	}
	return slog.New(slog.NewTextHandler(e.stderr, opts))
}

type serverCmd struct {
	Name          string   `help:"The node's name; unique in the cluster, and the same at every start." default:"n1"`
	Data          string   `help:"Directory for everything the node keeps." default:"data" placeholder:"DIR"`
	Listen        string   `help:"Where NATS clients connect." default:"127.0.0.1:4222" placeholder:"HOST:PORT"`
	ClusterListen string   `help:"Where other nodes connect their NATS routes." default:"127.0.0.1:6222" placeholder:"HOST:PORT"`
	RaftListen    string   `help:"Where other nodes connect for Raft." default:"127.0.0.1:7222" placeholder:"HOST:PORT"`
	RaftAdvertise string   `help:"Where other nodes reach --raft-listen, if elsewhere." placeholder:"HOST:PORT"`
	RaftTLSCert   string   `name:"raft-tls-cert" help:"This node's certificate for Raft connections, in PEM; with --raft-tls-key and --raft-tls-ca both sides must show one." placeholder:"FILE"`
	RaftTLSKey    string   `name:"raft-tls-key" help:"The certificate's private key, in PEM." placeholder:"FILE"`
	RaftTLSCA     string   `name:"raft-tls-ca" help:"The authority that signed every node's certificate, in PEM." placeholder:"FILE"`
	HTTP          string   `name:"http" help:"Dashboard, /healthz, /readyz and /metrics; empty for none." default:"127.0.0.1:8222" emptyisvalue:"" placeholder:"HOST:PORT"`
	Join          []string `help:"--cluster-listen of another node; repeat for more, or separate them by commas." placeholder:"HOST:PORT"`
	Expect        int      `help:"How many nodes form the cluster. Matters until it is formed." default:"1"`
	ClusterName   string   `help:"Nodes of another cluster name are refused." default:"quorate"`
	Prefix        string   `help:"What all subjects begin with." default:"es"`
	InboxPrefix   []string `help:"Prefix that reply subjects may begin with, beyond _INBOX.; repeat for more, or separate them by commas." placeholder:"PREFIX"`
	Pprof         bool     `help:"Serve /debug/pprof/ on --http."`
	logFlags
}

func (c *serverCmd) config(log *slog.Logger) node.Config {
	return node.Config{
		Name: c.Name, Data: c.Data, Listen: c.Listen, ClusterListen: c.ClusterListen, RaftListen: c.RaftListen, RaftAdvertise: c.RaftAdvertise,
		HTTP: c.HTTP, Join: c.Join, Expect: c.Expect, ClusterName: c.ClusterName, Prefix: c.Prefix, Inboxes: c.InboxPrefix, Pprof: c.Pprof, Logger: log,
	}
}

// Run serves until the process is told to stop. Then it drains: leaderships go to other nodes, requests are finished, and the exit code is 0.
func (c *serverCmd) Run(e *env) error {
	log := c.logger(e)
	cfg := c.config(log)
	var err error
	if cfg.RaftTLS, err = raftTLS(c.RaftTLSCert, c.RaftTLSKey, c.RaftTLSCA); err != nil {
		return usageError{err}
	}
	n, err := node.Start(e.ctx, cfg)
	if err != nil {
		if e.ctx.Err() != nil {
			log.Info("stopped before the cluster was formed")
			return nil
		}
		var mistake node.ConfigError
		if errors.As(err, &mistake) {
			return usageError{err}
		}
		return err
	}
	<-e.ctx.Done()
	log.Info("stopping: leaderships are handed over, requests are finished", "node", c.Name)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	log.Info("stopped", "node", c.Name)
	return nil
}
