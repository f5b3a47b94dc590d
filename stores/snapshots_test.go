package stores

import (
	"errors"
	"testing"

	"github.com/quorate/quorate/api"
)

// TestSnapshotOfAFormerLife: both deletes drop a stream's snapshots, also one that was made before the delete and arrives when the stream is back. One that is there may be sent again.
func TestSnapshotOfAFormerLife(t *testing.T) {
	_, s := openLone(t, Config{})
	var a answers
	put := func(stream string, version uint64) *api.Error {
		_, err := ask[api.SnapshotPutResponse](&a, func(done Done) *api.Error {
			return s.PutSnapshot(stream, api.SnapshotPutRequest{Version: version, Data: []byte("1")}, done)
		})
		return err
	}
	add := func(stream string, n int) {
		t.Helper()
		for range n {
			if err := appendTo(s, stream, "", 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("s", 3)
	if _, err := ask[api.StreamStateResponse](&a, func(done Done) *api.Error { return s.DeleteStream("s", api.DeleteStreamRequest{}, done) }); err != nil {
		t.Fatal(err)
	}
	if err := put("s", 2); !errors.Is(err, api.ErrStreamNotFound) {
		t.Errorf("of a deleted stream: %v", err)
	}
	add("s", 1)
	for version := range uint64(3) {
		if err := put("s", version); !errors.Is(err, api.ErrWrongVersion) || *err.ActualVersion != 3 {
			t.Errorf("of version %d, which the delete took: %v", version, err)
		}
	}
	if err := put("s", 3); err != nil {
		t.Errorf("of what is there: %v", err)
	}
	add("cut", 3)
	if err := put("cut", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := ask[api.StreamStateResponse](&a, func(done Done) *api.Error {
		return s.TruncateStream("cut", api.TruncateStreamRequest{Before: 2}, done)
	}); err != nil {
		t.Fatal(err)
	}
	if err := put("cut", 1); err != nil {
		t.Errorf("again, after what it holds was cut off: %v", err)
	}
}
