package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"text/tabwriter"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type streamCmd struct {
	List     streamListCmd     `cmd:"" help:"List streams in name order."`
	Info     streamInfoCmd     `cmd:"" help:"What there is of a stream beside its events: first and last version, limits, metadata."`
	Delete   streamDeleteCmd   `cmd:"" help:"Delete a stream; an append brings it back at the next version. --hard: for ever."`
	Truncate streamTruncateCmd `cmd:"" help:"Cut off the events below a version."`
	Metadata streamMetadataCmd `cmd:"" help:"Replace a stream's limits and metadata; what is left out is no limit."`
}

type streamListCmd struct {
	clientFlags
	Store string `arg:""`
	Begin string `help:"Only names that begin so." placeholder:"TEXT"`
	Limit int    `help:"How many at most; 0: all." default:"0"`
}

// Run prints as it reads: there may be many.
func (c *streamListCmd) Run(e *env) error {
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	n := 0
	streams := patiently(e, c.Timeout, func(ctx context.Context, _ func()) iter.Seq2[api.StreamInfo, error] {
		return cl.Store(c.Store).Streams(ctx, c.Begin)
	})
	for s, err := range streams {
		if err != nil {
			return err
		}
		if c.JSON {
			err = printJSON(e, s)
		} else {
			_, err = fmt.Fprintf(e.stdout, "%s  %d events, version %d\n", s.Name, s.Events, s.Version)
		}
		if n++; err != nil || n == c.Limit {
			return err
		}
	}
	return nil
}

// streamFlags are what the other subcommands take.
type streamFlags struct {
	clientFlags
	Store  string `arg:""`
	Stream string `arg:""`
}

// change sends a change and prints what it left.
func (f *streamFlags) change(e *env, send func(ctx context.Context, s *client.Store) (*api.StreamStateResponse, error)) error {
	return f.with(e, func(ctx context.Context, cl *client.Client) error {
		res, err := send(ctx, cl.Store(f.Store))
		if err != nil {
			return err
		}
		return f.print(e, res, func(w *tabwriter.Writer) {
			if !res.Changed {
				fmt.Fprintln(w, "it was so already")
			}
			printStream(w, &res.StreamState)
		})
	})
}

func printStream(w *tabwriter.Writer, s *api.StreamState) {
	state := "there"
	switch {
	case s.Tombstoned:
		state = "deleted for ever"
	case s.Deleted:
		state = "deleted; an append brings it back"
	case s.Version < 0:
		state = "not written yet"
	}
	fmt.Fprintf(w, "stream\t%s\n", s.Stream)
	fmt.Fprintf(w, "state\t%s\n", state)
	fmt.Fprintf(w, "first version\t%d\n", s.FirstVersion)
	fmt.Fprintf(w, "last version\t%d\n", s.Version)
	if s.MaxAge > 0 {
		fmt.Fprintf(w, "max age\t%s\n", time.Duration(min(s.MaxAge, api.MaxMaxAge/2))*time.Second)
	}
	if s.MaxCount > 0 {
		fmt.Fprintf(w, "max count\t%d\n", s.MaxCount)
	}
	if len(s.Custom) > 0 {
		fmt.Fprintf(w, "custom\t%s\n", s.Custom)
	}
}

type streamInfoCmd struct{ streamFlags }

func (c *streamInfoCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Store(c.Store).StreamState(ctx, c.Stream)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) { printStream(w, res) })
	})
}

type streamDeleteCmd struct {
	streamFlags
	Hard            bool   `help:"For ever: nothing can be written to the stream again."`
	ExpectedVersion *int64 `help:"Delete only when this is the last version."`
}

func (c *streamDeleteCmd) Run(e *env) error {
	return c.change(e, func(ctx context.Context, s *client.Store) (*api.StreamStateResponse, error) {
		return s.DeleteStream(ctx, c.Stream, api.DeleteStreamRequest{Hard: c.Hard, ExpectedVersion: c.ExpectedVersion})
	})
}

type streamTruncateCmd struct {
	streamFlags
	Before          uint64 `arg:"" help:"The first version that stays."`
	ExpectedVersion *int64 `help:"Truncate only when this is the last version."`
}

func (c *streamTruncateCmd) Run(e *env) error {
	return c.change(e, func(ctx context.Context, s *client.Store) (*api.StreamStateResponse, error) {
		return s.TruncateStream(ctx, c.Stream, api.TruncateStreamRequest{Before: c.Before, ExpectedVersion: c.ExpectedVersion})
	})
}

type streamMetadataCmd struct {
	streamFlags
	MaxAge          time.Duration `help:"Older events are gone, such as 720h; whole seconds."`
	MaxCount        uint64        `help:"Only so many of the last events stay."`
	Custom          string        `help:"A JSON object of your own."`
	ExpectedVersion *int64        `help:"Set it only when this is the last version; -1: the stream must not exist."`
}

func (c *streamMetadataCmd) Run(e *env) error {
	if c.MaxAge < 0 || c.MaxAge%time.Second != 0 {
		return usagef("--max-age %s: it needs whole seconds", c.MaxAge)
	}
	if c.Custom != "" && !json.Valid([]byte(c.Custom)) {
		return usagef("--custom is not JSON: %s", c.Custom)
	}
	r := api.StreamMetadataRequest{MaxAge: uint64(c.MaxAge / time.Second), MaxCount: c.MaxCount, Custom: json.RawMessage(c.Custom), ExpectedVersion: c.ExpectedVersion}
	return c.change(e, func(ctx context.Context, s *client.Store) (*api.StreamStateResponse, error) {
		return s.SetStreamMetadata(ctx, c.Stream, r)
	})
}
