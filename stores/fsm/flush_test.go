package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

var errCrash = errors.New("crash")

// tight makes merges of a few entries take many flushes.
var tight = bounds{mergeBase: 2, mergeRate: 1, dropBase: 1}

// TestFlushAndCrash: whenever the state is synced, and whenever the power is cut, the machine together with its log is the one that syncs every
// batch; what was not synced yet is read as if it were; and a snapshot never lets the log forget what the file does not have.
func TestFlushAndCrash(t *testing.T) {
	tb := t
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "lazy.db")
		dirty := 0
		open := func() *FSM {
			f, err := Open(Config{Path: path, Store: 1, Incarnation: 1, OnDirty: func() { dirty++ }, OnFatal: func(err error) {
				if !errors.Is(err, errCrash) {
					rt.Errorf("OnFatal: %v", err)
				}
			}})
			if err != nil {
				rt.Fatal(err)
			}
			f.bounds, f.sweep.limit, f.sweep.least = tight, 3, 0
			return f
		}
		lazy := open()
		eager, err := Open(Config{Path: filepath.Join(t.TempDir(), "eager.db"), Store: 1, Incarnation: 1})
		if err != nil {
			rt.Fatal(err)
		}
		defer eager.Close()
		var log []*raft.Log
		cut := uint64(0) // entries up to here may have been cut off the log
		replay := func() {
			applied, _ := lazy.Applied()
			if applied < cut {
				rt.Fatalf("the state is at entry %d, and the log was cut up to %d", applied, cut)
			}
			lazy.ApplyBatch(log[cut:])
		}
		append1 := func(t *rapid.T) {

			var batch []*raft.Log
			for range rapid.IntRange(1, 3).Draw(t, "entries") {
				stream := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "stream")
				data := Encode(Append{
					Stream: stream, Expected: rapid.SampledFrom([]int64{-2, -1, 0, 3}).Draw(t, "expected"),
					Events: []EventRecord{{ID: fmt.Sprint(rapid.IntRange(0, 400).Draw(t, "id")), Type: "T"}},
				})
				if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
					data = EncodeBodies([]Body{ChangeBody(&StreamChange{
						Op:     rapid.SampledFrom([]byte{StreamDelete, StreamTruncate, StreamMetadata}).Draw(t, "op"),
						Stream: stream, Expected: -2, Before: rapid.Uint64Range(0, 9).Draw(t, "before"), MaxCount: rapid.SampledFrom([]uint64{0, 2}).Draw(t, "count"),
					})})
				}
				l := &raft.Log{Index: uint64(len(log) + 1), Term: 1, Type: raft.LogCommand, Data: data}
				log, batch = append(log, l), append(batch, l)
			}
			got, want := lazy.ApplyBatch(batch), eager.ApplyBatch(batch)
			if a, b := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); a != b {
				t.Fatalf("got %s, want %s", a, b)
			}
		}
		same := func(t *rapid.T) {
			a, err := lazy.Hash()
			if err != nil {
				t.Fatal(err)
			}
			b, err := eager.Hash()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Fatal("the states differ")
			}
			for _, stream := range []string{"a", "b", "c", "none"} {
				q := StreamQuery{From: uint64(rapid.IntRange(0, 20).Draw(t, "from")), Limit: 30, MaxBytes: 1 << 20, Backward: rapid.Bool().Draw(t, "backward")}
				got, gerr := lazy.ReadStream(stream, q)
				want, werr := eager.ReadStream(stream, q)
				if !reflect.DeepEqual(got, want) || fmt.Sprint(gerr) != fmt.Sprint(werr) {
					t.Fatalf("%s %+v: got %+v %v, want %+v %v", stream, q, got, gerr, want, werr)
				}
			}
			got, _, gend, gerr := lazy.Streams("", "", 2)
			want, _, wend, werr := eager.Streams("", "", 2)
			if !reflect.DeepEqual(got, want) || gend != wend || gerr != nil || werr != nil {
				t.Fatalf("streams: got %+v %v %v, want %+v %v %v", got, gend, gerr, want, wend, werr)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": append1, "append ": append1,
			// Only one of the two scavenges.
			"scavenge": func(t *rapid.T) {
				at := rapid.SampledFrom([]string{"", "swept", "swept and committed", "punch", "punched"}).Draw(t, "crash at")
				lazy.hookStep = func(step string) error {
					if step == at {
						return errCrash
					}
					return nil
				}
				more := true
				var err error
				for more && err == nil {
					var did Scavenged
					did, err = lazy.Scavenge()
					more = did.More
				}
				for more = true; more && err == nil; {
					_, more, err = lazy.GiveBack()
				}
				if err != nil {
					if !errors.Is(err, errCrash) {
						t.Fatal(err)
					}
					crash(tb, lazy)
					lazy = open()
					replay()
				}
				lazy.hookStep = nil
				same(t)
			},
			// In the middle of a flush everything is read as before it and after it, and entries are applied.
			"act in flush": func(t *rapid.T) {
				at := rapid.SampledFrom([]string{"frozen", "merge", "written", "committed", "dropped"}).Draw(t, "step")
				lazy.hookStep = func(step string) error {
					if step == at {
						same(t)
						append1(t)
						same(t)
					}
					return nil
				}
				if err := lazy.Flush(); err != nil {
					t.Fatal(err)
				}
				lazy.hookStep = nil
			},
			"crash in flush": func(t *rapid.T) {
				at := rapid.SampledFrom([]string{"frozen", "merge", "written", "committed", "dropped"}).Draw(t, "step")
				after := rapid.IntRange(0, 2).Draw(t, "after")
				lazy.hookStep = func(step string) error {
					if step == at {
						if after--; after < 0 {
							return errCrash
						}
					}
					return nil
				}
				if err := lazy.Flush(); err != nil {
					same(t) // a replica that cannot flush still reads
					if results := lazy.ApplyBatch(log[len(log)-1:]); results[0] != nil || lazy.failed == nil {
						t.Fatal("a failed replica applies")
					}
				}
				crash(tb, lazy)
				lazy = open()
				replay()
			},
			"flush": func(t *rapid.T) {
				if err := lazy.Flush(); err != nil {
					t.Fatal(err)
				}
			},
			"snapshot": func(t *rapid.T) {
				snapshot, err := lazy.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				if err := snapshot.Persist(discarded{}); err != nil {
					t.Fatal(err)
				}
				cut = uint64(len(log))
			},
			"crash": func(t *rapid.T) {
				crash(tb, lazy)
				lazy = open()
				replay()
			},
			"restart": func(t *rapid.T) {
				if err := lazy.Close(); err != nil {
					t.Fatal(err)
				}
				lazy = open()
				if applied, _ := lazy.Applied(); applied != uint64(len(log)) {
					t.Fatalf("after a clean stop the state is at entry %d of %d", applied, len(log))
				}
			},
			"": func(t *rapid.T) {
				same(t)
				page, err := lazy.ReadAll(AllQuery{Limit: 1000, MaxBytes: 1 << 20})
				want, werr := eager.ReadAll(AllQuery{Limit: 1000, MaxBytes: 1 << 20})
				if err != nil || werr != nil || !reflect.DeepEqual(page, want) || !page.End {
					t.Fatalf("%v %v: %d events are read, want %d", err, werr, len(page.Events), len(want.Events))
				}
			},
		})
		if err := lazy.Verify(); err != nil {
			rt.Fatal(err)
		}
		lazy.Close()
		if len(log) > 0 && dirty == 0 {
			rt.Fatal("nobody was told that there is something to sync")
		}
	})
}

// TestFlushIsDue: OnDirty is told once for each time there is something new to sync, and much of it is synced without being asked.
func TestFlushIsDue(t *testing.T) {
	told := 0
	f, err := Open(Config{Path: filepath.Join(t.TempDir(), "state.db"), Store: 1, Incarnation: 1, OnDirty: func() { told++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	index := uint64(0)
	appendBytes := func(n int) {
		index++
		f.Apply(&raft.Log{Index: index, Type: raft.LogCommand, Data: Encode(Append{Stream: "s", Expected: api.ExpectAny, Events: []EventRecord{{ID: fmt.Sprint(index), Type: "T", Data: make([]byte, n)}}})})
	}
	appendBytes(10)
	appendBytes(10)
	if told != 1 || f.Pressure() == 0 {
		t.Errorf("told %d times, want once", told)
	}
	if err := f.Flush(); err != nil || f.Pressure() != 0 {
		t.Errorf("after a flush: %v, pressure %v", err, f.Pressure())
	}
	appendBytes(10)
	if told != 2 {
		t.Errorf("told %d times, want twice", told)
	}
	for range maxPending/api.MaxEventData + 1 {
		appendBytes(api.MaxEventData)
	}
	f.background.Wait()
	if n := f.unsynced(); n > maxPending {
		t.Errorf("%d bytes are kept back, at most %d may be", n, maxPending)
	}
}

// discarded is a snapshot's marker that nobody keeps.
type discarded struct{ io.Writer }

func (discarded) ID() string    { return "discarded" }
func (discarded) Cancel() error { return nil }
func (discarded) Close() error  { return nil }
