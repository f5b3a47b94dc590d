package fsm

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/api"
)

// actual returns the actual_version that a refusal names, or math.MinInt64.
func actual(err *api.Error) int64 {
	if err == nil || err.ActualVersion == nil {
		return math.MinInt64
	}
	return *err.ActualVersion
}

// refusedAs reports whether err is the error of the table; nil is none.
func refusedAs(err *api.Error, want error) bool { return err != nil && errors.Is(err, want) }

func TestExpectedVersion(t *testing.T) {
	const none = math.MinInt64
	for _, c := range []struct {
		name     string
		events   int // that the stream has before
		expected int64
		want     error
		actual   int64
	}{
		{"no stream, none there", 0, api.ExpectNoStream, nil, none},
		{"any, none there", 0, api.ExpectAny, nil, none},
		{"exists, none there", 0, api.ExpectExists, api.ErrWrongVersion, -1},
		{"version 0, none there", 0, 0, api.ErrWrongVersion, -1},
		{"highest version, none there", 0, math.MaxInt64, api.ErrWrongVersion, -1},
		{"no stream, one event", 1, api.ExpectNoStream, api.ErrWrongVersion, 0},
		{"any, one event", 1, api.ExpectAny, nil, none},
		{"exists, one event", 1, api.ExpectExists, nil, none},
		{"exact, one event", 1, 0, nil, none},
		{"one ahead", 1, 1, api.ErrWrongVersion, 0},
		{"exact, three events", 3, 2, nil, none},
		{"one behind", 3, 1, api.ErrWrongVersion, 2},
		{"first of three", 3, 0, api.ErrWrongVersion, 2},
		{"-3 is no version", 3, -3, api.ErrBadRequest, none},
		{"-3 is no version, none there", 0, -3, api.ErrBadRequest, none},
		{"-5 is no version", 3, -5, api.ErrBadRequest, none},
		{"lowest number", 3, math.MinInt64, api.ErrBadRequest, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := openNew(t)
			for i := range c.events {
				mustApply(t, f, cmd("s", api.ExpectAny, fmt.Sprint("before ", i)))
			}
			before := bucketDump(t, f)
			got := apply(t, f, cmd("s", c.expected, "new 1", "new 2"))[0]
			if c.want == nil {
				want := AppendResult{
					FirstVersion: uint64(c.events), Version: uint64(c.events) + 1, FirstPosition: uint64(c.events) + 1, Position: uint64(c.events) + 2,
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				return
			}
			if !refusedAs(got.Err, c.want) || actual(got.Err) != c.actual {
				t.Errorf("got %v with actual version %d, want %v with %d", got.Err, actual(got.Err), c.want, c.actual)
			}
			if after := bucketDump(t, f); after != before {
				t.Errorf("a refused append changed the state from\n%sto\n%s", before, after)
			}
		})
	}
}

func TestEventIDs(t *testing.T) {
	other := cmd("s", -2, "b")
	other.Events[0].Data = []byte(`"other"`)
	retyped := cmd("s", -2, "b")
	retyped.Events[0].Type = "other"
	binary := cmd("s", -2, "b")
	binary.Events[0].JSON = false
	noData := cmd("s", -2, "b")
	noData.Events[0].JSON, noData.Events[0].Data = false, nil
	redecorated := cmd("s", -2, "b")
	redecorated.Time, redecorated.Events[0].Metadata, redecorated.Events[0].Tags = testTime+5, []byte(`{"try":2}`), []string{"again"}
	dup := func(version, position, n uint64) AppendResult {
		return AppendResult{FirstVersion: version, Version: version + n - 1, FirstPosition: position, Position: position + n - 1, Duplicate: true}
	}
	// Before each row: s has a b c (positions 1 2 4), other has x (position 3), twin has y z (positions 5 6).
	for _, c := range []struct {
		name    string
		append  Append
		want    AppendResult
		wantErr error
	}{
		{"retry of a single event", cmd("s", -2, "c"), dup(2, 4, 1), nil},
		{"retry of a whole append", cmd("twin", -1, "y", "z"), dup(0, 5, 2), nil},
		{"retry although the expected version has gone by", cmd("s", -1, "a", "b"), dup(0, 1, 2), nil},
		{"retry of a part", cmd("s", -2, "b"), dup(1, 2, 1), nil},
		{"retry with other time, metadata and tags", redecorated, dup(1, 2, 1), nil},
		{"known, then new", cmd("s", -2, "a", "new"), AppendResult{}, api.ErrEventIDConflict},
		{"new, then known", cmd("s", -2, "new", "a"), AppendResult{}, api.ErrEventIDConflict},
		{"known, new, known", cmd("s", -2, "a", "new", "b"), AppendResult{}, api.ErrEventIDConflict},
		{"known in another order", cmd("s", -2, "b", "a"), AppendResult{}, api.ErrEventIDConflict},
		{"known with a gap", cmd("s", -2, "a", "c"), AppendResult{}, api.ErrEventIDConflict},
		{"id of another stream", cmd("other", -2, "a"), AppendResult{}, api.ErrEventIDConflict},
		{"id of another stream, stream is new", cmd("fresh", -1, "a"), AppendResult{}, api.ErrEventIDConflict},
		{"ids of two streams", cmd("s", -2, "a", "x"), AppendResult{}, api.ErrEventIDConflict},
		{"other data", other, AppendResult{}, api.ErrEventIDConflict},
		{"other type", retyped, AppendResult{}, api.ErrEventIDConflict},
		{"same bytes, not as JSON", binary, AppendResult{}, api.ErrEventIDConflict},
		{"data left out", noData, AppendResult{}, api.ErrEventIDConflict},
		{"id twice in one append", cmd("s", -2, "n1", "n2", "n1"), AppendResult{}, api.ErrEventIDConflict},
		{"conflict goes before a wrong version", cmd("other", 99, "a"), AppendResult{}, api.ErrEventIDConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := openNew(t)
			mustApply(t, f, cmd("s", -1, "a", "b"), cmd("other", -1, "x"), cmd("s", 1, "c"), cmd("twin", -1, "y", "z"))
			before := bucketDump(t, f)
			got := apply(t, f, c.append)[0]
			if c.wantErr != nil {
				if !refusedAs(got.Err, c.wantErr) {
					t.Errorf("got %+v, want %v", got, c.wantErr)
				}
			} else if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if after := bucketDump(t, f); after != before {
				t.Errorf("the append wrote something; before\n%safter\n%s", before, after)
			}
		})
	}
}

// Found by this test, and mended: two appends retried as one have versions that follow one another, but not positions, and the answer makes the last position up. Either a
// conflict or the true position would do.
func TestPositionOfTwoAppendsRetriedAsOne(t *testing.T) {
	f := openNew(t)
	mustApply(t, f, cmd("s", -1, "a"), cmd("other", -1, "x"), cmd("s", 0, "b"))
	got := apply(t, f, cmd("s", -2, "a", "b"))[0]
	if got.Err == nil && (got.FirstPosition != 1 || got.Position != 3 || !got.Duplicate) {
		t.Errorf("got %+v; a is at position 1 and b at 3, a duplicate must say so or be refused", got)
	}
}

func TestRefusedAppends(t *testing.T) {
	untyped := cmd("s", -2, "a")
	untyped.Events[0].Type = ""
	for _, c := range []struct {
		name   string
		append Append
		want   error
	}{
		{"no events", cmd("s", -2), api.ErrBadRequest},
		{"no stream name", cmd("", -2, "a"), api.ErrBadName},
		{"wildcard", cmd("s.*", -2, "a"), api.ErrBadName},
		{"stream name too long", cmd(strings.Repeat("s", api.MaxStreamName+1), -2, "a"), api.ErrBadName},
		{"no id", cmd("s", -2, "a", ""), api.ErrBadName},
		{"id too long", cmd("s", -2, strings.Repeat("i", api.MaxEventID+1)), api.ErrBadName},
		{"no type", untyped, api.ErrBadName},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := openNew(t)
			before := bucketDump(t, f)
			if got := apply(t, f, c.append)[0]; !refusedAs(got.Err, c.want) {
				t.Errorf("got %+v, want %v", got, c.want)
			}
			if after := bucketDump(t, f); after != before {
				t.Errorf("a refused append wrote\n%s", after)
			}
		})
	}
}

// Commands of one entry see what the ones before them did, and a refused one does not undo the others.
func TestCommandsOfOneEntry(t *testing.T) {
	f := openNew(t)
	got := apply(t, f, cmd("s", -1, "a"), cmd("s", -1, "b"), cmd("s", 0, "c", "d"), cmd("s", -1, "a"), cmd("other", -2, "c"), cmd("other", -1, "e"))
	want := []string{"0-0 at 1-1", "wrong_expected_version", "1-2 at 2-3", "0-0 at 1-1 duplicate", "event_id_conflict", "0-0 at 4-4"}
	for i, r := range got {
		if s := describe(r); s != want[i] {
			t.Errorf("command %d: got %s, want %s", i+1, s, want[i])
		}
	}
}

func TestPositionsAndVersionsAreDense(t *testing.T) {
	f := openNew(t)
	versions := make(map[string]uint64)
	for i := range 40 {
		stream := fmt.Sprint("s", i%3)
		ids := make([]string, i%4+1)
		for j := range ids {
			ids[j] = fmt.Sprintf("%d-%d", i, j)
		}
		mustApply(t, f, cmd(stream, -2, ids...))
		apply(t, f, cmd(stream, math.MaxInt64, fmt.Sprint("refused ", i)))
		mustApply(t, f, cmd(stream, -2, ids...))
	}
	for i, e := range readAll(t, f) {
		if e.Position != uint64(i)+1 {
			t.Errorf("event %d has position %d", i, e.Position)
		}
		if e.Version != versions[e.Stream] {
			t.Errorf("event at %d has version %d of %s, want %d", e.Position, e.Version, e.Stream, versions[e.Stream])
		}
		versions[e.Stream]++
	}
}

func TestUnreadableEntryChangesOnlyTheAppliedIndex(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"newer format", []byte{formatVersion + 1, 1, 2, 3}, api.ErrUnknownFormat},
		{"newer kind", []byte{formatVersion, 1, Kinds + 1, 0}, api.ErrUnknownFormat},
		{"newer kind behind an append", append(append([]byte{formatVersion, 2}, Encode(cmd("s", -2, "new"))[2:]...), Kinds+1, 0), api.ErrUnknownFormat},
		{"malformed", []byte{formatVersion, 9}, api.ErrBadRequest},
		{"empty", nil, api.ErrBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := openNew(t)
			mustApply(t, f, cmd("s", -2, "a"))
			before := bucketDump(t, f)
			results := f.ApplyBatch([]*raft.Log{{Index: 8, Term: 4, Type: raft.LogCommand, Data: c.data}, entry(9, cmd("s", 0, "b"))})
			got := results[0].(Result).Append
			if len(got) != 1 || !refusedAs(got[0].Err, c.want) {
				t.Errorf("got %+v, want one result with %v", got, c.want)
			}
			if r := results[1].(Result).Append[0]; r.Err != nil || r.Position != 2 || r.Version != 1 {
				t.Errorf("the next entry's append got %+v, want position 2 and version 1", r)
			}
			g := openNew(t)
			mustApply(t, g, cmd("s", -2, "a"))
			g.Apply(&raft.Log{Index: 8, Term: 4, Type: raft.LogCommand, Data: c.data})
			if index, term := g.Applied(); index != 8 || term != 4 {
				t.Errorf("applied %d of term %d, want 8 of term 4", index, term)
			}
			if after := bucketDump(t, g); after != before {
				t.Errorf("the entry wrote something; before\n%safter\n%s", before, after)
			}
		})
	}
}

func TestEntriesWithoutCommands(t *testing.T) {
	f := openNew(t)
	got := f.ApplyBatch([]*raft.Log{{Index: 3, Term: 2, Type: raft.LogConfiguration, Data: []byte("not a command")}, entry(4, cmd("s", -2, "a"))})
	if got[0] != nil {
		t.Errorf("a configuration entry has the result %v", got[0])
	}
	if r := got[1].(Result).Append[0]; r.Err != nil || r.Position != 1 {
		t.Errorf("the append got %+v", r)
	}
	if got := f.ApplyBatch(nil); len(got) != 0 {
		t.Errorf("no entries have %d results", len(got))
	}
}

func TestAppliedEntriesAreSkipped(t *testing.T) {
	f := openNew(t)
	log := []*raft.Log{entry(1, cmd("s", -2, "a")), entry(2, cmd("s", -2, "b")), entry(5, cmd("s", -2, "c"))}
	f.ApplyBatch(log)
	before := hashOf(t, f)
	calls := 0
	f.OnAppend(func(uint64, string, uint64, uint64) { calls++ })
	for i, r := range f.ApplyBatch(log) {
		if r != nil {
			t.Errorf("entry %d, applied already, has the result %v", i, r)
		}
	}
	if after := hashOf(t, f); after != before {
		t.Error("applying entries again changed the state")
	}
	if calls != 0 {
		t.Errorf("applying entries again reported %d appends", calls)
	}
	got := f.ApplyBatch([]*raft.Log{log[2], entry(6, cmd("s", 2, "d"))})
	if got[0] != nil || got[1] == nil {
		t.Errorf("results of an applied and a new entry: %v", got)
	}
}

func TestOnAppend(t *testing.T) {
	f := openNew(t)
	var got []string
	f.OnAppend(func(term uint64, stream string, first, last uint64) {
		got = append(got, fmt.Sprintf("%d: %s %d-%d", term, stream, first, last))
		if index, _ := f.Applied(); index != 4 {
			t.Errorf("told while entry %d is the last visible one, want 4", index)
		}
	})
	changed := f.Changed()
	f.ApplyBatch([]*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogCommand, Data: Encode(cmd("s", -2, "a"), cmd("other", -2, "b", "c"))},
		{Index: 2, Term: 1, Type: raft.LogCommand, Data: Encode(cmd("s", -2, "a"))},
		{Index: 3, Term: 2, Type: raft.LogConfiguration},
		{Index: 4, Term: 2, Type: raft.LogCommand, Data: Encode(cmd("s", -1, "x"), cmd("s", -2, "d"))},
	})
	if want := "[1: s 1-1 1: other 2-3 2: s 4-4]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	select {
	case <-changed:
	default:
		t.Error("Changed's channel is not closed after an append")
	}
}

// An entry that cannot be applied ends everything: one call of OnFatal, no result, nothing written, then or later.
func TestFailedApply(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	var fatal []error
	cfg := testConfig(path)
	cfg.OnFatal = func(err error) { fatal = append(fatal, err) }
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustApply(t, f, cmd("s", -2, "a"))
	damage(t, f, bucketEvents, u64(1))
	before := bucketDump(t, f)
	results := f.ApplyBatch([]*raft.Log{entry(2, cmd("s", -2, "b")), entry(3, cmd("s", -2, "a"))})
	if len(fatal) != 1 || !errors.Is(fatal[0], ErrDamaged) {
		t.Errorf("OnFatal got %v, want one %v", fatal, ErrDamaged)
	}
	for i, r := range f.ApplyBatch([]*raft.Log{entry(4, cmd("s", -2, "c"))}) {
		if r != nil {
			t.Errorf("entry %d after the failure has the result %v", i, r)
		}
	}
	if index, _ := f.Applied(); index != 1 || len(fatal) != 1 {
		t.Errorf("applied %d after %d fatal errors, want 1 after 1", index, len(fatal))
	}
	if after := bucketDump(t, f); after != before {
		t.Errorf("something was written: before\n%safter\n%s", before, after)
	}
	t.Run("has no result", func(t *testing.T) {
		for i, r := range results {
			if r != nil {
				t.Errorf("entry %d of the batch that was rolled back has the result %+v; a leader would acknowledge it", i, r)
			}
		}
	})
}

// damage changes a byte in the middle of a value.
func damage(t testing.TB, f *FSM, bucket, key []byte) {
	t.Helper()
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	err := f.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		v := append([]byte(nil), b.Get(key)...)
		if len(v) == 0 {
			return fmt.Errorf("bucket %s has no key %x", bucket, key)
		}
		v[len(v)/2] ^= 0x10
		return b.Put(key, v)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// describe prints a result as the scenarios do.
func describe(r AppendResult) string {
	if r.Err != nil {
		return r.Err.Name
	}
	s := fmt.Sprintf("%d-%d at %d-%d", r.FirstVersion, r.Version, r.FirstPosition, r.Position)
	if r.Duplicate {
		s += " duplicate"
	}
	return s
}
