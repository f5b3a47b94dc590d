package client

import (
	"context"
	"errors"

	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
)

// Bounds of one append of an Importer.
const (
	importEvents = 1000
	importBytes  = api.MaxAppendRequest / 2
)

// Importer appends events, each to the stream it names, in the order in which they are added, many in one append. Events with ids can be imported again: what is there
// already is not written twice, also when an earlier import was cut off. An event's append has the trace of the context with which the event was added.
type Importer struct {
	store *Store
	batch []api.NewEvent // that were added and are not appended yet
	bytes int            // of the batch, at most
	trace Trace          // of the batch

	Events     int    // that are in the store now
	Duplicates int    // of them, that were there already
	Position   uint64 // the highest of them
}

// Import returns an Importer. Call Flush when all events are added.
func (s *Store) Import() *Importer { return &Importer{store: s} }

// Add takes an event, or returns an error and does not. The error may be about events that were added before: see Flush.
func (im *Importer) Add(ctx context.Context, e api.NewEvent) error {
	if err := api.CheckStreamName(e.Stream); err != nil {
		return err
	}
	if err := e.Check(0); err != nil {
		return err
	}
	if e.ID == "" {
		e.ID = nuid.Next()
	}
	size := 4*len(e.DataBase64)/3 + len(e.Data) + len(e.Metadata) + len(e.Stream) + len(e.Type) + len(e.ID) + 128
	for _, tag := range e.Tags {
		size += len(tag) + 3
	}
	trace := TraceFrom(ctx)
	if len(im.batch) == importEvents || len(im.batch) > 0 && (im.bytes+size > importBytes || im.trace != trace) {
		if err := im.Flush(ctx); err != nil {
			return err
		}
	}
	im.batch, im.bytes, im.trace = append(im.batch, e), im.bytes+size, trace
	return nil
}

// Flush appends what was added. After an error what is not counted in Events is kept, whether it is in the store or not, and the next Flush, or an Add that has to flush, appends it
// with the same ids; so what the store refuses for good is refused each time.
func (im *Importer) Flush(ctx context.Context) error {
	if len(im.batch) == 0 {
		return nil
	}
	if err := im.append(ctx, im.batch); err != nil {
		return err
	}
	im.batch, im.bytes = nil, 0
	return nil
}

// append appends the first events of what was added, and drops them from it as they are appended.
func (im *Importer) append(ctx context.Context, batch []api.NewEvent) error {
	res, err := ask[api.AppendSeveralResponse](ctx, im.store, request{
		subject: im.store.client.subjects.Write(im.store.name, "append", ""), effect: safe, header: im.trace.header(), body: api.AppendRequest{Events: batch},
	})
	half := len(batch) / 2
	switch {
	case half > 0 && (errors.Is(err, api.ErrEventIDConflict) || errors.Is(err, api.ErrTooLarge)):
		// A part is there already, from an import that was cut off or had other neighbours, or the store takes less at once: halves are told apart.
		if err := im.append(ctx, batch[:half]); err != nil {
			return err
		}
		return im.append(ctx, batch[half:])
	case err != nil:
		return err
	}
	im.batch = im.batch[len(batch):]
	im.Events += len(batch)
	if res.Duplicate {
		im.Duplicates += len(batch)
	}
	im.Position = max(im.Position, res.Position)
	return nil
}
