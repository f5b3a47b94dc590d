package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/api"
)

// changeStream applies a change, which must not be refused.
func changeStream(t testing.TB, f *FSM, c *StreamChange) StreamResult {
	t.Helper()
	applied, _ := f.Applied()
	r := f.Apply(&raft.Log{Index: applied + 1, Term: 1 + (applied+1)/5, Type: raft.LogCommand, Data: EncodeBodies([]Body{ChangeBody(c)})}).(Result).Append[0]
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Value.(StreamResult)
}

func truncate(t testing.TB, f *FSM, stream string, before uint64) {
	t.Helper()
	changeStream(t, f, &StreamChange{Op: StreamTruncate, Stream: stream, Expected: api.ExpectAny, Before: before})
}

// scavenge makes all steps there are, and returns how many records were replaced and how many bytes given back.
func scavenge(t testing.TB, f *FSM) (events int, given int64) {
	t.Helper()
	for more := true; more; {
		did, err := f.Scavenge()
		if err != nil {
			t.Fatal(err)
		}
		events, more = events+did.Events, did.More
	}
	for more := true; more; {
		n, again, err := f.GiveBack()
		if err != nil {
			t.Fatal(err)
		}
		given, more = given+n, again
	}
	return events, given
}

func bigEvents(stream string, from, n, size int) Append {
	c := Append{Time: testTime, Stream: stream, Expected: api.ExpectAny}
	for i := from; i < from+n; i++ {
		c.Events = append(c.Events, EventRecord{ID: fmt.Sprint(stream, "-", i), Type: "Big", Tags: []string{"big"}, Data: bytes.Repeat([]byte{byte(i)}, size)})
	}
	return c
}

// TestScavengeGivesSpaceBack: the blocks of events that are gone go back to the file system while events are appended; a copy of the file is the same state, and so is what the whole log
// makes.
func TestScavengeGivesSpaceBack(t *testing.T) {
	for name, size := range map[string]int{"usual events": 300, "events of several pages": 20_000} {
		t.Run(name, func(t *testing.T) {
			f := openNew(t)
			const total = 16 << 20
			n := total / size
			for i := 0; i < n; i += 200 {
				mustApply(t, f, bigEvents("gone", i, 200, size), bigEvents("stays", i/10, 20, size))
			}
			full := diskUsed(t, f.cfg.Path)
			before := readStream(t, f, "stays")
			last := f.state.position
			changeStream(t, f, &StreamChange{Op: StreamDelete, Stream: "gone", Expected: api.ExpectAny})
			hash := hashOf(t, f)
			events, given := scavenge(t, f)
			if n = (n + 199) / 200 * 200; events != n {
				t.Errorf("%d records were scavenged, want %d", events, n)
			}
			if hashOf(t, f) != hash {
				t.Error("scavenging changed the state")
			}
			used := diskUsed(t, f.cfg.Path)
			t.Logf("%d bytes of disk, %d after scavenging; %d given back", full, used, given)
			if used > full/2 || given < total/3 {
				t.Errorf("%d of %d bytes are still used, %d were given back", used, full, given)
			}
			if info, err := f.Info(); err != nil || info.DiskBytes != used || info.Events != last {
				t.Errorf("info says %+v, %v; want %d bytes and %d events", info, err, used, last)
			}
			if did, err := f.Scavenge(); err != nil || did != (Scavenged{}) {
				t.Errorf("scavenging again: %+v, %v", did, err)
			}
			mustApply(t, f, bigEvents("stays", n/10, 5, size), bigEvents("gone", n, 5, size))
			if got := readStream(t, f, "gone"); len(got) != 5 || got[0].Version != uint64(n) {
				t.Errorf("the stream that came back has %d events from %+v on", len(got), got[0])
			}
			if got := readStream(t, f, "stays"); len(got) != len(before)+5 || got[7].Position != before[7].Position || string(got[7].DataBase64) != string(before[7].DataBase64) {
				t.Error("what was not deleted has changed")
			}
			copied := openNew(t)
			if err := restore(copied, snapshotOf(t, f)); err != nil {
				t.Fatal(err)
			}
			if hashOf(t, copied) != hashOf(t, f) {
				t.Error("a copy of a file with holes is another state")
			}
			if _, given := scavenge(t, copied); given < total/3 { // a copy has no holes
				t.Errorf("%d bytes of a copy were given back", given)
			}
		})
	}
}

func readStream(t testing.TB, f *FSM, stream string) []api.Event {
	t.Helper()
	page, err := f.ReadStream(stream, StreamQuery{Limit: noLimit, MaxBytes: noLimit})
	if err != nil || !page.End {
		t.Fatalf("read %s: end %v, %v", stream, page.End, err)
	}
	return page.Events
}

// TestCrashInScavenge: wherever the power is cut, the state is the one it was, and the next scavenging ends what was begun.
func TestCrashInScavenge(t *testing.T) {
	for _, at := range []string{"swept", "swept and committed", "punch", "punched"} {
		for nth := range 4 {
			t.Run(fmt.Sprint(at, nth), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "state.db")
				open := func() *FSM {
					cfg := testConfig(path)
					cfg.OnFatal = func(err error) {
						if !errors.Is(err, errCrash) {
							t.Errorf("OnFatal: %v", err)
						}
					}
					f, err := Open(cfg)
					if err != nil {
						t.Fatal(err)
					}
					f.sweep.limit, f.sweep.least = 100, 0
					return f
				}
				f := open()
				for i := range 20 {
					mustApply(t, f, bigEvents("a", 20*i, 20, 1500), bigEvents(fmt.Sprint("b", i), 0, 20, 300))
				}
				truncate(t, f, "a", 390)
				for i := range 15 {
					changeStream(t, f, &StreamChange{Op: StreamTombstone, Stream: fmt.Sprint("b", i), Expected: api.ExpectAny})
				}
				hash, left := hashOf(t, f), nth
				f.hookStep = func(step string) error {
					if step == at {
						if left--; left < 0 {
							return errCrash
						}
					}
					return nil
				}
				var err error
				for more := true; more && err == nil; {
					var did Scavenged
					did, err = f.Scavenge()
					more = did.More
				}
				for more := true; more && err == nil; {
					_, more, err = f.GiveBack()
				}
				if !errors.Is(err, errCrash) {
					t.Skipf("there are only %d such steps: %v", nth, err)
				}
				crash(t, f)
				f = open()
				defer func() { f.Close() }()
				for round := range 2 {
					if err := f.Verify(); err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					if hashOf(t, f) != hash {
						t.Fatalf("round %d: the state is another", round)
					}
					scavenge(t, f)
				}
				if err := f.view(func(v *view) error {
					rec, err := v.record(1)
					if r, derr := peekRecord(1, rec); err == nil && (derr != nil || !r.stub) {
						t.Errorf("event 1 is %+v, %v; want a stub", r, derr)
					}
					return err
				}); err != nil {
					t.Fatal(err)
				}
				mustApply(t, f, bigEvents("a", 400, 3, 1500))
				if got := readStream(t, f, "a"); len(got) != 13 || got[0].Version != 390 {
					t.Errorf("%d events are left, the first is %+v", len(got), got[0])
				}
			})
		}
	}
}

// TestScavengedOrNotAnswersTheSame: what a replica has scavenged must make no difference to what it answers, nor to when a condition has looked at too much.
func TestScavengedOrNotAnswersTheSame(t *testing.T) {
	early, late := openNew(t), openNew(t)
	both := func(cmds ...Append) []string {
		t.Helper()
		var out []string
		for i, r := range apply(t, early, cmds...) {
			other := apply(t, late, cmds...)[i]
			a, b := fmt.Sprintf("%+v", r), fmt.Sprintf("%+v", other)
			if r.Err != nil && other.Err != nil {
				a, b = r.Err.Error(), other.Err.Error()
			}
			if a != b {
				t.Fatalf("scavenged: %s; not: %s", a, b)
			}
			out = append(out, describe(r))
		}
		return out
	}
	for i := range 5 {
		both(bigEvents("a", 10*i, 10, 500_000))
	}
	both(cmd("b", -1, "b0", "b1"))
	for _, f := range []*FSM{early, late} {
		truncate(t, f, "a", 50)
		truncate(t, f, "b", 1)
	}
	if n, _ := scavenge(t, early); n != 51 {
		t.Fatalf("%d records were scavenged, want 51", n)
	}
	// 50 events of 123 steps each, in seven conditions: too many, if what is gone were counted by its size.
	c := cmd("c", -1, "c0")
	for range 7 {
		c.Conditions = append(c.Conditions, api.Condition{Query: &api.Query{Items: []api.QueryItem{{Types: []string{"Big"}, Tags: []string{"big"}}}}})
	}
	if got := both(c)[0]; got != "0-0 at 53-53" {
		t.Errorf("a condition on what is gone: %s", got)
	}
	retry, other := bigEvents("a", 3, 1, 500_000), bigEvents("a", 3, 1, 500_000)
	other.Events[0].Data[7]++
	typed := cmd("b", -2, "b0")
	typed.Events[0].Type = "other"
	for i, got := range []string{both(retry)[0], both(other)[0], both(typed)[0], both(cmd("b", -2, "b0", "b1"))[0], both(cmd("a", -2, "b0"))[0]} {
		if want := []string{"3-3 at 4-4 duplicate", "event_id_conflict", "event_id_conflict", "0-1 at 51-52 duplicate", "event_id_conflict"}[i]; got != want {
			t.Errorf("retry %d of what is gone: %s, want %s", i, got, want)
		}
	}
	if hashOf(t, early) != hashOf(t, late) {
		t.Error("the states differ")
	}
}

// TestDamagedStub: a stub is as guarded as an event is, and a stub where none may be is told.
func TestDamagedStub(t *testing.T) {
	swept := func() *FSM {
		f := openAt(t, filepath.Join(t.TempDir(), "state.db"))
		t.Cleanup(func() { f.Close() })
		mustApply(t, f, cmd("a", -1, "a0", "a1", "a2", "a3"), cmd("b", -1, "b0"))
		truncate(t, f, "a", 2)
		if n, _ := scavenge(t, f); n != 2 {
			t.Fatalf("%d records were scavenged", n)
		}
		if err := f.Verify(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := swept()
	damage(t, f, bucketEvents, u64(1))
	wantDamaged(t, "Verify", f.Verify())
	_, err := f.ReadAll(AllQuery{Limit: 9, MaxBytes: noLimit})
	wantDamaged(t, "ReadAll", err)
	_, err = f.Hash()
	wantDamaged(t, "Hash", err)

	for name, alter := range map[string]func(*bolt.Tx) error{
		"a stub of what is not gone": func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketEvents)
			stub, err := appendStub(nil, 5, b.Get(u64(5)))
			if err != nil {
				return err
			}
			return b.Put(u64(5), stub)
		},
		"a mark that is too high":  put(bucketSwept, []byte("a"), seal([]byte("a"), []byte{3})),
		"a mark that is flipped":   put(bucketSwept, []byte("a"), []byte{2, 0, 0, 0, 0}),
		"a state behind the end":   put(bucketKeys, []byte("sa"), seal([]byte("sa"), (&streamState{first: 5}).encode(nil))),
		"a state of another flag":  put(bucketKeys, []byte("sa"), seal([]byte("sa"), []byte{4, 2, 0, 0, 0})),
		"a state that is not said": put(bucketKeys, []byte("sb"), seal([]byte("sb"), (&streamState{maxAge: 5}).encode(nil))),
	} {
		f := swept()
		if err := f.db.Update(alter); err != nil {
			t.Fatal(err)
		}
		if name == "a state that is not said" {
			f.state.keys, f.state.trimmed = 2, 1
		}
		wantDamaged(t, name, f.Verify())
	}
}

// TestScavengeWaitsForReaders: while somebody reads what was before, the file is left as it is; afterwards it is given back.
func TestScavengeWaitsForReaders(t *testing.T) {
	f := openNew(t)
	mustApply(t, f, bigEvents("a", 0, 1000, 4000))
	truncate(t, f, "a", 1000)
	_, _, _, rc, err := f.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if n, given := scavenge(t, f); n != 0 || given != 0 {
		t.Errorf("%d records were scavenged and %d bytes given back while a snapshot was read", n, given)
	}
	if err := rc.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.view(func(v *view) error { // holds a transaction from before
		did, err := f.Scavenge()
		if err != nil || did.Events != 1000 {
			t.Errorf("scavenging under a reader: %+v, %v", did, err)
		}
		if n, more, err := f.GiveBack(); n != 0 || more || err != nil {
			t.Errorf("%d bytes were given back under a reader: %v, %v", n, more, err)
		}
		rec, err := v.record(500)
		if err == nil {
			_, err = decodeRecord(500, rec)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if _, given := scavenge(t, f); given < 3<<20 {
		t.Errorf("%d bytes were given back when the reader was gone", given)
	}
}

// TestScavengeUnderLoad: appends, flushes, reads and scavenging at the same time.
func TestScavengeUnderLoad(t *testing.T) {
	f := openLazy(t, filepath.Join(t.TempDir(), "state.db"))
	defer f.Close()
	f.sweep.limit, f.sweep.least = 200, 64<<10
	changeStream(t, f, &StreamChange{Op: StreamMetadata, Stream: "counted", Expected: api.ExpectAny, MaxCount: 50})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var swept int
	var given int64
	run := func(fn func() error) {
		wg.Add(1)
		go func() { // ends when everything is applied, or with an error
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := fn(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	run(func() error {
		did, err := f.Scavenge()
		swept += did.Events
		if err == nil {
			var n int64
			n, _, err = f.GiveBack()
			given += n
		}
		return err
	})
	run(f.Flush)
	run(func() error {
		page, err := f.ReadStream("counted", StreamQuery{Limit: 100, MaxBytes: noLimit})
		if errors.Is(err, api.ErrStreamNotFound) {
			return nil
		}
		if err == nil && (len(page.Events) > 50 || len(page.Events) < 50 && page.LastVersion > 50) {
			return fmt.Errorf("%d events at version %d", len(page.Events), page.LastVersion)
		}
		for i := range page.Events {
			if page.Events[i].Version != page.Events[0].Version+uint64(i) {
				return fmt.Errorf("version %d at %d", page.Events[i].Version, i)
			}
		}
		if err != nil {
			return err
		}
		all, err := f.ReadAll(AllQuery{Limit: 500, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{{Tags: []string{"big"}, StreamPrefixes: []string{"c"}}}}})
		if err == nil && len(all.Events) > 50 {
			err = fmt.Errorf("a query found %d events", len(all.Events))
		}
		return err
	})
	for i := range 1500 {
		mustApply(t, f, bigEvents("counted", 3*i, 3, 700), bigEvents("other", i, 1, 100))
	}
	close(stop)
	wg.Wait()
	_, rest := scavenge(t, f) // under readers that follow one another there may be no moment in which nobody reads; space comes back when there is one
	if swept == 0 || given+rest == 0 {
		t.Errorf("%d records were scavenged under load, %d bytes given back under it and %d behind it", swept, given, rest)
	}
	if err := f.Verify(); err != nil {
		t.Error(err)
	}
	if got := readStream(t, f, "other"); len(got) != 1500 {
		t.Errorf("%d events of the other stream are left", len(got))
	}
}
