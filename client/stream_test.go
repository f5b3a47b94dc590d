package client_test

import (
	"errors"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// TestStreams: a stream is bounded, cut, deleted, brought back and deleted for ever, and an aggregate goes on where it can.
func TestStreams(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "lifecycle")
	read := func(name string, o client.ReadOptions) (versions []uint64, err error) {
		for e, err := range st.ReadStream(ctx, name, o) {
			if err != nil {
				return versions, err
			}
			versions = append(versions, e.Version)
		}
		return versions, nil
	}
	if _, err := st.Append(ctx, "a", numbered(0, 10), client.NoStream); err != nil {
		t.Fatal(err)
	}
	state, err := st.SetStreamMetadata(ctx, "a", api.StreamMetadataRequest{MaxCount: 6, Custom: []byte(`{"owner":"shop"}`)})
	if err != nil || !state.Changed || state.FirstVersion != 4 || state.Version != 9 {
		t.Errorf("metadata: %+v, %v", state, err)
	}
	if state, err = st.TruncateStream(ctx, "a", api.TruncateStreamRequest{Before: 7}); err != nil || !state.Changed || state.FirstVersion != 7 {
		t.Errorf("truncate: %+v, %v", state, err)
	}
	for _, size := range []int{0, 1, 2} {
		if got, err := read("a", client.ReadOptions{PageSize: size}); err != nil || len(got) != 3 || got[0] != 7 {
			t.Errorf("read %v, %v", got, err)
		}
		if got, err := read("a", client.ReadOptions{PageSize: size, Backward: true, FromEnd: true}); err != nil || len(got) != 3 || got[0] != 9 {
			t.Errorf("read backward %v, %v", got, err)
		}
	}
	now, err := st.StreamState(ctx, "a")
	if err != nil || now.FirstVersion != 7 || now.MaxCount != 6 || string(now.Custom) != `{"owner":"shop"}` || now.Deleted {
		t.Errorf("state: %+v, %v", now, err)
	}

	old, last := int64(3), int64(9)
	if _, err = st.DeleteStream(ctx, "a", api.DeleteStreamRequest{ExpectedVersion: &old}); !errors.Is(err, api.ErrWrongVersion) {
		t.Errorf("delete at an old version: %v", err)
	}
	for try, changed := range []bool{true, false} {
		if state, err = st.DeleteStream(ctx, "a", api.DeleteStreamRequest{ExpectedVersion: &last}); err != nil || !state.Deleted || state.Changed != changed {
			t.Errorf("delete, try %d: %+v, %v", try, state, err)
		}
	}
	if _, err := read("a", client.ReadOptions{}); !errors.Is(err, api.ErrStreamNotFound) {
		t.Errorf("a deleted stream: %v", err)
	}

	// An aggregate of a stream that comes back begins anew, and its versions go on.
	kind := tallies(st)
	g, err := kind.Load(ctx, "a")
	if err != nil || g.Version != client.NoStream {
		t.Fatalf("got %+v, %v", g, err)
	}
	if _, err := kind.Save(ctx, g, client.Event("Added", 5), client.Event("Added", 6), client.Event("Added", 7)); err != nil || g.Version != 12 || g.State.Sum != 18 {
		t.Errorf("got %+v, %v", g, err)
	}
	// One whose head was cut goes on from a snapshot.
	if snaps, err := st.Snapshots(ctx, "a"); err != nil || len(snaps) != 1 || snaps[0].Version != 12 {
		t.Errorf("snapshots %+v, %v", snaps, err)
	}
	if _, err := st.TruncateStream(ctx, "a", api.TruncateStreamRequest{Before: 13}); err != nil {
		t.Error(err)
	}
	if g, err = kind.Load(ctx, "a"); err != nil || g.Version != 12 || g.State.Sum != 18 {
		t.Errorf("got %+v, %v", g, err)
	}
	if _, err := kind.Save(ctx, g, client.Event("Added", 1)); err != nil || g.Version != 13 {
		t.Errorf("got %+v, %v", g, err)
	}
	// All is cut off and there is no snapshot: the version is still known.
	if _, err := st.DeleteSnapshots(ctx, "a", api.SnapshotDeleteRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := st.TruncateStream(ctx, "a", api.TruncateStreamRequest{Before: 14}); err != nil {
		t.Error(err)
	}
	if g, err = kind.Load(ctx, "a"); err != nil || g.Version != 13 || g.State.Sum != 0 {
		t.Errorf("got %+v, %v", g, err)
	}

	if state, err = st.DeleteStream(ctx, "a", api.DeleteStreamRequest{Hard: true}); err != nil || !state.Tombstoned {
		t.Errorf("hard delete: %+v, %v", state, err)
	}
	if _, err := st.Append(ctx, "a", numbered(0, 1), client.Any); !errors.Is(err, api.ErrStreamDeleted) {
		t.Errorf("append behind a tombstone: %v", err)
	}
}
