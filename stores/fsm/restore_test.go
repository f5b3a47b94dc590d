package fsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// take carries out a step as the next entry.
func take(t *testing.T, f *FSM, c Change) (RestoreResult, *api.Error) {
	t.Helper()
	applied, _ := f.Applied()
	res, ok := f.Apply(&raft.Log{Index: applied + 1, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{ChangeBody(c)})}).(Result)
	if !ok {
		t.Fatalf("entry %d has no result", applied+1)
	}
	r, _ := res.Append[0].Value.(RestoreResult)
	return r, res.Append[0].Err
}

// backedUp is a store's backup: pages and what the last step says.
type backedUp struct {
	events, keys []*RestoreChange
	end          RestoreChange
}

func backUp(t *testing.T, f *FSM, id string, pageBytes int) (b backedUp) {
	t.Helper()
	var d api.Digester
	b.end = RestoreChange{Op: RestoreEnd, Restore: id}
	for after := uint64(0); ; {
		page, err := f.BackupEvents(after, 1<<62, pageBytes)
		if err != nil {
			t.Fatal(err)
		}
		if page.Events > 0 {
			events, err := api.DecodeBackupEvents(page.Page)
			if err != nil || len(events) != page.Events || events[0].Position != after+1 {
				t.Fatalf("page behind %d: %d events, %v", after, len(events), err)
			}
			for i := range events {
				b.end.EventsDigest = d.Event(b.end.EventsDigest, &events[i])
			}
			b.end.Events += uint64(len(events))
			b.events = append(b.events, &RestoreChange{Op: RestoreEvents, Restore: id, Page: page.Page})
		}
		if after = page.Next; page.End {
			break
		}
	}
	var page api.BackupKeys
	_, _, err := f.BackupKeys(func(key, value []byte) error {
		k := api.BackupKey{Key: key, Value: value}
		b.end.KeysDigest = d.Key(b.end.KeysDigest, &k)
		page.Add(key, value)
		b.end.Keys++
		if page.Len() > pageBytes {
			b.keys = append(b.keys, &RestoreChange{Op: RestoreKeys, Restore: id, Page: page.Encode()})
			page = api.BackupKeys{First: b.end.Keys}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if page.Count() > 0 {
		b.keys = append(b.keys, &RestoreChange{Op: RestoreKeys, Restore: id, Page: page.Encode()})
	}
	return b
}

// dumpWithKeys is bucketDump with the keys.
func dumpWithKeys(t *testing.T, f *FSM) string {
	t.Helper()
	s := bucketDump(t, f)
	err := f.view(func(v *view) error {
		return v.scan("", "", func(key string, sealed []byte) (bool, error) {
			s += fmt.Sprintf("%q %x\n", key, sealed)
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// filled returns a machine with events of all sorts, some flushed and some not, and snapshots beside them.
func filled(t *testing.T) *FSM {
	f := openNew(t)
	for i := range 200 {
		id := fmt.Sprint("e", i)
		c := Append{Time: testTime + int64(i), Stream: fmt.Sprint("s", i%7), Expected: api.ExpectAny, Events: []EventRecord{
			{ID: id, Type: fmt.Sprint("T", i%3), Data: []byte(fmt.Sprintf(`{"n":%d}`, i)), JSON: true, Tags: []string{"even", fmt.Sprint("t", i%5)}, Metadata: []byte(`{"by":"x"}`)},
			{ID: id + "b", Type: "B", Data: []byte{0, 1, 255}},
		}}
		mustApply(t, f, c)
		if i == 120 {
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 20 {
		c := &SnapshotChange{Op: SnapshotPut, Stream: fmt.Sprint("s", i%7), Version: uint64(i), Time: testTime, Data: []byte(strings.Repeat("x", 50+i))}
		if _, err := take(t, f, c); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// Nobody reads a part of a backup, however late the restore began: whether one is under way is asked in the state that is read.
func TestNobodyReadsAPart(t *testing.T) {
	f := openNew(t)
	b := backUp(t, filled(t), "r1", 500)
	reads := map[string]func() error{
		"stream":        func() error { _, err := f.ReadStream("s1", StreamQuery{Limit: 1, MaxBytes: noLimit}); return err },
		"all":           func() error { _, err := f.ReadAll(AllQuery{Limit: 1, MaxBytes: noLimit}); return err },
		"streams":       func() error { _, _, _, err := f.Streams("", "", 1); return err },
		"metadata":      func() error { _, _, _, err := f.StreamState("s1"); return err },
		"snapshot":      func() error { _, _, err := f.AggregateSnapshot("s1", 100); return err },
		"snapshots":     func() error { _, _, err := f.AggregateSnapshots("s1"); return err },
		"subscription":  func() error { _, _, err := f.Subscription("x"); return err },
		"subscriptions": func() error { _, _, err := f.Subscriptions(); return err },
		"parked":        func() error { _, _, _, err := f.Parked("x", 0, 1); return err },
		"backup_keys":   func() error { _, _, err := f.BackupKeys(func(_, _ []byte) error { return nil }); return err },
		"query": func() error {
			_, err := f.ReadAll(AllQuery{Limit: 1, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{{Types: []string{"B"}}}}})
			return err
		},
	}
	step := func(c *RestoreChange, part bool) {
		t.Helper()
		if _, err := take(t, f, c); err != nil {
			t.Fatal(err)
		}
		for what, read := range reads {
			if err := read(); errors.Is(err, api.ErrRestoring) != part {
				t.Errorf("%s, of a store that is a part: %v; answered %v", what, part, err)
			}
		}
	}
	step(&RestoreChange{Op: RestoreBegin, Restore: "r1"}, true)
	for _, c := range append(b.events, b.keys...) {
		step(c, true)
	}
	step(&b.end, false)
}

// TestRestoredBackup: a store that was restored from a backup, whatever the pages, is the one that was backed up: events, streams, keys, and what is looked up by id, type and tag. Steps
// that are sent twice or too early change nothing, nothing else is taken meanwhile, and all replicas are the same.
func TestRestoredBackup(t *testing.T) {
	from := filled(t)
	for _, pageBytes := range []int{1, 500, 1 << 20} {
		b := backUp(t, from, "r1", pageBytes)
		to, replica := openNew(t), openNew(t)
		both := func(c Change) (RestoreResult, *api.Error) {
			t.Helper()
			r, err := take(t, to, c)
			other, otherErr := take(t, replica, c)
			if r != other || (err == nil) != (otherErr == nil) {
				t.Fatalf("replicas differ: %+v %v, %+v %v", r, err, other, otherErr)
			}
			return r, err
		}
		refused := func(what string, c Change, want *api.Error) {
			t.Helper()
			before := dumpWithKeys(t, to)
			if _, err := both(c); !errors.Is(err, want) {
				t.Errorf("pages of %d bytes: %s: got %v, want %s", pageBytes, what, err, want.Name)
			}
			if dumpWithKeys(t, to) != before {
				t.Errorf("pages of %d bytes: %s: it was refused and wrote", pageBytes, what)
			}
		}
		refused("a page before the beginning", b.events[0], api.ErrRestoreRefused)
		if _, err := both(&RestoreChange{Op: RestoreBegin, Restore: "r1"}); err != nil {
			t.Fatal(err)
		}
		refused("another restore", &RestoreChange{Op: RestoreBegin, Restore: "r2"}, api.ErrRestoring)
		refused("a snapshot", &SnapshotChange{Op: SnapshotDropAll, Stream: "s1", Data: []byte{}}, api.ErrRestoring)
		if res := apply(t, to, cmd("s", api.ExpectAny, "x")); !errors.Is(res[0].Err, api.ErrRestoring) {
			t.Errorf("an append is answered %+v", res[0])
		}
		apply(t, replica, cmd("s", api.ExpectAny, "x"))
		if i, err := to.Info(); err != nil || !i.Restoring || i.LastPosition != 0 {
			t.Errorf("restoring: %+v, %v", i, err)
		}
		if r, err := both(b.keys[len(b.keys)-1]); len(b.keys) > 1 && (err != nil || r.Keys != 0) {
			t.Errorf("keys too early: %+v, %v", r, err)
		}
		if len(b.keys) == 1 { // they were taken as the first of a backup without events
			to, replica = openNew(t), openNew(t)
			both(&RestoreChange{Op: RestoreBegin, Restore: "r1"})
		}
		for i, page := range b.events {
			if i+1 < len(b.events) {
				before, _ := to.Info()
				if r, err := both(b.events[i+1]); err != nil || r.Position != before.LastPosition {
					t.Fatalf("a page too early: %+v, %v", r, err)
				}
			}
			if _, err := both(page); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if _, err := both(page); err != nil {
					t.Fatalf("a page twice: %v", err)
				}
			}
			if i == len(b.events)/2 {
				if err := to.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		refused("the end without keys", &b.end, api.ErrRestoreRefused)
		for range 2 {
			for _, page := range b.keys {
				if _, err := both(page); err != nil {
					t.Fatal(err)
				}
			}
		}
		wrong := b.end
		wrong.EventsDigest[3]++
		refused("the end with another digest", &wrong, api.ErrRestoreRefused)
		wrong = b.end
		wrong.KeysDigest[3]++
		refused("the end with another digest of keys", &wrong, api.ErrRestoreRefused)
		for range 2 {
			if r, err := both(&b.end); err != nil || !r.Done {
				t.Fatalf("the end: %+v, %v", r, err)
			}
		}
		if i, err := to.Info(); err != nil || i.Restoring {
			t.Errorf("still restoring: %+v, %v", i, err)
		}
		refused("a new restore", &RestoreChange{Op: RestoreBegin, Restore: "r2"}, api.ErrStoreNotEmpty)
		if bucketDump(t, to) != bucketDump(t, from) {
			t.Errorf("pages of %d bytes: what was restored is not what was backed up", pageBytes)
		}
		again := backUp(t, to, "r1", pageBytes)
		if again.end.EventsDigest != b.end.EventsDigest || again.end.KeysDigest != b.end.KeysDigest || again.end.Keys != b.end.Keys {
			t.Errorf("pages of %d bytes: a backup of what was restored has other digests", pageBytes)
		}
		query := &api.Query{Items: []api.QueryItem{{Types: []string{"T1"}, Tags: []string{"even", "t2"}}}}
		for _, f := range []*FSM{from, to} {
			page, err := f.ReadAll(AllQuery{Limit: 1000, MaxBytes: noLimit, Query: query})
			if err != nil || len(page.Events) != 13 {
				t.Errorf("pages of %d bytes: the query finds %d events, %v", pageBytes, len(page.Events), err)
			}
		}
		for _, id := range []string{"e0", "e150", "e199b"} {
			if has, err := to.HasEvent(id); err != nil || !has {
				t.Errorf("event %s: %v, %v", id, has, err)
			}
		}
		if res := mustApply(t, to, cmd("s1", api.ExpectExists, "new")); res[0].Position != 401 {
			t.Errorf("the first append after the restore: %+v", res[0])
		}
		mustApply(t, replica, cmd("s1", api.ExpectExists, "new"))
		if hashOf(t, to) != hashOf(t, replica) {
			t.Errorf("pages of %d bytes: replicas differ", pageBytes)
		}
	}
}

// TestRestoreSurvives: a restore that is under way is still known after a crash, and goes on.
func TestRestoreSurvives(t *testing.T) {
	b := backUp(t, filled(t), "r1", 4000)
	path := filepath.Join(t.TempDir(), "state.db")
	f := openAt(t, path)
	steps := append([]*RestoreChange{{Op: RestoreBegin, Restore: "r1"}}, b.events...)
	for _, c := range steps[:4] {
		if _, err := take(t, f, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	crash(t, f)
	f = openAt(t, path)
	if res := apply(t, f, cmd("s", api.ExpectAny, "x")); !errors.Is(res[0].Err, api.ErrRestoring) {
		t.Errorf("after a crash an append is answered %+v", res[0])
	}
	for _, c := range append(append(steps, b.keys...), &b.end) {
		if _, err := take(t, f, c); err != nil {
			t.Fatal(err)
		}
	}
	mustApply(t, f, cmd("s", api.ExpectAny, "x"))
}

// filledWithAll is filled with keys of every kind.
func filledWithAll(t *testing.T) *FSM {
	f := filled(t)
	var config api.SubscriptionConfig
	if err := config.Complete(""); err != nil {
		t.Fatal(err)
	}
	raw, err := api.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Change{
		&StreamChange{Op: StreamMetadata, Stream: "s1", Expected: api.ExpectAny, Time: testTime, MaxCount: 10, Custom: []byte(`{"a":1}`)},
		&SubscriptionCreate{Name: "mail", Time: testTime, Config: raw},
		&SubscriptionProgress{Name: "mail", ID: 1, Time: testTime, Acked: []uint64{2}, Parked: []Park{{Attempt: Attempt{Position: 1, N: 3}, Reason: "why"}}},
	} {
		if _, err := take(t, f, c); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// A backup may hold stubs whose stream's state it does not: of events that were scavenged while it was made. A stub is no event, also where no stream has a state and nothing else is hidden.
func TestStubsAreHiddenWhereNoStreamHasAState(t *testing.T) {
	from := openNew(t)
	for i := range 100 {
		mustApply(t, from, cmd("s", api.ExpectAny, fmt.Sprint("e", i)))
	}
	if _, err := take(t, from, &StreamChange{Op: StreamTruncate, Stream: "s", Before: 90, Expected: api.ExpectAny, Time: testTime}); err != nil {
		t.Fatal(err)
	}
	for more := true; more; {
		did, err := from.Scavenge()
		if err != nil {
			t.Fatal(err)
		}
		more = did.More
	}
	b := backUp(t, from, "r", 1<<20)
	b.end.Keys, b.end.KeysDigest = 0, api.Digest{}
	to := openAt(t, filepath.Join(t.TempDir(), "state.db")) // Verify would say that the stubs should be events
	defer to.Close()
	for _, c := range append(append([]*RestoreChange{{Op: RestoreBegin, Restore: "r"}}, b.events...), &b.end) {
		if _, err := take(t, to, c); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, events []api.Event, err error) {
		t.Helper()
		if err != nil || len(events) != 10 || events[0].Type == "" || events[9].Type == "" {
			t.Errorf("%s: %d events, %v; want the 10 that are whole", what, len(events), err)
		}
	}
	for _, backward := range []bool{false, true} {
		stream, err := to.ReadStream("s", StreamQuery{Limit: noLimit, MaxBytes: noLimit, Backward: backward, FromEnd: backward})
		check("the stream", stream.Events, err)
		all, err := to.ReadAll(AllQuery{Limit: noLimit, MaxBytes: noLimit, Backward: backward, FromEnd: backward})
		check("the store", all.Events, err)
		found, err := to.ReadAll(AllQuery{Limit: noLimit, MaxBytes: noLimit, Backward: backward, FromEnd: backward, Query: &api.Query{Items: []api.QueryItem{{StreamPrefixes: []string{"s"}}}}})
		check("a query", found.Events, err)
	}
}

// TestRestoreScavenged: what was scavenged before a backup comes back as it is: gone, its id still known, and whole to Verify, whether it is scavenged again or not.
func TestRestoreScavenged(t *testing.T) {
	from := filled(t)
	change := func(c *StreamChange) {
		t.Helper()
		c.Time, c.Expected = testTime, api.ExpectAny
		if _, err := take(t, from, c); err != nil {
			t.Fatal(err)
		}
	}
	change(&StreamChange{Op: StreamTruncate, Stream: "s1", Before: 30})
	change(&StreamChange{Op: StreamDelete, Stream: "s2"})
	scavengeAll := func(f *FSM) (n int) {
		for {
			did, err := f.Scavenge()
			if err != nil {
				t.Fatal(err)
			}
			if n += did.Events; !did.More {
				return n
			}
		}
	}
	n := scavengeAll(from)
	if n < 50 {
		t.Fatalf("only %d events were scavenged", n)
	}
	change(&StreamChange{Op: StreamTruncate, Stream: "s3", Before: 20}) // not scavenged yet
	b := backUp(t, from, "r1", 5000)
	to := openNew(t)
	for _, c := range append(append(append([]*RestoreChange{{Op: RestoreBegin, Restore: "r1"}}, b.events...), b.keys...), &b.end) {
		if _, err := take(t, to, c); err != nil {
			t.Fatal(err)
		}
	}
	if bucketDump(t, to) != bucketDump(t, from) {
		t.Error("what was restored is not what was backed up")
	}
	for range 2 {
		if err := to.Verify(); err != nil {
			t.Error(err)
		}
		gone := Append{Time: testTime, Stream: "s1", Expected: api.ExpectAny, Events: []EventRecord{{ID: "e1", Type: "T1", Data: []byte(`{"n":1}`), JSON: true}, {ID: "e1b", Type: "B", Data: []byte{0, 1, 255}}}}
		if res := mustApply(t, to, gone); !res[0].Duplicate || res[0].Version != 1 {
			t.Errorf("a retry of what is gone: %+v", res[0])
		}
		scavengeAll(to)
	}
}

// BenchmarkRestore takes pages of 768 KiB, flushed as stores.Store does; an operation is an event.
func BenchmarkRestore(b *testing.B) {
	page := func(first, n int) []byte {
		var p api.BackupEvents
		for i := first; i < first+n; i++ {
			e := EventRecord{ID: fmt.Sprintf("m%020d", i), Type: "OrderPlaced", JSON: true, Data: []byte(fmt.Sprintf(`{"n":%d,"text":"%0200d"}`, i, i)), Tags: []string{fmt.Sprint("c:", i%1000)}}
			p.Add(&api.BackupEvent{Position: uint64(i + 1), Stream: fmt.Sprint("s-", i%1000), Version: uint64(i / 1000), Time: testTime, Body: e.encode(nil)})
		}
		return p.Encode()
	}
	f := openLazy(b, filepath.Join(b.TempDir(), "state.db"))
	defer f.Close()
	index := uint64(0)
	step := func(c *RestoreChange) {
		index++
		c.Restore = "r"
		res := f.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{ChangeBody(c)})}).(Result)
		if err := res.Append[0].Err; err != nil {
			b.Fatal(err)
		}
	}
	step(&RestoreChange{Op: RestoreBegin})
	const perPage = 3000
	for done := 0; done < b.N; done += perPage {
		b.StopTimer()
		p := page(done, perPage)
		b.StartTimer()
		step(&RestoreChange{Op: RestoreEvents, Page: p})
	}
}
