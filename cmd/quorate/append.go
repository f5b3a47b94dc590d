package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type appendCmd struct {
	clientFlags
	Store           string   `arg:"" help:"The store."`
	Stream          string   `arg:"" help:"The stream; - with --ndjson: every line names its own."`
	Type            string   `arg:"" optional:"" help:"The event's type."`
	Data            string   `arg:"" optional:"" help:"The event's data; - for standard input. What is not JSON is kept byte for byte. Behind -- when it begins with a dash."`
	ExpectedVersion int64    `help:"The stream's last version; -1 must not exist, -2 anything, -4 must exist. With --ndjson: before its first line." default:"-2"`
	ID              string   `name:"id" help:"The event's id; drawn when left out. Not with --ndjson."`
	Tag             []string `help:"A tag; repeat for more. Not with --ndjson." sep:"none" placeholder:"T"`
	Metadata        string   `help:"A JSON object. Not with --ndjson."`
	Condition       []string `help:"What must hold besides, as subjects.md has it, such as {\"stream\":\"audit\",\"version\":3}; repeat for more. Not with --ndjson." sep:"none" placeholder:"JSON"`
	NDJSON          bool     `name:"ndjson" help:"Read one event a line from standard input: {\"stream\":…,\"type\":…,\"data\":…,\"id\":…,\"tags\":…,\"metadata\":…}. Neighbouring lines of a stream go into one append, and into several where the store takes less at once."`
}

// Run appends one event, or with --ndjson every line of standard input.
func (c *appendCmd) Run(e *env) error {
	if c.NDJSON {
		if c.Type != "" {
			return usagef("with --ndjson every line says its type; leave TYPE and DATA out")
		}
		if c.ID != "" || c.Metadata != "" || len(c.Tag) > 0 {
			return usagef("with --ndjson every line says its id, metadata and tags; leave --id, --metadata and --tag out")
		}
		if len(c.Condition) > 0 {
			return usagef("--condition is about one append, and --ndjson makes many")
		}
		return c.importLines(e)
	}
	if c.Type == "" {
		return usagef("the event's TYPE is missing: quorate append %s %s TYPE DATA", c.Store, c.Stream)
	}
	event, err := c.event(e)
	if err != nil {
		return err
	}
	conditions := make([]api.Condition, len(c.Condition))
	for i, text := range c.Condition {
		if err := api.Unmarshal([]byte(text), &conditions[i]); err != nil {
			return usagef("--condition %s: %s", text, err.Description)
		}
	}
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		events := []api.NewEvent{event}
		res, err := cl.Store(c.Store).Append(ctx, c.Stream, events, c.ExpectedVersion, conditions...)
		if errors.Is(err, client.ErrOutcomeUnknown) {
			return remarkf(err, "the event's id is %s: run it again with --id %s, and it is written once", events[0].ID, events[0].ID)
		}
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			again := ""
			if res.Duplicate {
				again = " (it was there already)"
			}
			fmt.Fprintf(w, "%s/%s version %d, position %d%s\n", res.Store, res.Stream, res.Version, res.Position, again)
		})
	})
}

func (c *appendCmd) event(e *env) (api.NewEvent, error) {
	event := api.NewEvent{ID: c.ID, Type: c.Type, Tags: c.Tag}
	var err error
	if event.Data, event.DataBase64, err = payload(e, c.Data); err != nil {
		return event, err
	}
	if c.Metadata != "" && c.Metadata != "null" {
		event.Metadata = json.RawMessage(c.Metadata)
		if !json.Valid(event.Metadata) {
			return event, usagef("--metadata is not valid JSON")
		}
	}
	if err := event.Check(0); err != nil {
		return event, err
	}
	return event, nil
}

// ndjsonLine is one event of an import.
type ndjsonLine struct {
	Stream string `json:"stream"`
	api.NewEvent
}

// Bounds of one append of an import: neighbouring lines of one stream go together.
const (
	importBatch      = 500
	importBatchBytes = api.MaxAppendRequest / 2
)

// importLines appends the lines of standard input. An import that was cut off can be run again when the lines have ids: what is there
// already is not written twice.
func (c *appendCmd) importLines(e *env) error {
	cl, done, err := c.connect(e)
	if err != nil {
		return err
	}
	defer done()
	im := &importer{cmd: c, store: cl.Store(c.Store), ctx: e.ctx, streams: map[string]bool{}}
	if err = eachLine(e.stdin, im.line); err == nil {
		err = im.flush()
	}
	if err != nil {
		return remarkf(err, "%d events were appended before", im.appended)
	}
	summary := map[string]any{"store": c.Store, "events": im.appended, "duplicates": im.duplicates, "streams": len(im.streams), "position": im.position}
	return c.print(e, summary, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%d events in %d streams appended to %s, %d of them were there already; the last has position %d\n", im.appended, len(im.streams), c.Store, im.duplicates, im.position)
	})
}

type importer struct {
	cmd   *appendCmd
	store *client.Store
	ctx   context.Context

	stream  string
	batch   []api.NewEvent
	bytes   int
	first   int // the line that the batch begins with
	last    int // and the one that it ends with
	streams map[string]bool

	appended, duplicates int
	position             uint64
}

// line takes a line. An error that is not about it is about the batch before it.
func (im *importer) line(n int, raw []byte) error {
	event, err := im.event(raw)
	if err != nil {
		return remarkf(err, "line %d", n)
	}
	if event.Stream != im.stream || len(im.batch) >= importBatch || im.bytes+len(raw) > importBatchBytes {
		if err := im.flush(); err != nil {
			return err
		}
	}
	if len(im.batch) == 0 {
		im.first = n
	}
	im.stream, im.last = event.Stream, n
	im.batch = append(im.batch, event.NewEvent)
	im.bytes += len(raw)
	return nil
}

func (im *importer) event(raw []byte) (ndjsonLine, error) {
	var l ndjsonLine
	if err := api.Unmarshal(raw, &l); err != nil {
		return l, err
	}
	if im.cmd.Stream != "-" {
		if l.Stream != "" && l.Stream != im.cmd.Stream {
			return l, api.ErrBadRequest.With("the line is for stream %s, the command for %s; give - as the stream to let every line name its own", l.Stream, im.cmd.Stream)
		}
		l.Stream = im.cmd.Stream
	}
	if err := api.CheckStreamName(l.Stream); err != nil {
		return l, err
	}
	if string(l.Metadata) == "null" { // as if it were not there, as in an append's request
		l.Metadata = nil
	}
	if err := l.NewEvent.Check(0); err != nil {
		return l, err
	}
	return l, nil
}

// flush appends the batch.
func (im *importer) flush() error {
	batch := im.batch
	im.batch, im.bytes = nil, 0
	if len(batch) == 0 {
		return nil
	}
	anonymous := 0
	for i := range batch {
		if batch[i].ID == "" {
			anonymous++
		}
	}
	err := im.append(batch)
	if errors.Is(err, client.ErrOutcomeUnknown) && anonymous > 0 {
		err = remarkf(err, "%d of these lines have no id and may be written twice when they are sent again; look at stream %s first", anonymous, im.stream)
	}
	if err != nil {
		return remarkf(err, "lines %d to %d", im.first, im.last)
	}
	return nil
}

func (im *importer) append(batch []api.NewEvent) error {
	expected := im.cmd.ExpectedVersion
	if im.streams[im.stream] {
		expected = client.Any // the expectation is about the stream before the import
	}
	ctx, cancel := context.WithTimeout(im.ctx, im.cmd.Timeout)
	defer cancel()
	res, err := im.store.Append(ctx, im.stream, batch, expected)
	if half := len(batch) / 2; half > 0 && (errors.Is(err, api.ErrEventIDConflict) || errors.Is(err, api.ErrTooLarge)) {
		// A part of the batch is there already, from an import that was cut off with other neighbours, or the store takes less at once: halves are told apart.
		if err := im.append(batch[:half]); err != nil {
			return err
		}
		return im.append(batch[half:])
	}
	if err != nil {
		return err
	}
	im.streams[im.stream] = true
	im.appended += len(batch)
	if res.Duplicate {
		im.duplicates += len(batch)
	}
	im.position = max(im.position, res.Position)
	return nil
}
