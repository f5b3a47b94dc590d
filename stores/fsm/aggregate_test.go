package fsm

import (
	"fmt"
	"testing"

	"github.com/quorate/quorate/api"
)

// A read with a snapshot gives the snapshot and the events of one state, whatever happens meanwhile: else there is a gap between them when a newer snapshot is put and the stream cut behind it.
func TestSnapshotAndEventsAreOfOneState(t *testing.T) {
	f := openNew(t)
	add := func(from, to int) {
		t.Helper()
		for i := from; i <= to; i++ {
			mustApply(t, f, cmd("cart", api.ExpectAny, fmt.Sprint("e", i)))
		}
	}
	change := func(c Change) {
		t.Helper()
		if _, err := take(t, f, c); err != nil {
			t.Fatal(err)
		}
	}
	put := func(version uint64) {
		t.Helper()
		change(&SnapshotChange{Op: SnapshotPut, Stream: "cart", Version: version, Time: testTime, Data: []byte("x")})
	}
	read := func(q StreamQuery) string {
		t.Helper()
		q.Limit, q.MaxBytes, q.Snapshot = noLimit, noLimit, true
		page, err := f.ReadStream("cart", q)
		if err != nil {
			t.Fatal(err)
		}
		at := "none"
		if page.Snapshot != nil {
			at = fmt.Sprint(page.Snapshot.Version)
		}
		if len(page.Events) == 0 {
			return at
		}
		return fmt.Sprintf("%s, %d to %d", at, page.Events[0].Version, page.Events[len(page.Events)-1].Version)
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	newest := StreamQuery{SnapshotAt: 1 << 62, Behind: true}
	add(0, 12)
	expect("without one", read(newest), "none, 0 to 12")
	put(10)
	f.hookView = func() { // once the state is taken
		f.hookView = nil
		add(13, 20)
		put(20)
		change(&StreamChange{Op: StreamTruncate, Stream: "cart", Before: 21, Expected: api.ExpectAny, Time: testTime})
		add(21, 21)
	}
	expect("while it changes", read(newest), "10, 11 to 12")
	expect("afterwards", read(newest), "20, 21 to 21")
	expect("from a version", read(StreamQuery{SnapshotAt: 1 << 62, From: 5}), "20, 21 to 21")
	expect("at most a version", read(StreamQuery{SnapshotAt: 15, Behind: true}), "10, 21 to 21")
	put(21)
	expect("with nothing behind it", read(newest), "21")
}
