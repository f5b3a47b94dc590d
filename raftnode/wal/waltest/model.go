package waltest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/quorate/quorate/raftnode/wal"
	"pgregory.net/rapid"
)

// modelGroup is what one group should hold.
type modelGroup struct {
	logs   map[uint64]*raft.Log
	stable map[string][]byte
}

func newModelGroup() *modelGroup {
	return &modelGroup{logs: make(map[uint64]*raft.Log), stable: make(map[string][]byte)}
}

func (m *modelGroup) bounds() (first, last uint64) {
	for i := range m.logs {
		if first == 0 || i < first {
			first = i
		}
		last = max(last, i)
	}
	return first, last
}

// model drives a log and an in-memory picture of it side by side.
type model struct {
	open   Opener
	dir    string
	log    wal.Log
	stores []wal.Store
	want   []*modelGroup
}

func modelID(g int) wal.GroupID {
	return wal.GroupID{Store: uint64(g/2 + 1), Incarnation: uint64(g%2 + 1)}
}

// testModel does random things to three groups, reopening now and then, and
// compares everything that can be read after each.
func testModel(t *testing.T, open Opener) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "waltest")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &model{open: open, dir: dir, stores: make([]wal.Store, 3)}
		for range m.stores {
			m.want = append(m.want, newModelGroup())
		}
		m.reopen(t)
		defer func() { m.log.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"":       m.compare,
			"append": m.store,
			"set":    m.set,
			"delete": m.delete,
			"remove": m.remove,
			"reopen": m.reopen,
		})
	})
}

func (m *model) pick(t *rapid.T) (int, *modelGroup) {
	g := rapid.IntRange(0, len(m.stores)-1).Draw(t, "group")
	return g, m.want[g]
}

// store appends entries, at the end, after a gap, or over what is there.
func (m *model) store(t *rapid.T) {
	g, want := m.pick(t)
	first, last := want.bounds()
	at := last + 1
	write := m.stores[g].StoreLogs
	switch rapid.SampledFrom([]string{"begin", "end", "end", "gap", "over"}).Draw(t, "where") {
	case "begin":
		write = m.stores[g].Begin
	case "gap":
		at += rapid.Uint64Range(1, 5).Draw(t, "gap")
	case "over":
		at = rapid.Uint64Range(max(first, 1), last+1).Draw(t, "at")
	}
	data := rapid.SliceOfN(rapid.Byte(), 0, 300)
	var logs []*raft.Log
	for i := range rapid.IntRange(1, 5).Draw(t, "n") {
		l := &raft.Log{
			Index:      at + uint64(i),
			Term:       rapid.Uint64().Draw(t, "term"),
			Type:       raft.LogType(rapid.Byte().Draw(t, "type")),
			Data:       data.Draw(t, "data"),
			Extensions: data.Draw(t, "extensions"),
			AppendedAt: time.Unix(rapid.Int64Range(-1<<33, 1<<33).Draw(t, "s"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns")),
		}
		logs = append(logs, l)
	}
	if err := write(logs); err != nil {
		t.Fatal(err)
	}
	for _, l := range logs {
		want.logs[l.Index] = l
	}
}

func (m *model) set(t *rapid.T) {
	g, want := m.pick(t)
	key := rapid.SampledFrom([]string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"}).Draw(t, "key")
	val := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
	if err := m.stores[g].Set([]byte(key), val); err != nil {
		t.Fatal(err)
	}
	want.stable[key] = slices.Clone(val)
}

func (m *model) delete(t *rapid.T) {
	g, want := m.pick(t)
	first, last := want.bounds()
	at := rapid.Uint64Range(max(first, 1)-1, last+2)
	lo, hi := at.Draw(t, "lo"), at.Draw(t, "hi")
	switch rapid.SampledFrom([]string{"head", "tail", "any"}).Draw(t, "which") {
	case "head":
		lo = first
	case "tail":
		hi = last
	}
	if err := m.stores[g].DeleteRange(lo, hi); err != nil {
		t.Fatal(err)
	}
	for i := range want.logs {
		if lo <= i && i <= hi {
			delete(want.logs, i)
		}
	}
}

func (m *model) remove(t *rapid.T) {
	g, _ := m.pick(t)
	if err := errors.Join(m.stores[g].Close(), m.log.Remove(modelID(g))); err != nil {
		t.Fatal(err)
	}
	m.want[g] = newModelGroup()
	s, err := m.log.Open(modelID(g))
	if err != nil {
		t.Fatal(err)
	}
	m.stores[g] = s
}

func (m *model) reopen(t *rapid.T) {
	var err error
	if m.log != nil {
		if err := m.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if m.log, err = m.open(m.dir); err != nil {
		t.Fatal(err)
	}
	for g := range m.stores {
		if m.stores[g], err = m.log.Open(modelID(g)); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *model) compare(t *rapid.T) {
	var groups []wal.GroupID
	for g, want := range m.want {
		s := m.stores[g]
		if len(want.logs)+len(want.stable) > 0 {
			groups = append(groups, modelID(g))
		}
		first, last := want.bounds()
		gotFirst, err1 := s.FirstIndex()
		gotLast, err2 := s.LastIndex()
		if err := errors.Join(err1, err2); err != nil || gotFirst != first || gotLast != last {
			t.Fatalf("group %d: got %d to %d, %v, want %d to %d", g, gotFirst, gotLast, err, first, last)
		}
		for i := max(first, 1) - 1; i <= last+1; i++ {
			var got raft.Log
			err := s.GetLog(i, &got)
			if want.logs[i] == nil {
				if err != raft.ErrLogNotFound {
					t.Fatalf("group %d entry %d: got %v, want raft.ErrLogNotFound", g, i, err)
				}
			} else if err != nil {
				t.Fatalf("group %d entry %d: %v", g, i, err)
			} else if diff := differ(&got, want.logs[i]); diff != "" {
				t.Fatalf("group %d entry %d: %s", g, i, diff)
			}
		}
		for _, key := range []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"} {
			val, ok := want.stable[key]
			got, err := s.Get([]byte(key))
			if ok != (err == nil) || !slices.Equal(got, val) {
				t.Fatalf("group %d %s: got %x, %v, want %x, %v", g, key, got, err, val, ok)
			}
		}
	}
	got, err := m.log.Groups()
	if err != nil || fmt.Sprint(got) != fmt.Sprint(groups) {
		t.Fatalf("groups: got %v, %v, want %v", got, err, groups)
	}
}
