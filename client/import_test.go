package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// TestImporterKeeps: what could not be appended is appended by the next Flush, and an event that Add did not take is not.
func TestImporterKeeps(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "importing")
	im := st.Import()
	add := func(ctx context.Context, events []api.NewEvent) error {
		for _, e := range events {
			e.Stream = "a"
			if err := im.Add(ctx, e); err != nil {
				return err
			}
		}
		return nil
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := add(ctx, numbered(0, 1000)); err != nil { // as many as one append takes
		t.Fatal(err)
	}
	for range 2 {
		if err := im.Flush(over); !errors.Is(err, context.Canceled) || im.Events != 0 {
			t.Errorf("Flush: %v, %d events", err, im.Events)
		}
		if err := add(over, numbered(1000, 1)); !errors.Is(err, context.Canceled) { // it has to flush first
			t.Errorf("Add: %v", err)
		}
	}
	if err := add(ctx, numbered(1000, 1)); err != nil || im.Events != 1000 {
		t.Errorf("Add again: %v, %d events", err, im.Events)
	}
	if err := im.Flush(ctx); err != nil || im.Events != 1001 || im.Duplicates != 0 || im.Position != 1001 {
		t.Errorf("Flush again: %v, %+v", err, im)
	}
	if info, err := st.Info(ctx); err != nil || info.Events != 1001 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestImporterCountsOnce: of a batch that is appended in parts, what was appended before an error is not appended and counted again.
func TestImporterCountsOnce(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "importing-parts")
	used := client.Event("Counted", 100)
	used.ID = "used"
	if _, err := st.Append(ctx, "b", []api.NewEvent{used}, client.Any); err != nil {
		t.Fatal(err)
	}
	im := st.Import()
	events := numbered(0, 4)
	events[3].ID = "used" // for something else
	for _, e := range events {
		e.Stream = "a"
		if err := im.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := im.Flush(ctx); !errors.Is(err, api.ErrEventIDConflict) || im.Events != 3 || im.Duplicates != 0 {
			t.Errorf("%v, %d events, %d duplicates", err, im.Events, im.Duplicates)
		}
	}
}

// TestImporterTrace: every event has the trace of the context with which it was added, whoever flushes it.
func TestImporterTrace(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "importing-trace")
	im := st.Import()
	want := []string{"c-1", "c-1", "c-2", ""}
	for i, e := range numbered(0, len(want)) {
		e.Stream = "a"
		if err := im.Add(client.WithTrace(ctx, client.Trace{Correlation: want[i]}), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := im.Flush(client.WithTrace(ctx, client.Trace{Correlation: "flush"})); err != nil {
		t.Fatal(err)
	}
	for e, err := range st.ReadStream(ctx, "a", client.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got := client.TraceOf(e).Correlation; got != want[e.Version] {
			t.Errorf("event %d has the correlation %q, want %q", e.Version, got, want[e.Version])
		}
	}
}
