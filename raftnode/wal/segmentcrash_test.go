package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

var errCut = errors.New("the power is gone")

// memFolder is a folder that loses what was not synced. After so many operations the power is gone: nothing succeeds any more until restart.
type memFolder struct {
	mu    sync.Mutex
	left  int // operations until the power goes; negative: it stays
	ops   int
	cut   bool
	files map[string]*memFile
	held  chan struct{} // syncs wait until it is closed; nil: they do not
}

// hold makes syncs wait until release is called.
func (d *memFolder) hold() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make(chan struct{})
	d.held = held
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.held = nil
		close(held)
	}
}

type memFile struct {
	folder  *memFolder
	durable []byte
	now     []byte
}

const sector = 512

// op counts an operation; mu is held.
func (d *memFolder) op() error {
	if d.cut || d.ops == d.left {
		d.cut = true
		return errCut
	}
	d.ops++
	return nil
}

func (d *memFolder) isCut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cut
}

// restart brings the power back. Of what was not synced each sector is there or not.
func (d *memFolder) restart(rng *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut, d.left = false, -1
	for _, f := range d.files {
		got := make([]byte, max(len(f.now), len(f.durable)))
		copy(got, f.durable)
		for at := 0; at < len(f.now); at += sector {
			if rng != nil && rng.IntN(2) == 0 {
				copy(got[at:], f.now[at:min(at+sector, len(f.now))])
			}
		}
		f.durable, f.now = got, slices.Clone(got)
	}
}

func (d *memFolder) Create(name string, size int64) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		if d.ops%2 == 0 { // we died in the middle of it
			d.files[name] = &memFile{folder: d, durable: make([]byte, size/3), now: make([]byte, size/3)}
		}
		return nil, err
	}
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	f := &memFile{folder: d, durable: make([]byte, size), now: make([]byte, size)}
	d.files[name] = f
	return f, nil
}

func (d *memFolder) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[name]; f != nil {
		return f, nil
	}
	return nil, fs.ErrNotExist
}

func (d *memFolder) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	delete(d.files, name)
	return nil
}

func (d *memFolder) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.op()
	if err != nil && d.ops%2 == 0 {
		return err
	}
	d.files[to] = d.files[from] // also when we died in the middle of it
	delete(d.files, from)
	return err
}

func (d *memFolder) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.files)), nil
}

func (f *memFile) WriteAt(p []byte, at int64) (int, error) {
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	err := f.folder.op()
	if need := int(at) + len(p); need > len(f.now) {
		f.now = append(f.now, make([]byte, need-len(f.now))...)
	}
	copy(f.now[at:], p) // also when the power goes: some of it may arrive
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memFile) ReadAt(p []byte, at int64) (int, error) {
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	if at >= int64(len(f.now)) {
		return 0, io.EOF
	}
	n := copy(p, f.now[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Sync() error {
	f.folder.mu.Lock()
	held := f.folder.held
	f.folder.mu.Unlock()
	if held != nil {
		<-held
	}
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	if err := f.folder.op(); err != nil {
		return err
	}
	f.durable = slices.Clone(f.now)
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.folder.mu.Lock()
	defer f.folder.mu.Unlock()
	return int64(len(f.now)), nil
}

func (f *memFile) Close() error { return nil }

// content is what a group should hold.
type content struct {
	entries map[uint64]string
	term    uint64
}

func (c content) clone() content { return content{maps.Clone(c.entries), c.term} }

func (c content) String() string {
	return fmt.Sprintf("term %d, entries %v", c.term, slices.Sorted(maps.Keys(c.entries)))
}

// crashStep is one write of the scenario and what it does to the content.
type crashStep struct {
	group GroupID
	write func(*SegmentLog, Store) error
	model func(*content)
}

// crashScenario is what raft does to a log: terms, entries, suffixes cut off and written anew, heads cut off, a group dropped and started again.
func crashScenario() (steps []crashStep) {
	groups := []GroupID{{1, 1}, {2, 1}, {3, 1}}
	next := map[GroupID]uint64{}
	serial := 0
	put := func(id GroupID, n int, size int) {
		var logs []*raft.Log
		for range n {
			next[id]++
			serial++
			logs = append(logs, &raft.Log{Index: next[id], Term: 1, Data: fmt.Appendf(nil, "%d-%0*d", serial, size, serial)})
		}
		write := func(_ *SegmentLog, s Store) error { return s.StoreLogs(logs) }
		if serial%2 == 0 {
			write = func(_ *SegmentLog, s Store) error {
				err := s.Begin(logs)
				if err == nil {
					err = s.AwaitDurable(context.Background(), logs[len(logs)-1].Index)
				}
				return err
			}
		}
		steps = append(steps, crashStep{id, write, func(c *content) {
			for _, l := range logs {
				c.entries[l.Index] = string(l.Data)
			}
		}})
	}
	cut := func(id GroupID, lo, hi uint64) {
		steps = append(steps, crashStep{id, func(_ *SegmentLog, s Store) error { return s.DeleteRange(lo, hi) }, func(c *content) {
			maps.DeleteFunc(c.entries, func(i uint64, _ string) bool { return lo <= i && i <= hi })
		}})
	}
	term := func(id GroupID, n uint64) {
		steps = append(steps, crashStep{id, func(_ *SegmentLog, s Store) error { return s.SetUint64([]byte("CurrentTerm"), n) }, func(c *content) { c.term = n }})
	}
	for round := range uint64(6) {
		for i, id := range groups {
			term(id, round+1)
			put(id, 3+i, 150)
			put(id, 1, 400)
		}
		a := groups[0]
		cut(a, next[a]-1, next[a]) // a suffix that lost an election
		next[a] -= 2
		put(a, 3, 100)
		if round > 1 {
			cut(groups[1], 1, next[groups[1]]-4) // compacted
		}
		if round == 3 {
			id := groups[2]
			steps = append(steps, crashStep{id, nil, func(c *content) { *c = content{entries: map[uint64]string{}} }})
			next[id] = 0
		}
	}
	return steps
}

// run carries out the scenario until the power goes. It returns what each group holds, and what it would if the last step took effect as well.
func runCrash(t *testing.T, l *SegmentLog, steps []crashStep) (acked map[GroupID]content, torn GroupID, after content) {
	t.Helper()
	acked = map[GroupID]content{}
	stores := map[GroupID]Store{}
	for _, step := range steps {
		c, ok := acked[step.group]
		if !ok {
			c = content{entries: map[uint64]string{}}
		}
		next := c.clone()
		step.model(&next)
		s := stores[step.group]
		var err error
		if s == nil {
			if s, err = l.Open(step.group); err == nil {
				stores[step.group] = s
			}
		}
		if err == nil && step.write == nil {
			if err = s.Close(); err == nil {
				delete(stores, step.group)
				err = l.Remove(step.group)
			}
		} else if err == nil {
			err = step.write(l, s)
		}
		if err != nil {
			return acked, step.group, next
		}
		acked[step.group] = next
	}
	return acked, GroupID{}, content{}
}

func holds(t *testing.T, l *SegmentLog, id GroupID) content {
	t.Helper()
	s, err := l.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := content{entries: map[uint64]string{}}
	if c.term, err = s.GetUint64([]byte("CurrentTerm")); err != nil {
		t.Fatal(err)
	}
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	for i := uint64(1); i <= last+3; i++ {
		var e raft.Log
		err := s.GetLog(i, &e)
		if err == raft.ErrLogNotFound {
			continue
		}
		if err != nil {
			t.Fatalf("group %s entry %d: %v", id, i, err)
		}
		if i < first || i > last {
			t.Fatalf("group %s: entry %d is there, the bounds are %d to %d", id, i, first, last)
		}
		c.entries[i] = string(e.Data)
	}
	if n := len(c.entries); n > 0 && (c.entries[first] == "" || c.entries[last] == "") {
		t.Fatalf("group %s: bounds %d to %d are not those of %v", id, first, last, c)
	}
	return c
}

func same(a, b content) bool { return a.term == b.term && maps.Equal(a.entries, b.entries) }

// The power goes at every single operation on the segments, in turn. What was acknowledged is there afterwards, what was not is there whole or not at all, and
// the log works on.
func TestPowerCutAtEveryStep(t *testing.T) {
	steps := crashScenario()
	for _, lossy := range []bool{false, true} {
		settled, cuts := 0, 0
		for at := 0; ; at++ {
			dir := &memFolder{left: at, files: map[string]*memFile{}}
			cfg := Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "disk", SegmentSize: segmentHead + 3000, Resting: 2, Segments: dir, OnFatal: func(error) {}}
			rng := rand.New(rand.NewPCG(uint64(at), 7))
			acked, torn, after := map[GroupID]content{}, GroupID{}, content{}
			l, err := OpenSegments(cfg)
			if err == nil {
				l.settled.w.failpoint = func() error {
					if dir.isCut() {
						return errCut
					}
					return nil
				}
				acked, torn, after = runCrash(t, l, steps)
				l.Close()
			}
			cut := dir.isCut()
			if lossy {
				dir.restart(rng)
			} else {
				dir.restart(nil)
			}
			l, err = OpenSegments(cfg)
			if err != nil {
				t.Fatalf("power cut at operation %d (lossy: %v): it does not open again: %v", at, lossy, err)
			}
			for id, want := range acked {
				got := holds(t, l, id)
				if !same(got, want) && !(id == torn && same(got, after)) {
					t.Fatalf("power cut at operation %d (lossy: %v): group %s has %v, wanted %v", at, lossy, id, got, want)
				}
			}
			s, err := l.Open(GroupID{9, 9})
			if err == nil {
				err = s.StoreLog(&raft.Log{Index: 1, Data: []byte("works on")})
			}
			if err != nil {
				t.Fatalf("power cut at operation %d: it does not work on: %v", at, err)
			}
			if l.Close() != nil {
				t.Fatal(err)
			}
			// And once more, from what the second life has left.
			if l, err = OpenSegments(cfg); err != nil {
				t.Fatalf("power cut at operation %d: after the next close: %v", at, err)
			}
			for id, want := range acked {
				if got := holds(t, l, id); !same(got, want) && !(id == torn && same(got, after)) {
					t.Fatalf("power cut at operation %d, second opening: group %s has %v, wanted %v", at, id, got, want)
				}
			}
			l.Close()
			if !cut {
				break
			}
			cuts++
			if dir.files[segmentName(1)] == nil {
				settled++
			}
		}
		if cuts < 150 || settled < 50 {
			t.Errorf("%d cuts, %d of them after a segment was settled: the test has seen too little", cuts, settled)
		}
	}
}
