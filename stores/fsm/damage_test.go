package fsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/api"
)

// damaged returns an FSM with a: a1 x1 a2 b1 (positions 1 to 4; x1 in another stream) that was altered by fn behind its back.
func damaged(t *testing.T, fn func(tx *bolt.Tx) error) *FSM {
	t.Helper()
	f := openAt(t, filepath.Join(t.TempDir(), "state.db"))
	t.Cleanup(func() { f.Close() })
	mustApply(t, f, cmd("a", -1, "a1"), cmd("x", -1, "x1"), cmd("a", -2, "a2"), cmd("b", -1, "b1"))
	if err := f.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := f.db.Update(fn); err != nil {
		t.Fatal(err)
	}
	return f
}

func wantDamaged(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("%s: %v, want %v", what, err, ErrDamaged)
	}
}

// put and del alter a bucket.
func put(bucket, key, value []byte) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(key, value) }
}

func del(bucket, key []byte) func(*bolt.Tx) error {
	return func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete(key) }
}

// Every byte of a stored event counts: flipped, the event is not given out, wherever it is read.
func TestFlippedByteOfAnEvent(t *testing.T) {
	f := damaged(t, func(*bolt.Tx) error { return nil })
	var whole []byte
	if err := f.view(func(tx *bolt.Tx) error {
		whole = append(whole, tx.Bucket(bucketEvents).Get(u64(3))...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := append([]byte(nil), whole...)
		b[i] ^= 1 << (i % 8)
		if err := f.db.Update(put(bucketEvents, u64(3), b)); err != nil {
			t.Fatal(err)
		}
		for _, backward := range []bool{false, true} {
			page, err := f.ReadStream("a", StreamQuery{FromEnd: true, Backward: backward, Limit: 9, MaxBytes: noLimit})
			wantDamaged(t, fmt.Sprintf("byte %d: ReadStream backward %v", i, backward), err)
			for _, e := range page.Events {
				if e.Position == 3 {
					t.Errorf("byte %d: ReadStream gave out %+v", i, e)
				}
			}
			all, err := f.ReadAll(AllQuery{FromEnd: true, Backward: backward, Limit: 9, MaxBytes: noLimit})
			wantDamaged(t, fmt.Sprintf("byte %d: ReadAll backward %v", i, backward), err)
			for _, e := range all.Events {
				if e.Position == 3 {
					t.Errorf("byte %d: ReadAll gave out %+v", i, e)
				}
			}
		}
		wantDamaged(t, fmt.Sprintf("byte %d: Verify", i), f.Verify())
	}
	if page, err := f.ReadStream("x", StreamQuery{Limit: 9, MaxBytes: noLimit}); err != nil || len(page.Events) != 1 {
		t.Errorf("a stream beside the damage: %+v, %v", page, err)
	}
}

func TestEventUnderAnotherPosition(t *testing.T) {
	f := damaged(t, func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketEvents)
		one, three := append([]byte(nil), b.Get(u64(1))...), append([]byte(nil), b.Get(u64(3))...)
		return errors.Join(b.Put(u64(1), three), b.Put(u64(3), one))
	})
	_, err := f.ReadAll(AllQuery{Limit: 9, MaxBytes: noLimit})
	wantDamaged(t, "ReadAll", err)
	_, err = f.ReadStream("a", StreamQuery{Limit: 9, MaxBytes: noLimit})
	wantDamaged(t, "ReadStream", err)
	wantDamaged(t, "Verify", f.Verify())
}

func TestMissingEvent(t *testing.T) {
	f := damaged(t, del(bucketEvents, u64(3)))
	for _, backward := range []bool{false, true} {
		_, err := f.ReadAll(AllQuery{FromEnd: true, Backward: backward, Limit: 9, MaxBytes: noLimit})
		wantDamaged(t, "ReadAll", err)
		_, err = f.ReadStream("a", StreamQuery{FromEnd: true, Backward: backward, Limit: 9, MaxBytes: noLimit})
		wantDamaged(t, "ReadStream", err)
	}
	wantDamaged(t, "Verify", f.Verify())
}

// Verify finds what contradicts itself beside the events.
func TestVerify(t *testing.T) {
	number := func(n, m uint64) []byte { return append(u64(n), u64(m)...) }
	for _, c := range []struct {
		name string
		fn   func(*bolt.Tx) error
	}{
		{"index entry missing", del(bucketIndex, number(1, 1))},
		{"index entry wrong", put(bucketIndex, number(1, 1), u64(2))},
		{"id missing", del(bucketIDs, idKey("a2"))},
		{"id at another position", put(bucketIDs, idKey("a2"), u64(1))},
		{"stream missing", del(bucketStreams, []byte("a"))},
		{"stream with too many events", put(bucketStreams, []byte("a"), number(1, 3))},
		{"stream with too few events", put(bucketStreams, []byte("a"), number(1, 1))},
		{"stream with another's number", put(bucketStreams, []byte("a"), number(2, 2))},
		{"name missing", del(bucketNames, u64(1))},
		{"name of another stream", put(bucketNames, u64(1), []byte("x"))},
		{"last event missing", del(bucketEvents, u64(4))},
		{"events beyond the position", put(bucketMeta, keyPosition, u64(3))},
		{"more streams than counted", put(bucketMeta, keyStreams, u64(2))},
	} {
		t.Run(c.name, func(t *testing.T) { wantDamaged(t, "Verify", damaged(t, c.fn).Verify()) })
	}
}

// Found by this test, and mended: Verify walks the events only; what the other buckets hold too much goes unseen: an id that stands for nothing makes an append fail for ever,
// a stream without events is listed.
func TestVerifySeesWhatIsTooMuch(t *testing.T) {
	number := func(n, m uint64) []byte { return append(u64(n), u64(m)...) }
	for _, c := range []struct {
		name string
		fn   func(*bolt.Tx) error
	}{
		{"id", put(bucketIDs, idKey("never"), u64(99))},
		{"index", put(bucketIndex, number(1, 2), u64(2))},
		{"stream", put(bucketStreams, []byte("never"), number(9, 9))},
		{"name", put(bucketNames, u64(9), []byte("never"))},
	} {
		t.Run(c.name, func(t *testing.T) { wantDamaged(t, "Verify", damaged(t, c.fn).Verify()) })
	}
}

// Found by this test, and mended: index, streams and names carry no checksum, and ReadStream does not compare what they lead to with the record: a flipped bit there gives
// out another stream's event as this stream's, without an error.
func TestReadStreamComparesIndexAndRecord(t *testing.T) {
	number := func(n, m uint64) []byte { return append(u64(n), u64(m)...) }
	for _, c := range []struct {
		name string
		fn   func(*bolt.Tx) error
	}{
		{"index leads to another stream's event", put(bucketIndex, number(1, 1), u64(2))},
		{"index leads to another version", put(bucketIndex, number(1, 1), u64(1))},
		{"stream has another's number", put(bucketStreams, []byte("a"), number(2, 1))},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, backward := range []bool{false, true} {
				page, err := damaged(t, c.fn).ReadStream("a", StreamQuery{FromEnd: true, Backward: backward, Limit: 9, MaxBytes: noLimit})
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("backward %v: %v, want %v; it gave out %+v", backward, err, ErrDamaged, page.Events)
				}
			}
		})
	}
}

// Found by this test, and mended: when the last events are missing, a forward read ends early without an error; the page itself says that there are more.
func TestReadAllMissesTheLastEvent(t *testing.T) {
	page, err := damaged(t, del(bucketEvents, u64(4))).ReadAll(AllQuery{Limit: 9, MaxBytes: noLimit})
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("got %d events of %d, %v; want %v", len(page.Events), page.LastPosition, err, ErrDamaged)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(t *testing.T, path string) Config
	}{
		{"another store", func(_ *testing.T, path string) Config {
			return Config{Path: path, Store: testStore + 1, Incarnation: testIncarnation}
		}},
		{"another incarnation", func(_ *testing.T, path string) Config {
			return Config{Path: path, Store: testStore, Incarnation: testIncarnation + 1}
		}},
		{"newer disk format", func(t *testing.T, path string) Config {
			alterFile(t, path, put(bucketMeta, keyFormat, u64(diskFormat+1)))
			return testConfig(path)
		}},
		{"bucket missing", func(t *testing.T, path string) Config {
			alterFile(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketIDs) })
			return testConfig(path)
		}},
		{"no bbolt file", func(t *testing.T, path string) Config {
			if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
				t.Fatal(err)
			}
			return testConfig(path)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			f := openAt(t, path)
			fill(t, f, 0, 3)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f, err := Open(c.alter(t, path))
			if err == nil {
				f.Close()
			}
			wantDamaged(t, "Open", err)
		})
	}
}

func alterFile(t *testing.T, path string, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// Found by this test, and mended: a file that another process holds, or that cannot be opened for want of rights, is called damaged; the replica would be set aside.
func TestFileInUseIsNotDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f := openAt(t, path)
	defer f.Close()
	if g, err := Open(testConfig(path)); err == nil {
		g.Close()
		t.Error("the file was opened twice")
	} else if errors.Is(err, ErrDamaged) {
		t.Errorf("a file in use: %v", err)
	}
	if g, err := Open(testConfig(filepath.Join(t.TempDir(), "missing", "state.db"))); err == nil {
		g.Close()
		t.Error("a file was created in a folder that does not exist")
	} else if errors.Is(err, ErrDamaged) {
		t.Errorf("a folder that does not exist: %v", err)
	}
}

// A duplicate is looked up by its id; when ids leads to another event, the append must not be answered with that.
func TestIDThatLeadsElsewhere(t *testing.T) {
	f := damaged(t, put(bucketIDs, idKey("a2"), u64(2)))
	var fatal error
	f.cfg.OnFatal = func(err error) { fatal = err }
	f.Apply(entry(2, cmd("a", api.ExpectAny, "a2")))
	wantDamaged(t, "OnFatal", fatal)
}
