package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type appendCmd struct {
	clientFlags
	Store           string   `arg:"" help:"The store."`
	Stream          string   `arg:"" help:"The stream; - with --ndjson: every line names its own."`
	Type            string   `arg:"" optional:"" help:"The event's type."`
	Data            string   `arg:"" optional:"" help:"The event's data; - for standard input."`
	ExpectedVersion int64    `help:"The stream's last version; -1 must not exist, -2 anything, -4 must exist." default:"-2"`
	ID              string   `name:"id" help:"The event's id; drawn when left out."`
	Tag             []string `help:"A tag; repeat for more." placeholder:"T"`
	Metadata        string   `help:"A JSON object."`
	Condition       []string `help:"What must hold besides, as subjects.md has it, such as {\"stream\":\"audit\",\"version\":3}; repeat for more. Not with --ndjson." sep:"none" placeholder:"JSON"`
	NDJSON          bool     `name:"ndjson" help:"Read one event a line from standard input: {\"stream\":…,\"type\":…,\"data\":…,\"id\":…,\"tags\":…,\"metadata\":…}."`
}

// Run appends one event, or with --ndjson every line of standard input.
func (c *appendCmd) Run(e *env) error {
	if c.NDJSON {
		if c.Type != "" {
			return usagef("with --ndjson every line says its type; leave TYPE and DATA out")
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
		res, err := cl.Store(c.Store).Append(ctx, c.Stream, []api.NewEvent{event}, c.ExpectedVersion, conditions...)
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
	data := []byte(c.Data)
	if c.Data == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(e.stdin, api.MaxEventData+1)); err != nil {
			return event, fmt.Errorf("standard input: %w", err)
		}
		data = bytes.TrimRight(data, "\n")
	}
	switch {
	case len(data) == 0:
	case json.Valid(data) && utf8.Valid(data):
		event.Data = data
	default:
		event.DataBase64 = data
	}
	if c.Metadata != "" {
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

// importBatch bounds one append of an import: neighbouring lines of one stream go together.
const (
	importBatch      = 500
	importBatchBytes = api.MaxAppendRequest / 2
	maxLine          = 2 * api.MaxEventData
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
	lines := bufio.NewScanner(e.stdin)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if err := im.line(bytes.Clone(lines.Bytes())); err != nil {
			return fmt.Errorf("line %d: %w (%d events were appended before)", n, err, im.appended)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	if err := im.flush(); err != nil {
		return fmt.Errorf("%w (%d events were appended before)", err, im.appended)
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
	streams map[string]bool

	appended, duplicates int
	position             uint64
}

func (im *importer) line(raw []byte) error {
	var l ndjsonLine
	if err := api.Unmarshal(raw, &l); err != nil {
		return err
	}
	if im.cmd.Stream != "-" {
		if l.Stream != "" && l.Stream != im.cmd.Stream {
			return api.ErrBadRequest.With("the line is for stream %s, the command for %s; give - as the stream to let every line name its own", l.Stream, im.cmd.Stream)
		}
		l.Stream = im.cmd.Stream
	}
	if err := api.CheckStreamName(l.Stream); err != nil {
		return err
	}
	if err := l.NewEvent.Check(0); err != nil {
		return err
	}
	if l.Stream != im.stream || len(im.batch) >= importBatch || im.bytes+len(raw) > importBatchBytes {
		if err := im.flush(); err != nil {
			return err
		}
	}
	im.stream = l.Stream
	im.batch = append(im.batch, l.NewEvent)
	im.bytes += len(raw)
	return nil
}

func (im *importer) flush() error {
	if len(im.batch) == 0 {
		return nil
	}
	expected := im.cmd.ExpectedVersion
	if im.streams[im.stream] {
		expected = client.Any // the expectation is about the stream before the import
	}
	ctx, cancel := context.WithTimeout(im.ctx, im.cmd.Timeout)
	defer cancel()
	res, err := im.store.Append(ctx, im.stream, im.batch, expected)
	if errors.Is(err, api.ErrEventIDConflict) && len(im.batch) > 1 {
		// A part of the batch is there already, from an import that was cut off with other neighbours: find out one by one.
		batch := im.batch
		for i := range batch {
			im.batch, im.bytes = batch[i:i+1], 0
			if err := im.flush(); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	im.streams[im.stream] = true
	im.appended += len(im.batch)
	if res.Duplicate {
		im.duplicates += len(im.batch)
	}
	im.position = max(im.position, res.Position)
	im.batch, im.bytes = nil, 0
	return nil
}
