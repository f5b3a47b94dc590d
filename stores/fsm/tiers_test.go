package fsm

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/api"
)

// TestRetriesInEveryTier: whatever merges are done, half done or waiting, an id is recognised and a stream is found.
func TestRetriesInEveryTier(t *testing.T) {
	for name, b := range map[string]bounds{"usual": usualBounds, "tight": {mergeBase: 100, mergeRate: 2, dropBase: 2}} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(5, 5))
			path := filepath.Join(t.TempDir(), "state.db")
			f := openLazy(t, path)
			defer func() { f.Close() }()
			f.bounds = b
			index := uint64(0)
			one := func(c Append) AppendResult {
				index++
				return f.Apply(entry(index, c)).(Result).Append[0]
			}
			var made []Append
			var answers []AppendResult
			tiers, partial, blocks := map[uint8]bool{}, 0, uint64(0)
			for flush := range 90 {
				for range 1 + rnd.IntN(300) {
					ids := make([]string, 1+rnd.IntN(3)/2)
					for i := range ids {
						ids[i] = fmt.Sprint("e", len(made), ".", i)
					}
					c := cmd(fmt.Sprint("s", rnd.IntN(3000)), api.ExpectAny, ids...)
					r := one(c)
					if r.Err != nil || r.Duplicate {
						t.Fatalf("%+v got %+v", c, r)
					}
					made, answers = append(made, c), append(answers, r)
				}
				if err := f.Flush(); err != nil {
					t.Fatal(err)
				}
				for range 40 {
					i := rnd.IntN(len(made))
					want := answers[i]
					want.Duplicate = true
					if got := one(made[i]); !reflect.DeepEqual(got, want) {
						t.Fatalf("flush %d: a retry of append %d got %+v, want %+v", flush, i, got, want)
					}
				}
				if err := f.view(func(v *view) error {
					for _, r := range v.disk.cat.runs {
						tiers[r.tier], blocks = true, max(blocks, r.blocks)
					}
					for _, j := range v.disk.cat.jobs {
						if len(j.cursor) > 0 {
							partial++
						}
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if flush%30 == 29 {
					if err := f.Verify(); err != nil {
						t.Fatal(err)
					}
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
					f = openLazy(t, path)
					f.bounds = b
				}
			}
			if len(tiers) < 3 || blocks < 10 || name == "tight" && partial < 20 {
				t.Errorf("tiers %v, %d blocks in the largest run, %d merges seen half done; that shows little", tiers, blocks, partial)
			}
			seen := 0
			for after, end := "", false; !end; {
				var page []api.StreamInfo
				var err error
				if page, _, end, err = f.Streams("", after, 100); err != nil {
					t.Fatal(err)
				}
				for _, s := range page {
					if s.Name <= after {
						t.Fatalf("stream %s comes after %s", s.Name, after)
					}
					after = s.Name
					seen += int(s.Events)
				}
			}
			if info, err := f.Info(); err != nil || seen != int(info.Events) {
				t.Errorf("the streams have %d events, the store %d, %v", seen, info.Events, err)
			}
		})
	}
}

// TestLongStream reads every version of a stream in both directions, over several levels of pointers.
func TestLongStream(t *testing.T) {
	f := openLazy(t, filepath.Join(t.TempDir(), "state.db"))
	defer f.Close()
	const n = 5000
	for i := range uint64(n) {
		f.Apply(entry(i+1, cmd("long", int64(i)-1, fmt.Sprint("l", i)), cmd("other", -2, fmt.Sprint("o", i))))
		if i%997 == 0 {
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for from := uint64(0); from < n; from += 37 {
		for _, backward := range []bool{false, true} {
			page, err := f.ReadStream("long", StreamQuery{From: from, Limit: 21, MaxBytes: noLimit, Backward: backward})
			want := min(21, n-from)
			if backward {
				want = min(21, from+1)
			}
			if err != nil || uint64(len(page.Events)) != want {
				t.Fatalf("from %d, backward %v: %d events, %v; want %d", from, backward, len(page.Events), err, want)
			}
			for i, e := range page.Events {
				version := from + uint64(i)
				if backward {
					version = from - uint64(i)
				}
				if e.Version != version || e.ID != fmt.Sprint("l", version) {
					t.Fatalf("from %d, backward %v: event %d is %+v", from, backward, i, e)
				}
			}
		}
	}
	if err := f.Verify(); err != nil {
		t.Fatal(err)
	}
}

// TestFlushingDoesNotMatter: a replica that flushes after every entry and one that never does give the same answers and have the same hash.
func TestFlushingDoesNotMatter(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	eager, lazy := openLazy(t, filepath.Join(t.TempDir(), "eager.db")), openLazy(t, filepath.Join(t.TempDir(), "lazy.db"))
	defer eager.Close()
	defer lazy.Close()
	for index := uint64(1); index <= 700; index++ {
		var cmds []Append
		for range 1 + rnd.IntN(3) {
			cmds = append(cmds, cmd(fmt.Sprint("s", rnd.IntN(40)), []int64{-2, -2, -2, -1, 3}[rnd.IntN(5)], fmt.Sprint("e", rnd.IntN(900)), fmt.Sprint("f", rnd.IntN(900))))
		}
		l := entry(index, cmds...)
		a, b := eager.Apply(l), lazy.Apply(l)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("entry %d: %+v and %+v", index, a, b)
		}
		if err := eager.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := lazy.Info(); err != nil || lazy.Pressure() == 0 || info.Events < 200 {
		t.Errorf("%v, pressure %v, %+v: nothing was held back", err, lazy.Pressure(), info)
	}
	if hashOf(t, eager) != hashOf(t, lazy) {
		t.Error("the hashes differ")
	}
	for _, f := range []*FSM{eager, lazy} {
		if err := f.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// Two ids with one hash cannot be had; entries of the same hash can.
func TestHashesThatMeet(t *testing.T) {
	f := damaged(t, func(tx *bolt.Tx) error {
		return putRun(treeIDs, append([][2][]byte{{idEntry{0, 1}.key(), nil}, {idEntry{0, 2}.key(), nil}, {idEntry{0, 300}.key(), nil}}, idsOf(map[string]uint64{"a1": 1})...)...)(tx)
	})
	var got []uint64
	err := f.view(func(v *view) error {
		return v.disk.candidates(0, func(p uint64) (bool, error) {
			got = append(got, p)
			return true, nil
		})
	})
	if err != nil || !reflect.DeepEqual(got, []uint64{1, 2, 300}) {
		t.Errorf("candidates %v, %v", got, err)
	}
	o := newOverlay(state{})
	for p := uint64(1); p <= 3; p++ {
		o.addEvent(o.room(1), 7, p)
	}
	o.shown = layer{events: o.events[:1]}
	o.undo()
	o.addEvent(o.room(1), 7, 2)
	got = nil
	if _, err := o.candidates(7, func(p uint64) (bool, error) { got = append(got, p); return true, nil }); err != nil || !reflect.DeepEqual(got, []uint64{1, 2}) {
		t.Errorf("overlay: candidates %v, %v", got, err)
	}
}
