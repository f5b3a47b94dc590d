package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/quorate/quorate/internal/node"
)

type devCmd struct {
	Nodes      int    `help:"How many nodes." default:"3"`
	Data       string `help:"Directory for all nodes' data." default:"dev-data" placeholder:"DIR"`
	PortOffset int    `help:"Added to all ports: 4222…, 6222…, 7222…, 8222…" default:"0" placeholder:"N"`
	logFlags
}

// Run starts the nodes, prints what to try and serves until the process is told to stop.
func (c *devCmd) Run(e *env) error {
	if c.Nodes < 1 || c.Nodes > 9 {
		return usagef("--nodes %d: 1 to 9 are possible; 3 or 5 are usual", c.Nodes)
	}
	log := c.logger(e)
	addr := func(base, i int) string { return fmt.Sprintf("127.0.0.1:%d", base+c.PortOffset+i) }
	nodes := make([]*node.Node, c.Nodes)
	errs := make([]error, c.Nodes)
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i := range nodes {
		cfg := node.Config{
			Name: fmt.Sprintf("n%d", i+1), Data: filepath.Join(c.Data, fmt.Sprintf("n%d", i+1)),
			Listen: addr(4222, i), ClusterListen: addr(6222, i), RaftListen: addr(7222, i), HTTP: addr(8222, i), Expect: c.Nodes, Logger: log,
		}
		for j := range nodes {
			if j != i {
				cfg.Join = append(cfg.Join, addr(6222, j))
			}
		}
		wg.Add(1)
		go func() { // ends when the node serves or has failed
			defer wg.Done()
			if nodes[i], errs[i] = node.Start(ctx, cfg); errs[i] != nil {
				cancel() // the others would wait for it for ever
			}
		}()
	}
	wg.Wait()
	started := func() error {
		for _, err := range errs {
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
		}
		return errors.Join(errs...)
	}()
	if started == nil {
		c.welcome(e, nodes)
		<-e.ctx.Done()
	}
	if err := c.stop(nodes); started == nil && err != nil {
		return err
	}
	if e.ctx.Err() != nil {
		return nil
	}
	return started
}

// stop ends the nodes one after the other, so that those which remain can take over what each led; the last ones have nobody to hand over to.
func (c *devCmd) stop(nodes []*node.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	var errs []error
	for i, n := range nodes {
		if n == nil {
			continue
		}
		if majority := c.Nodes/2 + 1; c.Nodes-i-1 < majority {
			cancel()
		}
		if err := n.Stop(ctx); err != nil && ctx.Err() == nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *devCmd) welcome(e *env, nodes []*node.Node) {
	var urls, pages []string
	for _, n := range nodes {
		urls = append(urls, n.ClientURL())
		pages = append(pages, "http://"+n.HTTPAddr())
	}
	server := ""
	if c.PortOffset != 0 {
		server = " --server " + urls[0]
	}
	fmt.Fprintf(e.stdout, `
%d nodes are up; data is in %s, every append is fsynced on a majority.

  NATS       %s
  dashboard  %s

Try, from another terminal, with the nats CLI:

  nats%[5]s req es.config.write.put.orders ''
  nats%[5]s req es.orders.write.append.order-42 '{"events":[{"type":"OrderPlaced","data":{"total":12}}],"expected_version":-1}'
  nats%[5]s req es.orders.read.stream.order-42 ''
  nats%[5]s sub 'es.cluster.event.leader.>'
  nats%[5]s sub 'es.orders.event.>'
  nats%[5]s req es.cluster.read.leaders ''

or with this program: quorate store list · quorate append · quorate read · quorate cluster leaders
Ctrl-C stops all nodes.
`, len(nodes), c.Data, strings.Join(urls, "  "), strings.Join(pages, "  "), server)
}
