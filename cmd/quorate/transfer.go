package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"text/tabwriter"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type exportCmd struct {
	clientFlags
	Store string `arg:"" help:"The store."`
	File  string `arg:"" optional:"" default:"-" help:"Where to; left out or - for standard output."`
	After uint64 `help:"Only events behind this position: what an earlier export had not yet." placeholder:"P"`
}

// Run writes an event a line, in position order, as read.all answers them.
func (c *exportCmd) Run(e *env) (err error) {
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	st := cl.Store(c.Store)
	if err := c.answers(e, st); err != nil { // before there is a FILE
		return err
	}
	out := e.stdout
	if c.File != "-" {
		file, err := os.OpenFile(c.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	w := bufio.NewWriterSize(out, 1<<20)
	n, position := 0, c.After
	events := patiently(e, c.Timeout, func(ctx context.Context, answered func()) iter.Seq2[api.Event, error] {
		return st.ReadAll(ctx, client.ReadOptions{From: c.After, PageSize: 2000, OnPage: answered})
	})
	for event, err := range events {
		if err != nil {
			if err := w.Flush(); err != nil {
				return err
			}
			return c.cutOff(err, n, position)
		}
		line, err := api.Marshal(event)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		n, position = n+1, event.Position
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if file, ok := out.(*os.File); ok && c.File != "-" {
		if err := file.Sync(); err != nil {
			return err
		}
		return c.print(e, map[string]any{"store": c.Store, "events": n, "position": position}, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "%d events of %s written to %s, up to position %d\n", n, c.Store, c.File, position)
		})
	}
	return nil
}

// cutOff says how to go on. A FILE without an event is of no use, and would be in the way of the next try.
func (c *exportCmd) cutOff(err error, n int, position uint64) error {
	switch {
	case n > 0 && c.File != "-":
		return remarkf(err, "%d events were written; go on with: quorate export %s --after %d >> %s", n, c.Store, position, c.File)
	case n > 0:
		return remarkf(err, "%d events were written; go on with --after %d", n, position)
	case c.File != "-":
		os.Remove(c.File)
	}
	return err
}

type importCmd struct {
	clientFlags
	Store string `arg:"" help:"The store."`
	File  string `arg:"" optional:"" default:"-" help:"NDJSON of quorate export, or lines of {\"stream\":…,\"type\":…,\"data\":…,\"id\":…,\"tags\":…,\"metadata\":…}; left out or - for standard input."`
}

// Run appends every line. Positions, versions and times of an export are not kept: the events get those of the store they come to. Ids, order, types, data, metadata and tags are.
func (c *importCmd) Run(e *env) error {
	in := e.stdin
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer file.Close()
		in = &interruptible{ctx: e.ctx, from: file} // it may be a pipe
	}
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	if err := c.answers(e, cl.Store(c.Store)); err != nil {
		return err
	}
	im := cl.Store(c.Store).Import()
	err = eachLine(in, func(n int, raw []byte) error {
		event, err := exported(raw)
		if err != nil {
			return remarkf(err, "line %d", n)
		}
		if err := im.Add(e.ctx, event); err != nil {
			return remarkf(err, "line %d, or one of the %d before it that were not appended yet", n, max(n-1-im.Events, 0))
		}
		return nil
	})
	if err == nil {
		err = im.Flush(e.ctx)
	}
	if err != nil {
		return remarkf(err, "%d events are in the store; import again to go on", im.Events)
	}
	return c.print(e, map[string]any{"store": c.Store, "events": im.Events, "duplicates": im.Duplicates, "position": im.Position}, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%d events are in %s, %d of them were there already; the last has position %d\n", im.Events, c.Store, im.Duplicates, im.Position)
	})
}

// exportedLine is a line of an export, or one that somebody else wrote. What stands first is not kept.
type exportedLine struct {
	Position json.RawMessage `json:"position,omitempty"`
	Version  json.RawMessage `json:"version,omitempty"`
	Time     json.RawMessage `json:"time,omitempty"`
	api.NewEvent
}

func exported(raw []byte) (api.NewEvent, error) {
	var line exportedLine
	if err := api.Unmarshal(raw, &line); err != nil {
		return api.NewEvent{}, err
	}
	return line.NewEvent, nil
}
