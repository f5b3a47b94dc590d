package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type readCmd struct {
	clientFlags
	Store        string   `arg:""`
	Stream       string   `arg:"" optional:"" help:"Left out: the whole store, in position order."`
	From         *uint64  `help:"First version of the stream; of the whole store: the position after which to begin. Default: the beginning; with --backward the end." placeholder:"N"`
	FromEnd      bool     `help:"With --follow: only what comes from now on."`
	Backward     bool     `help:"Newest first."`
	Limit        int      `help:"How many events at most; 0: all." default:"0"`
	Type         []string `help:"Only events of this type; repeat for more." sep:"none" placeholder:"T"`
	Tag          []string `help:"Only events with this tag; repeated: with all of them." sep:"none" placeholder:"T"`
	TypePrefix   []string `help:"Of the whole store: only events whose type begins so; repeat for more." sep:"none" placeholder:"P"`
	StreamPrefix []string `help:"Of the whole store: only events of streams whose names begin so; repeat for more." sep:"none" placeholder:"P"`
	Follow       bool     `help:"Print what is there and go on with events as they come." short:"f"`
	Consistency  string   `help:"linearizable or local." enum:"linearizable,local" default:"linearizable"`
}

// Run prints events, one a line. In the whole store --type and --tag are a query; in one stream they are looked at here, after reading.
func (c *readCmd) Run(e *env) error {
	if c.Follow && c.Backward {
		return usagef("--follow and --backward do not go together")
	}
	if c.FromEnd && (!c.Follow || c.From != nil) {
		return usagef("--from-end goes with --follow, and without --from")
	}
	if c.Limit < 0 {
		return usagef("--limit %d: 0 or more", c.Limit)
	}
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	o := client.ReadOptions{Backward: c.Backward, FromEnd: c.FromEnd || c.Backward && c.From == nil, Follow: c.Follow, Consistency: c.Consistency}
	if c.Stream != "" && len(c.TypePrefix)+len(c.StreamPrefix) > 0 {
		return usagef("--type-prefix and --stream-prefix are about the whole store; leave STREAM out")
	}
	filtered := len(c.Type)+len(c.Tag)+len(c.TypePrefix)+len(c.StreamPrefix) > 0
	if filtered && c.Stream == "" {
		o.Query = &api.Query{Items: []api.QueryItem{{Types: c.Type, TypePrefixes: c.TypePrefix, Tags: c.Tag, StreamPrefixes: c.StreamPrefix}}}
	}
	if !filtered || o.Query != nil {
		o.Limit = c.Limit
	}
	if c.From != nil {
		o.From = *c.From
	}
	st := cl.Store(c.Store)
	if err := c.begins(e, cl); err != nil {
		if c.Follow && e.ctx.Err() != nil {
			return nil
		}
		return err
	}
	read := func(ctx context.Context, answered func()) iter.Seq2[api.Event, error] {
		o.OnPage = answered
		if c.Stream != "" {
			return st.ReadStream(ctx, c.Stream, o)
		}
		return st.ReadAll(ctx, o)
	}
	events := patiently(e, c.Timeout, read)
	if c.Follow { // the next event may be long in coming
		events = read(e.ctx, nil)
	}
	shown := 0
	for event, err := range events {
		if err != nil {
			if c.Follow && e.ctx.Err() != nil {
				return nil // the user ended it
			}
			return err
		}
		if !c.wanted(&event) {
			continue
		}
		if err := c.show(e, &event); err != nil {
			return err
		}
		if shown++; shown == c.Limit {
			return nil
		}
	}
	return nil
}

// begins reports, within the time limit, why nothing can be read. A local read needs no leader, which a store is described by; that a cluster is there is enough.
func (c *readCmd) begins(e *env, cl *client.Client) error {
	if c.Consistency != api.Local {
		return c.answers(e, cl.Store(c.Store))
	}
	ctx, cancel := context.WithTimeout(e.ctx, c.Timeout)
	defer cancel()
	_, err := cl.ClusterInfo(ctx)
	return err
}

func (c *readCmd) wanted(event *api.Event) bool {
	if c.Stream == "" {
		return true // the query has chosen
	}
	if len(c.Type) > 0 && !slices.Contains(c.Type, event.Type) {
		return false
	}
	for _, t := range c.Tag {
		if !slices.Contains(event.Tags, t) {
			return false
		}
	}
	return true
}

func (c *readCmd) show(e *env, event *api.Event) error {
	if c.JSON {
		return printJSON(e, event)
	}
	data := string(event.Data)
	if event.Data == nil && event.DataBase64 != nil {
		raw, _ := json.Marshal(event.DataBase64)
		data = "base64 " + string(raw)
	}
	_, err := fmt.Fprintf(e.stdout, "%8d  %s  %s@%d  %s  %s\n", event.Position, event.Time.Format(time.RFC3339), event.Stream, event.Version, event.Type, data)
	return err
}
