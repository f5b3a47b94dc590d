package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type readCmd struct {
	clientFlags
	Store        string   `arg:""`
	Stream       string   `arg:"" optional:"" help:"Left out: the whole store, in position order."`
	From         *uint64  `help:"First version of the stream; of the whole store: the position after which to begin." placeholder:"N"`
	Backward     bool     `help:"Newest first."`
	Limit        int      `help:"How many events at most; 0: all." default:"0"`
	Type         []string `help:"Only events of this type; repeat for more." placeholder:"T"`
	Tag          []string `help:"Only events with this tag; repeated: with all of them." placeholder:"T"`
	TypePrefix   []string `help:"Of the whole store: only events whose type begins so; repeat for more." placeholder:"P"`
	StreamPrefix []string `help:"Of the whole store: only events of streams whose names begin so; repeat for more." placeholder:"P"`
	Follow       bool     `help:"Go on with events as they come." short:"f"`
	Consistency  string   `help:"linearizable or local." enum:"linearizable,local" default:"linearizable"`
}

// Run prints events, one a line. In the whole store --type and --tag are a query; in one stream they are looked at here, after reading.
func (c *readCmd) Run(e *env) error {
	if c.Follow && c.Backward {
		return usagef("--follow and --backward do not go together")
	}
	if c.Limit < 0 {
		return usagef("--limit %d: 0 or more", c.Limit)
	}
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	o := client.ReadOptions{Backward: c.Backward, FromEnd: c.From == nil, Follow: c.Follow, Consistency: c.Consistency}
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
	if c.Consistency != api.Local {
		if err := c.answers(e, st); err != nil {
			if c.Follow && e.ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	events := st.ReadAll(e.ctx, o)
	if c.Stream != "" {
		events = st.ReadStream(e.ctx, c.Stream, o)
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
