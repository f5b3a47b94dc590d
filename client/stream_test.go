package client_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

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

// lossy returns a handle on the store whose first write is carried out and not answered. Then meanwhile happens, and happened is closed, before another one is sent.
func lossy(t *testing.T, st *client.Store, meanwhile func()) (lost *client.Store, happened <-chan struct{}) {
	t.Helper()
	var writes atomic.Int32
	done := make(chan struct{})
	lost = between(t, st, func(m *nats.Msg, send func() []byte) []byte {
		if !strings.Contains(m.Subject, ".write.") {
			return send()
		}
		if writes.Add(1) == 1 {
			send()
			meanwhile()
			close(done)
			return nil
		}
		<-done
		return send()
	}, client.WithTryTimeout(200*time.Millisecond))
	return lost, done
}

// TestDeleteRetried: a delete that took effect, whose answer was lost, is not said to be refused because somebody has brought the stream back since.
func TestDeleteRetried(t *testing.T) {
	for _, row := range []struct {
		name      string
		meanwhile bool // somebody appends
		request   func(last int64) api.DeleteStreamRequest
		want      error
	}{
		{"nothing happens", false, func(last int64) api.DeleteStreamRequest { return api.DeleteStreamRequest{ExpectedVersion: &last} }, nil},
		{"it comes back", true, func(last int64) api.DeleteStreamRequest { return api.DeleteStreamRequest{ExpectedVersion: &last} }, client.ErrOutcomeUnknown},
		{"whatever version", true, func(int64) api.DeleteStreamRequest {
			v := client.Exists
			return api.DeleteStreamRequest{ExpectedVersion: &v}
		}, client.ErrOutcomeUnknown},
		{"for ever", true, func(last int64) api.DeleteStreamRequest {
			return api.DeleteStreamRequest{ExpectedVersion: &last, Hard: true}
		}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, st := ctxFor(t), newStore(t, "delete-retried")
			if _, err := st.Append(ctx, "a", numbered(0, 6), client.NoStream); err != nil {
				t.Fatal(err)
			}
			lost, happened := lossy(t, st, func() {
				if row.meanwhile {
					_, _ = st.Append(ctx, "a", numbered(6, 1), client.Any) // a stream that is deleted for ever takes none
				}
			})
			if _, err := lost.DeleteStream(ctx, "a", row.request(5)); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			<-happened
			state, err := st.StreamState(ctx, "a")
			if err != nil || state.FirstVersion != 6 || state.Deleted == row.meanwhile && !state.Tombstoned {
				t.Errorf("%+v, %v", state, err)
			}
		})
	}
}

// TestMetadataIsNotSetTwice: what somebody else has set since is not replaced by a second try, though it is at the version that was expected.
func TestMetadataIsNotSetTwice(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "metadata-retried")
	if _, err := st.Append(ctx, "a", numbered(0, 6), client.NoStream); err != nil {
		t.Fatal(err)
	}
	last := int64(5)
	set := func(s *client.Store, by string) error {
		_, err := s.SetStreamMetadata(ctx, "a", api.StreamMetadataRequest{Custom: []byte(by), ExpectedVersion: &last})
		return err
	}
	lost, happened := lossy(t, st, func() {
		if err := set(st, `{"by":"second"}`); err != nil {
			t.Error(err)
		}
	})
	if err := set(lost, `{"by":"first"}`); !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
	<-happened
	if state, err := st.StreamState(ctx, "a"); err != nil || string(state.Custom) != `{"by":"second"}` {
		t.Errorf("%+v, %v", state, err)
	}
}
