package fsm

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// Readers see whole, consistent states while entries are applied and flushed: no event is missing, none is there twice, and streams and store agree.
func TestReadersUnderAppliesAndFlushes(t *testing.T) {
	f := openLazy(t, filepath.Join(t.TempDir(), "state.db"))
	defer f.Close()
	f.bounds = bounds{mergeBase: 50, mergeRate: 2, dropBase: 2}
	const enough = 20 // reads of each reader
	stop := make(chan struct{})
	var readers sync.WaitGroup
	reads := make([]atomic.Int64, 4)
	for r := range reads {
		readers.Add(1)
		go func() { // ends when everything is applied, or with the first thing that is wrong
			defer readers.Done()
			for last := uint64(0); ; reads[r].Add(1) {
				select {
				case <-stop:
					return
				default:
				}
				after := last - min(last, 50)
				page, err := f.ReadAll(AllQuery{After: after, Limit: noLimit, MaxBytes: noLimit})
				if err != nil || page.LastPosition < last || uint64(len(page.Events)) != page.LastPosition-after || page.LastPosition != 2*page.Applied {
					t.Errorf("after %d: %d events, last %d of entry %d, %v", after, len(page.Events), page.LastPosition, page.Applied, err)
					return
				}
				last = page.LastPosition
				for i, e := range page.Events {
					if e.Position != after+1+uint64(i) {
						t.Errorf("position %d, want %d", e.Position, after+1+uint64(i))
						return
					}
				}
				stream, err := f.ReadStream("all", StreamQuery{FromEnd: true, Backward: r%2 == 0, From: last / 2, Limit: 60, MaxBytes: noLimit})
				if last > 0 && (err != nil || uint64(stream.LastVersion)+1 != stream.Applied || r%2 == 0 && len(stream.Events) < int(min(60, stream.Applied))) {
					t.Errorf("stream at version %d of entry %d, %d events, %v", stream.LastVersion, stream.Applied, len(stream.Events), err)
					return
				}
				chosen, err := f.ReadAll(AllQuery{After: after, Limit: 40, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{{Types: []string{"t"}}}}})
				if err != nil || len(chosen.Events) < int(min(40, last-after)) {
					t.Errorf("query after %d: %d events, %v", after, len(chosen.Events), err)
					return
				}
				for i, e := range chosen.Events {
					if e.Position != after+1+uint64(i) {
						t.Errorf("query: position %d, want %d", e.Position, after+1+uint64(i))
						return
					}
				}
				newest, err := f.ReadAll(AllQuery{FromEnd: true, Backward: true, Limit: 5, MaxBytes: noLimit, Query: &api.Query{Items: []api.QueryItem{{TypePrefixes: []string{"t"}}}}})
				for i, e := range newest.Events {
					if e.Position != newest.LastPosition-uint64(i) {
						t.Errorf("query backward: position %d, the last one is %d", e.Position, newest.LastPosition)
						return
					}
				}
				if err != nil || last > 0 && len(newest.Events) < 2 {
					t.Errorf("query backward: %d events, %v", len(newest.Events), err)
					return
				}
				if names, _, _, err := f.Streams("s", "", 1000); err != nil || last > 0 && len(names) == 0 {
					t.Errorf("%d streams, %v", len(names), err)
					return
				}
			}
		}()
	}
	flushed := make(chan error, 1)
	go func() { // ends when everything is applied
		for {
			select {
			case <-stop:
				flushed <- nil
				return
			default:
				if err := f.Flush(); err != nil {
					flushed <- err
					return
				}
			}
		}
	}()
	slow := func() bool {
		return slices.ContainsFunc([]int{0, 1, 2, 3}, func(r int) bool { return reads[r].Load() < enough })
	}
	for i := uint64(1); i <= 1500 || slow() && i < 30_000 && !t.Failed(); i++ {
		r := f.Apply(entry(i, cmd("all", int64(i)-2, fmt.Sprint("a", i)), cmd(fmt.Sprint("s", i%200), -2, fmt.Sprint("b", i)))).(Result)
		if r.Append[0].Err != nil || r.Append[1].Err != nil {
			t.Fatalf("entry %d: %+v", i, r)
		}
		if i > 300 && i%100 == 0 {
			if r := f.Apply(&raft.Log{Index: i, Term: 1, Type: raft.LogCommand}); r != nil {
				t.Fatal("applied twice")
			}
		}
	}
	close(stop)
	readers.Wait()
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	if slow() {
		t.Error("the readers hardly read; that shows little")
	}
	if err := f.Verify(); err != nil {
		t.Error(err)
	}
}

// Applying and reading do not wait for a flush; only full overlays make applying wait, and then it goes on when the flush is done.
func TestFullOverlays(t *testing.T) {
	f := openLazy(t, filepath.Join(t.TempDir(), "state.db"))
	defer f.Close()
	begun, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.hookStep = func(step string) error {
		if step == "frozen" {
			once.Do(func() { close(begun); <-release })
		}
		return nil
	}
	index := uint64(0)
	big := func() {
		index++
		c := cmd("s", api.ExpectAny, fmt.Sprint(index))
		c.Events[0].JSON, c.Events[0].Data = false, make([]byte, 1<<20)
		f.Apply(entry(index, c))
	}
	for f.Pressure() < 0.95 { // the flush that this starts stands still
		big()
	}
	<-begun
	if page, err := f.ReadAll(AllQuery{Limit: 1, MaxBytes: 1}); err != nil || page.LastPosition != index {
		t.Fatalf("reading during a flush: at %d of %d, %v", page.LastPosition, index, err)
	}
	done := make(chan struct{})
	go func() { // ends when the flush went on
		defer close(done)
		for range 8 {
			big()
		}
	}()
	select {
	case <-done:
		t.Error("the overlays grow without end")
	case <-time.After(100 * time.Millisecond):
	}
	if p := f.Pressure(); p > 1.1 {
		t.Errorf("pressure %v", p)
	}
	close(release)
	<-done
	if err := f.Flush(); err != nil || f.Pressure() != 0 {
		t.Errorf("%v, pressure %v", err, f.Pressure())
	}
}

// A flush that fails while applying waits for room lets it go, with no result.
func TestFailedFlushEndsTheWait(t *testing.T) {
	fatal := make(chan error, 1)
	f, err := Open(Config{Path: filepath.Join(t.TempDir(), "state.db"), OnDirty: func() {}, OnFatal: func(err error) { fatal <- err }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	broken := errors.New("disk broke")
	waits := make(chan struct{})
	f.hookFull = sync.OnceFunc(func() { close(waits) })
	f.hookStep = func(string) error { // a flush breaks once an apply waits for it
		<-waits
		return broken
	}
	for i := uint64(1); ; i++ {
		c := cmd("s", api.ExpectAny, fmt.Sprint(i))
		c.Events[0].JSON, c.Events[0].Data = false, make([]byte, 1<<20)
		if f.Apply(entry(i, c)) == nil {
			break
		}
	}
	if err := <-fatal; !errors.Is(err, broken) {
		t.Errorf("OnFatal got %v", err)
	}
	if _, err := f.Snapshot(); !errors.Is(err, broken) {
		t.Errorf("a failed replica takes a snapshot: %v", err)
	}
}

// When the map nears its end the file is opened anew with more: streams under way are aborted, everything else goes on.
func TestGrow(t *testing.T) {
	f := openNew(t)
	fill(t, f, 0, 20)
	before := hashOf(t, f)
	_, _, _, rc, err := f.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, rc, 5000); err != nil {
		t.Fatal(err)
	}
	f.reserved = 0
	fill(t, f, 20, 21)
	if f.reserved < minReserve {
		t.Errorf("%d bytes are reserved", f.reserved)
	}
	if _, err := io.Copy(io.Discard, rc); !errors.Is(err, ErrSnapshotAborted) {
		t.Errorf("the stream under way ended with %v, want %v", err, ErrSnapshotAborted)
	}
	if err := rc.Close(); err != nil {
		t.Fatal(err)
	}
	if hashOf(t, f) == before || len(readAll(t, f)) != 42 {
		t.Error("what was applied is not there")
	}
	g := openNew(t)
	if err := restore(g, snapshotOf(t, f)); err != nil || hashOf(t, g) != hashOf(t, f) {
		t.Errorf("restored from a snapshot afterwards: %v", err)
	}
}

// We may die before and after the file is replaced: what is opened then is the old state or the new one.
func TestCrashInRestore(t *testing.T) {
	source := openNew(t)
	fill(t, source, 0, 20)
	b := snapshotOf(t, source)
	for step, want := range map[string]uint64{"received": 5, "restored": 20} {
		path := filepath.Join(t.TempDir(), "state.db")
		f := openAt(t, path)
		fill(t, f, 0, 5)
		f.hookStep = func(at string) error {
			if at == step {
				return errCrash
			}
			return nil
		}
		if err := restore(f, b); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		crash(t, f)
		f = openAt(t, path)
		if applied, _ := f.Applied(); applied != want {
			t.Errorf("died when %s: at entry %d, want %d", step, applied, want)
		}
		if err := f.Verify(); err != nil {
			t.Error(err)
		}
		f.Close()
	}
}
