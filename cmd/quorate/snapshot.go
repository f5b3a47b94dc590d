package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type snapshotCmd struct {
	Put    snapshotPutCmd    `cmd:"" help:"Keep the state of an aggregate as it is after a version of its stream."`
	Get    snapshotGetCmd    `cmd:"" help:"Print the newest snapshot's data, or the newest at a version."`
	List   snapshotListCmd   `cmd:"" help:"List a stream's snapshots, newest first."`
	Delete snapshotDeleteCmd `cmd:"" help:"Drop one snapshot, those up to a version, or all."`
}

// streamArgs name a stream.
type streamArgs struct {
	Store  string `arg:""`
	Stream string `arg:""`
}

type snapshotPutCmd struct {
	clientFlags
	streamArgs
	SnapshotVersion uint64 `arg:"" name:"version" help:"Of the last event that is in it."`
	Data            string `arg:"" help:"JSON or any text; - reads standard input. What is not JSON is kept byte for byte."`
	Type            string `help:"What it is a snapshot of, and in which format, as Cart/1."`
	Metadata        string `help:"A JSON object." placeholder:"JSON"`
	Keep            int    `help:"So many of the newest stay; 0: all." default:"0"`
}

func (c *snapshotPutCmd) Run(e *env) error {
	r := api.SnapshotPutRequest{Version: c.SnapshotVersion, Type: c.Type, Keep: c.Keep}
	if c.Metadata != "" {
		if !json.Valid([]byte(c.Metadata)) {
			return usagef("--metadata is not JSON")
		}
		r.Metadata = json.RawMessage(c.Metadata)
	}
	var err error
	if r.Data, r.DataBase64, err = payload(e, c.Data); err != nil {
		return err
	}
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Store(c.Store).PutSnapshot(ctx, c.Stream, r)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "snapshot of %s/%s at version %d is kept", c.Store, c.Stream, res.Version)
			if res.Replaced {
				fmt.Fprint(w, "; the one before it of that version is replaced")
			}
			if res.Dropped > 0 {
				fmt.Fprintf(w, "; older ones dropped: %d", res.Dropped)
			}
			fmt.Fprintln(w)
		})
	})
}

type snapshotGetCmd struct {
	clientFlags
	streamArgs
	At *uint64 `help:"The newest that is not above this version."`
}

// Run prints the data as it was put, so that it can be piped on; with --json all there is.
func (c *snapshotGetCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		store := cl.Store(c.Store)
		get := func() (*api.Snapshot, error) { return store.Snapshot(ctx, c.Stream) }
		if c.At != nil {
			get = func() (*api.Snapshot, error) { return store.SnapshotAt(ctx, c.Stream, *c.At) }
		}
		s, err := get()
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(e, s)
		}
		if _, err := e.stdout.Write(s.Body()); err != nil {
			return err
		}
		if s.Data != nil { // a line of JSON; bytes stay as they are
			fmt.Fprintln(e.stdout)
		}
		return nil
	})
}

type snapshotListCmd struct {
	clientFlags
	streamArgs
}

func (c *snapshotListCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Store(c.Store).Snapshots(ctx, c.Stream)
		if err != nil {
			return err
		}
		return c.print(e, list, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "VERSION\tTYPE\tTIME\tBYTES")
			for _, s := range list {
				fmt.Fprintf(w, "%d\t%s\t%s\t%d\n", s.Version, s.Type, s.Time.Format(time.DateTime), s.Bytes)
			}
		})
	})
}

type snapshotDeleteCmd struct {
	clientFlags
	streamArgs
	At   *uint64 `help:"Only the one of this version." xor:"which"`
	UpTo *uint64 `help:"This one and older ones." xor:"which"`
	All  bool    `help:"All snapshots of the stream." xor:"which"`
}

func (c *snapshotDeleteCmd) Run(e *env) error {
	if c.At == nil && c.UpTo == nil && !c.All {
		return usagef("say which: --at N, --up-to N or --all")
	}
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		n, err := cl.Store(c.Store).DeleteSnapshots(ctx, c.Stream, api.SnapshotDeleteRequest{Version: c.At, UpTo: c.UpTo})
		if err != nil {
			return err
		}
		return c.print(e, map[string]int{"deleted": n}, func(w *tabwriter.Writer) { fmt.Fprintf(w, "snapshots dropped: %d\n", n) })
	})
}
