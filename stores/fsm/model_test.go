package fsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

// model is what the FSM is meant to be: a list of events, and the last entry.
type model struct {
	events        []api.Event
	streams       map[string]modelStream
	applied, term uint64
}

func (m *model) stream(name string) []api.Event {
	var out []api.Event
	for _, e := range m.events {
		if e.Stream == name {
			out = append(out, e)
		}
	}
	return out
}

func (m *model) byID(id string) *api.Event {
	for i := range m.events {
		if m.events[i].ID == id {
			return &m.events[i]
		}
	}
	return nil
}

// append returns what the FSM must answer. loose: a duplicate made of several appends, of which only that it writes nothing is certain.
func (m *model) append(c Append) (want AppendResult, refused *api.Error, loose bool) {
	ids := make(map[string]bool)
	var known []*api.Event
	for _, e := range c.Events {
		if ids[e.ID] {
			return want, api.ErrEventIDConflict, false
		}
		ids[e.ID] = true
		if old := m.byID(e.ID); old != nil {
			known = append(known, old)
		}
	}
	if len(c.Others) > 0 {
		return m.appendSeveral(c, known)
	}
	if len(known) > 0 {
		if len(known) < len(c.Events) {
			return want, api.ErrEventIDConflict, false
		}
		for i, old := range known {
			e := c.Events[i]
			if old.Stream != c.Stream || old.Type != e.Type || string(old.Body()) != string(e.Data) || e.JSON != (old.Data != nil) {
				return want, api.ErrEventIDConflict, false
			}
			if old.Version != known[0].Version+uint64(i) {
				return want, api.ErrEventIDConflict, false
			}
			loose = loose || old.Position != known[0].Position+uint64(i)
		}
		first, last := known[0], known[len(known)-1]
		return AppendResult{FirstVersion: first.Version, Version: last.Version, FirstPosition: first.Position, Position: last.Position, Duplicate: true}, nil, loose
	}
	if m.streams[c.Stream].tombstoned {
		return want, api.ErrStreamDeleted, false
	}
	there, ok := len(m.stream(c.Stream)), m.meets(c.Stream, c.Expected)
	if failed := m.failed(c.Conditions, c.Time); len(failed) > 0 {
		if !ok {
			last := m.last(c.Stream)
			failed = append([]api.FailedCondition{{Index: -1, Stream: c.Stream, ExpectedVersion: &c.Expected, ActualVersion: &last}}, failed...)
		}
		e := *api.ErrCondition
		e.Failed = failed
		return want, &e, false
	}
	if !ok {
		return want, api.ErrWrongVersion, false
	}
	want = AppendResult{FirstVersion: uint64(there), FirstPosition: uint64(len(m.events)) + 1}
	for i := range c.Events {
		m.store(c, i)
		there++
	}
	want.Version, want.Position = uint64(there)-1, uint64(len(m.events))
	m.wrote(c.Stream)
	return want, nil, false
}

// machine drives an FSM and its model.
type machine struct {
	dir   string
	files int
	f     *FSM
	model model
	log   []*raft.Log // everything that was applied
	swept int         // records replaced by scavenging
	holes int64       // bytes given back
	told  uint64      // the last position OnAppend told of
}

func (m *machine) path() string { return filepath.Join(m.dir, fmt.Sprint("state", m.files, ".db")) }

func (m *machine) open(t *rapid.T) {
	m.watch(t, m.openFSM(t))
}

// openFSM opens a machine that is flushed at random, with merges that take many flushes.
func (m *machine) openFSM(t *rapid.T) *FSM {
	cfg := testConfig(m.path())
	cfg.OnFatal = func(err error) { t.Fatalf("OnFatal: %v", err) }
	cfg.OnDirty = func() {}
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.bounds, f.sweep.limit, f.sweep.least = tight, 3, 0
	return f
}

// Flush writes what is applied; what the step finds in the middle of it is what it finds before and after.
func (m *machine) Flush(t *rapid.T) {
	at := rapid.SampledFrom([]string{"", "frozen", "merge", "written", "committed", "dropped"}).Draw(t, "read at")
	m.f.hookStep = func(step string) error {
		if step == at {
			m.ReadStream(t)
			m.ReadAll(t)
			m.Query(t)
			m.Streams(t)
		}
		return nil
	}
	if err := m.f.Flush(); err != nil {
		t.Fatal(err)
	}
	m.f.hookStep = nil
}

func (m *machine) watch(t *rapid.T, f *FSM) {
	m.f, m.told = f, uint64(len(m.model.events))
	f.OnAppend(func(_ uint64, _ string, first, last uint64) {
		if first != m.told+1 || last < first {
			t.Fatalf("OnAppend told of %d to %d after %d", first, last, m.told)
		}
		m.told = last
	})
}

var modelStreams = []string{"a", "a.b", "b", "ü"}

func drawAppend(t *rapid.T) Append {
	c := Append{
		Time:     testTime + rapid.Int64Range(0, 3).Draw(t, "time")*1_000_000,
		Stream:   rapid.SampledFrom(modelStreams).Draw(t, "stream"),
		Expected: rapid.SampledFrom([]int64{-2, -2, -2, -2, -1, -4, 0, 1, 2, 3, 5, 8}).Draw(t, "expected"),
	}
	// Mostly ids that are new; some from a small set, so that they meet again.
	first, pool := rapid.IntRange(0, 60).Draw(t, "first id"), 60
	if rapid.IntRange(0, 3).Draw(t, "any id") > 0 {
		pool = 1 << 20
		first = rapid.IntRange(100, pool).Draw(t, "new id")
	}
	for i := range rapid.IntRange(1, 5).Draw(t, "events") {
		id := first + i
		if rapid.IntRange(0, 19).Draw(t, "jump") == 0 {
			id = rapid.IntRange(0, 60).Draw(t, "other id")
		}
		e := ev(fmt.Sprint("id", id))
		switch id % 4 { // what an id stands for is mostly fixed, so that retries are retries
		case 0:
			e.JSON, e.Data = false, []byte{0, byte(id)}
		case 1:
			e.JSON, e.Data = false, nil
		case 2:
			e.Metadata, e.Tags = []byte(`{"m":1}`), []string{"x", "y"}
		}
		e.Type = modelTypes[id%7%len(modelTypes)]
		if id%3 == 0 {
			e.Tags = append(e.Tags, fmt.Sprint("n:", id%5), "x")
		}
		if rapid.IntRange(0, 19).Draw(t, "alter") == 0 {
			e.Type = "altered"
		}
		c.Events = append(c.Events, e)
	}
	return c
}

// Append applies a batch of entries of several commands each.
func (m *machine) Append(t *rapid.T) {
	var batch []*raft.Log
	var cmds [][]any
	index, term := m.model.applied, max(m.model.term, 1)
	for range rapid.IntRange(1, 3).Draw(t, "entries") {
		index += uint64(rapid.SampledFrom([]int{1, 1, 1, 4}).Draw(t, "step")) // raft keeps no-ops to itself
		term += uint64(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "new term"))
		l := &raft.Log{Index: index, Term: term, Type: raft.LogCommand}
		var of []any
		switch rapid.IntRange(0, 19).Draw(t, "kind") {
		case 0:
			l.Type = raft.LogConfiguration
		case 1:
			l.Data = []byte{200}
		default:
			for range rapid.IntRange(1, 4).Draw(t, "commands") {
				if rapid.IntRange(0, 5).Draw(t, "change") == 0 {
					of = append(of, m.drawChange(t))
				} else {
					of = append(of, m.drawConditions(t, drawAppend(t)))
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "retry") == 0 && len(m.log) > 0 {
				for _, c := range m.earlier(t) {
					of = append(of, c)
				}
			}
			l.Data = encodeAll(of)
		}
		batch, cmds = append(batch, l), append(cmds, of)
	}
	results := m.f.ApplyBatch(batch)
	for i, l := range batch {
		m.model.applied, m.model.term = l.Index, l.Term
		if l.Type != raft.LogCommand {
			if results[i] != nil {
				t.Fatalf("a configuration entry has the result %v", results[i])
			}
			continue
		}
		got := results[i].(Result).Append
		if cmds[i] == nil {
			if len(got) != 1 || !refusedAs(got[0].Err, api.ErrUnknownFormat) {
				t.Fatalf("an entry of unknown format got %+v", got)
			}
			continue
		}
		if len(got) != len(cmds[i]) {
			t.Fatalf("%d results of %d commands", len(got), len(cmds[i]))
		}
		for j, c := range cmds[i] {
			if c, ok := c.(*StreamChange); ok {
				m.compareChange(t, c, got[j])
				continue
			}
			c := c.(Append)
			last := m.model.last(c.Stream)
			want, refused, loose := m.model.append(c)
			switch {
			case loose:
				if !got[j].Duplicate && !refusedAs(got[j].Err, api.ErrEventIDConflict) {
					t.Fatalf("%+v got %+v, want a duplicate or a conflict", c, got[j])
				}
			case refused != nil:
				if !refusedAs(got[j].Err, refused) || !reflect.DeepEqual(got[j].Err.Failed, refused.Failed) {
					t.Fatalf("%+v got %+v, want %v", c, got[j], refused)
				}
				if refused == api.ErrWrongVersion && actual(got[j].Err) != last {
					t.Fatalf("%+v: actual version %d, want %d", c, actual(got[j].Err), last)
				}
			case !reflect.DeepEqual(got[j], want):
				t.Fatalf("%+v got %+v, want %+v", c, got[j], want)
			}
		}
	}
	m.log = append(m.log, batch...)
	if m.told != uint64(len(m.model.events)) {
		t.Fatalf("OnAppend told up to %d of %d events", m.told, len(m.model.events))
	}
}

func (m *machine) earlier(t *rapid.T) []Append {
	cmds, err := Decode(rapid.SampledFrom(m.log).Draw(t, "earlier").Data)
	if err != nil {
		return nil
	}
	return cmds
}

// Replay applies again what was applied.
func (m *machine) Replay(t *rapid.T) {
	if len(m.log) == 0 {
		t.Skip("nothing applied")
	}
	from := rapid.IntRange(0, len(m.log)-1).Draw(t, "from")
	before := m.hash(t)
	for _, r := range m.f.ApplyBatch(m.log[from:]) {
		if r != nil {
			t.Fatalf("an applied entry has the result %v", r)
		}
	}
	if m.hash(t) != before {
		t.Fatal("replay changed the state")
	}
}

// Rebuild applies the whole log to an empty FSM, in other batches.
func (m *machine) Rebuild(t *rapid.T) {
	before := m.hash(t)
	old := m.f
	m.files++
	f := m.openFSM(t)
	for rest := m.log; len(rest) > 0; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
		f.ApplyBatch(rest[:n])
		rest = rest[n:]
	}
	m.close(t, old)
	m.watch(t, f)
	if m.hash(t) != before {
		t.Fatal("the log rebuilt another state")
	}
}

// Reopen closes and opens the file.
func (m *machine) Reopen(t *rapid.T) {
	before := m.hash(t)
	m.close(t, m.f)
	m.open(t)
	if m.hash(t) != before {
		t.Fatal("reopening changed the state")
	}
}

// Move sends a snapshot to another FSM, empty or behind, and goes on with that.
func (m *machine) Move(t *rapid.T) {
	before := m.hash(t)
	index, term, size, rc, err := m.f.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if index != m.model.applied || term != m.model.term {
		t.Fatalf("snapshot at %d of term %d, want %d of %d", index, term, m.model.applied, m.model.term)
	}
	old := m.f
	m.files++
	f := m.openFSM(t)
	if n := rapid.IntRange(0, len(m.log)).Draw(t, "applied at the target"); n > 0 {
		f.ApplyBatch(m.log[:n])
	}
	count := &countingReader{rc: rc}
	if err := f.Restore(count); err != nil {
		t.Fatal(err)
	}
	if err := rc.Close(); err != nil {
		t.Fatal(err)
	}
	if count.n != size {
		t.Fatalf("the snapshot has %d bytes, said %d", count.n, size)
	}
	m.close(t, old)
	m.watch(t, f)
	if m.hash(t) != before {
		t.Fatal("the restored state differs")
	}
}

// check runs after every action.
func (m *machine) check(t *rapid.T) {
	if index, term := m.f.Applied(); index != m.model.applied || term != m.model.term {
		t.Fatalf("applied %d of term %d, want %d of %d", index, term, m.model.applied, m.model.term)
	}
	info, err := m.f.Info()
	streams := make(map[string]bool)
	for _, e := range m.model.events {
		streams[e.Stream] = true
	}
	n := uint64(len(m.model.events))
	if err != nil || info.Events != n || info.LastPosition != n || info.Streams != uint64(len(streams)) || info.Applied != m.model.applied {
		t.Fatalf("info %+v, %v; want %d events in %d streams", info, err, n, len(streams))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.f.WaitApplied(ctx, m.model.applied); err != nil {
		t.Fatalf("waiting for entry %d, which is applied: %v", m.model.applied, err)
	}
	if err := m.f.WaitPosition(ctx, n+1); !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting for position %d of %d: %v", n+1, n, err)
	}
	if rapid.IntRange(0, 4).Draw(t, "verify") > 0 {
		return // it flushes
	}
	if err := m.f.Verify(); err != nil {
		t.Fatalf("Verify: %v", err)
	}
}

func (m *machine) hash(t *rapid.T) string {
	h, err := m.f.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func (m *machine) close(t *rapid.T, f *FSM) {
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f.cfg.Path != m.path() {
		os.Remove(f.cfg.Path)
	}
}

func compareEvents(t *rapid.T, got, want []api.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("event %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

// newMachine opens a machine in a folder of its own, and an empty model of it.
func newMachine(t *rapid.T, dir string) *machine {
	sub, err := os.MkdirTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{dir: sub, model: model{streams: make(map[string]modelStream)}}
	m.open(t)
	return m
}

// TestModel does random things to an FSM and to a model of it, and holds the two together.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	swept, holes := 0, int64(0)
	defer func() {
		t.Logf("%d records scavenged, %d bytes given back", swept, holes)
		if !t.Failed() && (swept < 50 || holes == 0) {
			t.Error("too little was scavenged for the test to mean much")
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, dir)
		defer os.RemoveAll(m.dir)
		defer func() {
			m.f.Close()
			swept, holes = swept+m.swept, holes+m.holes
		}()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.Append, "append ": m.Append, "append  ": m.Append, "query": m.Query, "query ": m.Query,
			"flush": m.Flush, "sweep": m.Sweep, "expire": m.Expire, "replay": m.Replay, "rebuild": m.Rebuild, "reopen": m.Reopen, "move": m.Move,
			"read stream": m.ReadStream, "read all": m.ReadAll, "streams": m.Streams,
			"": m.check,
		})
	})
}
