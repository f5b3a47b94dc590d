package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// written opens a log in a fresh directory, writes so many entries one by one, and closes it, or leaves it as a killed process does.
func written(t *testing.T, n int, clean bool) Config {
	t.Helper()
	return writtenIn(t, segmentHead+4096, n, clean)
}

func writtenIn(t *testing.T, segmentSize int64, n int, clean bool) Config {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "disk", SegmentSize: segmentSize, Resting: 2}
	l, err := OpenSegments(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Open(GroupID{1, 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := s.StoreLog(&raft.Log{Index: uint64(i + 1), Term: 3, Data: fmt.Appendf(nil, "entry %d of the log", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !clean {
		b, err := OpenBolt(cfg)
		if err != nil {
			t.Fatal(err)
		}
		err = b.w.do(&request{apply: func(b *batch) (bool, error) { return false, b.tx.Bucket(metaBucket).Delete(closedKey) }})
		if err = errors.Join(err, b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func segmentFile(cfg Config, number uint64) string {
	return filepath.Join(filepath.Dir(cfg.Path), segmentName(number))
}

// survey opens the log and returns how many entries from 1 on are read as they were written; an entry that is read as something else fails the test.
func survey(t *testing.T, cfg Config, what string) (entries int, err error) {
	t.Helper()
	l, err := OpenSegments(cfg)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	s, err := l.Open(GroupID{1, 1})
	if err != nil {
		return 0, err
	}
	for i := uint64(1); ; i++ {
		var e raft.Log
		if err := s.GetLog(i, &e); err == raft.ErrLogNotFound {
			return int(i - 1), nil
		} else if err != nil {
			return 0, err
		}
		if want := fmt.Sprintf("entry %d of the log", i); string(e.Data) != want || e.Term != 3 {
			t.Fatalf("%s: entry %d is read as %q of term %d", what, i, e.Data, e.Term)
		}
	}
}

// Every single bit of the written part is flipped, one at a time (every byte, one bit of it). After a clean close nothing may be missing without an error; after a
// crash the last batch may, since it looks like one that was never finished; TestWhatACrashHides has more.
func TestFlippedBits(t *testing.T) {
	const n = 6
	for _, clean := range []bool{true, false} {
		cfg := written(t, n, clean)
		file := segmentFile(cfg, 1)
		original, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		meta, err := os.ReadFile(cfg.Path)
		if err != nil {
			t.Fatal(err)
		}
		last := len(original)
		for last > 0 && original[last-1] == 0 {
			last--
		}
		refused, short := 0, 0
		for at := 0; at < last; at++ {
			if at == 64 { // the rest of the head is zeroes that nobody reads
				at = segmentHead
			}
			damaged := slices.Clone(original)
			damaged[at] ^= 1 << (at % 8)
			dir := t.TempDir()
			again := cfg
			again.Path = filepath.Join(dir, "raft.db")
			if err := errors.Join(os.WriteFile(segmentFile(again, 1), damaged, 0o600), os.WriteFile(again.Path, meta, 0o600)); err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("bit of byte %d flipped (clean: %v)", at, clean)
			got, err := survey(t, again, what)
			switch {
			case err != nil && (errors.Is(err, ErrCorrupt) || errors.Is(err, ErrWrongNode)):
				refused++
			case err != nil && at < 8: // magic and format
				refused++
			case err != nil:
				t.Fatalf("%s: %v", what, err)
			case clean && got != n, got < n-1:
				t.Fatalf("%s: %d of %d entries are there, without an error", what, got, n)
			case got == n-1:
				short++
			}
		}
		if refused < 100 || !clean && short < 20 {
			t.Errorf("clean: %v: %d refused, %d short: the test has seen too little", clean, refused, short)
		}
	}
}

func TestOpenSegmentsRefuses(t *testing.T) {
	for _, row := range []struct {
		name string
		harm func(t *testing.T, cfg *Config) error
		want error
	}{
		{"the segments are gone", func(_ *testing.T, cfg *Config) error { return os.Remove(segmentFile(*cfg, 1)) }, ErrCorrupt},
		{"the bbolt file is gone", func(_ *testing.T, cfg *Config) error { return os.Remove(cfg.Path) }, ErrCorrupt},
		{"a segment of another disk", func(_ *testing.T, cfg *Config) error { cfg.NodeID = "other"; return nil }, ErrWrongNode},
		{"a segment under another name", func(_ *testing.T, cfg *Config) error {
			return os.Rename(segmentFile(*cfg, 1), segmentFile(*cfg, 2))
		}, ErrCorrupt},
		{"a segment cut short", func(_ *testing.T, cfg *Config) error { return os.Truncate(segmentFile(*cfg, 1), segmentHead+100) }, ErrCorrupt},
		{"in use", func(t *testing.T, cfg *Config) error {
			l, err := OpenSegments(*cfg)
			t.Cleanup(func() { l.Close() })
			return err
		}, ErrLocked},
	} {
		cfg := written(t, 5, true)
		if err := row.harm(t, &cfg); err != nil {
			t.Fatal(err)
		}
		l, err := OpenSegments(cfg)
		if !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, err, row.want)
		}
		if err == nil {
			l.Close()
		}
	}
}

// A directory of the simple log is taken over, and so is one that a killed process left.
func TestOpenSegmentsTakesOver(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "disk"}
	b, err := OpenBolt(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(GroupID{1, 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.StoreLog(&raft.Log{Index: uint64(i + 1), Term: 3, Data: fmt.Appendf(nil, "entry %d of the log", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.MustExist = true
	if n, err := survey(t, cfg, "taken over"); n != 5 || err != nil {
		t.Errorf("%d entries of the simple log are there: %v", n, err)
	}
	if n, err := survey(t, written(t, 70, false), "killed"); n != 70 || err != nil {
		t.Errorf("%d of 70 entries are there after a kill: %v", n, err)
	}
}

func FuzzParseItems(f *testing.F) {
	b := appendSealed(nil, GroupID{7, 1}, 3, []byte("sealed"))
	b, _ = appendStableItem(b, GroupID{7, 1}, "CurrentTerm", []byte("12345678"))
	b, _ = appendDeleteItem(b, GroupID{7, 1}, 1, 2)
	b, _ = appendRemoveItem(b, GroupID{7, 1})
	f.Add(b)
	f.Add(append(b, 0, 0, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, err := parseItems(raw)
		if err != nil {
			return
		}
		var again []byte
		for _, it := range items {
			switch it.kind {
			case kindEntry:
				again = appendSealed(again, it.id, it.index, raw[it.at:it.at+int64(it.size)])
			case kindStable:
				again, _ = appendStableItem(again, it.id, it.key, it.value)
			case kindDelete:
				again, _ = appendDeleteItem(again, it.id, it.lo, it.hi)
			case kindRemove:
				again, _ = appendRemoveItem(again, it.id)
			}
		}
		if len(again) > len(raw) || string(again) != string(raw[:len(again)]) {
			t.Errorf("%x is read as %x", raw, again)
		}
	})
}

func TestSpans(t *testing.T) {
	var s spans
	in := map[uint64]bool{}
	set := func(lo, hi uint64, on bool) {
		for i := lo; i <= hi; i++ {
			in[i] = on
		}
		if on {
			s = s.add(lo, hi)
		} else {
			s = s.remove(lo, hi)
		}
		for i := uint64(1); i < 60; i++ {
			if s.has(i) != in[i] {
				t.Fatalf("after %d to %d %v: %v has %d: %v", lo, hi, on, s, i, s.has(i))
			}
			if s.gaps(1, 59).has(i) == in[i] {
				t.Fatalf("gaps of %v: %v", s, s.gaps(1, 59))
			}
		}
		for i := 1; i < len(s); i++ {
			if s[i].lo <= s[i-1].hi+1 {
				t.Fatalf("%v touch", s)
			}
		}
	}
	for _, step := range []struct {
		lo, hi uint64
		on     bool
	}{{10, 20, true}, {30, 40, true}, {21, 29, true}, {15, 15, false}, {5, 9, true}, {1, 12, false}, {50, 50, true}, {41, 49, true}, {13, 50, false}, {7, 7, true}} {
		set(step.lo, step.hi, step.on)
	}
}

func BenchmarkStoreLogs(b *testing.B) {
	for _, impl := range []struct {
		name string
		open func(Config) (Log, error)
	}{
		{"bbolt", func(c Config) (Log, error) { return OpenBolt(c) }},
		{"segments", func(c Config) (Log, error) { return OpenSegments(c) }},
	} {
		for _, groups := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d groups", impl.name, groups), func(b *testing.B) {
				l, err := impl.open(Config{Path: filepath.Join(b.TempDir(), "raft.db"), NodeID: "disk"})
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				data := make([]byte, 256)
				done := make(chan error, groups)
				b.ReportAllocs()
				b.ResetTimer()
				for g := range groups {
					s, err := l.Open(GroupID{uint64(g + 1), 1})
					if err != nil {
						b.Fatal(err)
					}
					go func() { // ends with its share
						var err error
						for i := 0; i < b.N/groups+1 && err == nil; i++ {
							err = s.StoreLog(&raft.Log{Index: uint64(i + 1), Term: 1, Data: data})
						}
						done <- err
					}()
				}
				for range groups {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// appendSealed is appendEntryItem of what was sealed before.
func appendSealed(b []byte, id GroupID, index uint64, sealed []byte) []byte {
	b = appendItemHead(b, kindEntry, id)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint32(b, uint32(len(sealed)))
	return append(b, sealed...)
}
