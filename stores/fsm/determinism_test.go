package fsm

import (
	"fmt"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// Replicas see the same log in other batches, and some begin with a snapshot or crash between. All end in the same state, having given the same answers.
func TestBatchesDoNotMatter(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		var log []*raft.Log
		for i := range rapid.IntRange(1, 25).Draw(t, "entries") {
			var cmds []Append
			for range rapid.IntRange(1, 3).Draw(t, "commands") {
				cmds = append(cmds, (&machine{}).drawConditions(t, drawAppend(t)))
			}
			log = append(log, entry(uint64(i)+1, cmds...))
		}
		var wantHash []byte
		var wantResults []any
		for replica := range 4 {
			run++
			cfg := testConfig(filepath.Join(dir, fmt.Sprint(run)))
			f, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			var results []any
			for rest := log; len(rest) > 0; {
				n := len(rest) // the first replica takes all at once, the second one by one
				if replica == 1 {
					n = 1
				} else if replica > 1 {
					n = rapid.IntRange(1, len(rest)).Draw(t, "batch")
				}
				results = append(results, f.ApplyBatch(rest[:n])...)
				rest = rest[n:]
				if replica == 3 {
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
					if f, err = Open(cfg); err != nil {
						t.Fatal(err)
					}
				}
			}
			hash, err := f.Hash()
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
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

// Hash sees every event, and a difference in what is stored.
func TestHashBites(t *testing.T) {
	base, seen := cmd("s", -2, "a"), make(map[string]string)
	for name, change := range map[string]func(*Append){
		"none": func(*Append) {}, "time": func(a *Append) { a.Time++ }, "stream": func(a *Append) { a.Stream = "z" }, "id": func(a *Append) { a.Events[0].ID = "b" },
		"type": func(a *Append) { a.Events[0].Type = "u" }, "data": func(a *Append) { a.Events[0].Data = []byte("1") }, "json": func(a *Append) { a.Events[0].JSON = false },
		"metadata": func(a *Append) { a.Events[0].Metadata = []byte("{}") }, "tags": func(a *Append) { a.Events[0].Tags = []string{"x"} },
	} {
		a := base
		a.Events = evs("a")
		change(&a)
		f := openNew(t)
		mustApply(t, f, a)
		h := hashOf(t, f)
		if other, ok := seen[h]; ok {
			t.Errorf("the states %q and %q have the same hash", name, other)
		}
		seen[h] = name
	}
}
