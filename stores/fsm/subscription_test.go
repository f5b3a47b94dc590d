package fsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

func drawPositions(t *rapid.T, name string) []uint64 {
	p := rapid.SliceOfN(rapid.Uint64Range(1, 12), 0, 5).Draw(t, name)
	slices.Sort(p)
	return slices.Compact(p)
}

func drawSubscriptionChange(t *rapid.T) Change {
	name := rapid.SampledFrom([]string{"a", "b", "ab"}).Draw(t, "name")
	switch rapid.SampledFrom([]string{"create", "delete", "progress", "progress", "progress", "progress", "replay"}).Draw(t, "change") {
	case "create":
		config := rapid.SampledFrom([]string{`{}`, `{"after":2}`, `{"from_end":true}`}).Draw(t, "config")
		return &SubscriptionCreate{Name: name, Time: testTime, Config: []byte(config)}
	case "delete":
		return &SubscriptionDelete{Name: name}
	case "replay":
		return &SubscriptionReplay{Name: name, Positions: drawPositions(t, "positions")}
	}
	c := &SubscriptionProgress{
		Name: name, ID: rapid.Uint64Range(1, 4).Draw(t, "id"), Time: testTime, Floor: rapid.Uint64Range(0, 12).Draw(t, "floor"), Acked: drawPositions(t, "acked"),
	}
	for _, p := range drawPositions(t, "tried") {
		c.Attempts = append(c.Attempts, Attempt{p, rapid.IntRange(1, 9).Draw(t, "attempts")})
	}
	for _, p := range drawPositions(t, "parked") {
		c.Parked = append(c.Parked, Park{Attempt{p, rapid.IntRange(1, 9).Draw(t, "attempts")}, rapid.SampledFrom([]string{"", "broken"}).Draw(t, "reason")})
	}
	return c
}

// Changes of subscriptions between appends, in other batches and over restarts: all replicas end in the same state and have given the same answers.
func TestSubscriptionBatchesDoNotMatter(t *testing.T) {
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		var log []*raft.Log
		for i := range rapid.IntRange(1, 25).Draw(t, "entries") {
			var bodies []Body
			for range rapid.IntRange(1, 3).Draw(t, "commands") {
				if rapid.IntRange(0, 3).Draw(t, "append") == 0 {
					a := drawAppend(t)
					bodies = append(bodies, a.Body())
				} else {
					bodies = append(bodies, ChangeBody(drawSubscriptionChange(t)))
				}
			}
			log = append(log, &raft.Log{Index: uint64(i) + 1, Term: 1, Type: raft.LogCommand, Data: EncodeBodies(bodies)})
		}
		var wantHash []byte
		var wantResults []any
		for replica := range 3 {
			run++
			cfg := testConfig(filepath.Join(dir, fmt.Sprint(run)))
			f, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			var results []any
			for rest := log; len(rest) > 0; {
				n := len(rest)
				if replica == 1 {
					n = 1
				} else if replica == 2 {
					n = rapid.IntRange(1, len(rest)).Draw(t, "batch")
				}
				results = append(results, f.ApplyBatch(rest[:n])...)
				rest = rest[n:]
				if replica == 2 {
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
					if f, err = Open(cfg); err != nil {
						t.Fatal(err)
					}
				}
			}
			hash, err := f.Hash()
			if err == nil {
				err = f.Verify()
			}
			if cerr := f.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				t.Fatal(err)
			}
			if replica == 0 {
				wantHash, wantResults = hash, results
				continue
			}
			if string(hash) != string(wantHash) {
				t.Fatalf("replica %d has another hash", replica)
			}
			if !reflect.DeepEqual(results, wantResults) {
				t.Fatalf("replica %d answered\n%+v\nwant\n%+v", replica, results, wantResults)
			}
		}
	})
}

// Progress that is written twice, because its outcome was unknown, changes nothing the second time; and nothing that is done waits again.
func TestProgressTwiceChangesNothing(t *testing.T) {
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		cfg := testConfig(filepath.Join(dir, fmt.Sprint(run)))
		cfg.OnDirty = func() {}
		f, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		index := uint64(0)
		do := func(b Body) {
			index++
			f.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{b})})
		}
		look := func() (string, *Subscription) {
			sub, _, err := f.Subscription("a")
			if err != nil || sub == nil {
				t.Fatal(sub, err)
			}
			parked, _, _, err := f.Parked("a", 0, noLimit)
			if err != nil {
				t.Fatal(err)
			}
			if int(sub.Parked) != len(parked) {
				t.Fatalf("%d are parked, the state says %d", len(parked), sub.Parked)
			}
			return fmt.Sprint(describeSubscription(sub), parked), sub
		}
		a := cmd("s", -2, "1", "2", "3", "4", "5", "6", "7", "8")
		do(a.Body())
		do(ChangeBody(&SubscriptionCreate{Name: "a", Config: []byte(`{}`)}))
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			c := drawSubscriptionChange(t)
			switch c := c.(type) {
			case *SubscriptionProgress:
				c.Name, c.ID = "a", 1
			case *SubscriptionReplay:
				c.Name = "a"
			default:
				continue
			}
			_, before := look()
			do(ChangeBody(c))
			once, sub := look()
			if p, is := c.(*SubscriptionProgress); is {
				do(ChangeBody(c))
				if twice, _ := look(); twice != once {
					t.Fatalf("after %+v\n%s\nafter the same again\n%s", p, once, twice)
				}
			}
			if sub.Floor < before.Floor || sub.Acked < before.Acked {
				t.Fatalf("%s went back from %s", once, describeSubscription(before))
			}
			if _, replay := c.(*SubscriptionReplay); !replay {
				for position := uint64(1); position <= 8; position++ {
					if len(before.open([]uint64{position}, 8)) == 0 && len(sub.open([]uint64{position}, 8)) > 0 {
						t.Fatalf("%d was done in %s and waits in %s", position, describeSubscription(before), once)
					}
				}
			}
		}
	})
}

func FuzzSubscriptionChange(f *testing.F) {
	for _, c := range []Change{
		&SubscriptionCreate{Name: "a", Time: testTime, Config: []byte(`{}`)}, &SubscriptionDelete{Name: "a"}, &SubscriptionReplay{Name: "a", Positions: []uint64{1, 9}},
		&SubscriptionProgress{Name: "a", ID: 1, Floor: 3, Acked: []uint64{4, 6}, Attempts: []Attempt{{5, 1}}, Parked: []Park{{Attempt{7, 2}, "x"}}},
	} {
		f.Add(c.encode(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reader{rest: data}
		c, err := decodeChange(kindSubscription, &r)
		if err == nil {
			err = r.end()
		}
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Errorf("unexpected kind of error: %v", err)
			}
			return
		}
		again := reader{rest: c.encode(nil)}
		d, err := decodeChange(kindSubscription, &again)
		if err != nil || again.end() != nil || !reflect.DeepEqual(c, d) {
			t.Fatalf("got %+v, %v, %v; want %+v", d, err, again.end(), c)
		}
	})
}
