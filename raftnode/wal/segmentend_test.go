package wal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestWhatACrashHides holds DESIGN.md's section on damage to its word: after a crash, what is damaged at the end of the log is taken for what the crash left, whatever it was; everything else is
// refused, and after a clean close that is too.
func TestWhatACrashHides(t *testing.T) {
	const n = 200 // the second segment is not half full, so the third is not prepared
	cut := func(clean bool) (cfg Config, ends [3][]int64) {
		cfg = writtenIn(t, segmentHead+16<<10, n, clean)
		for number := uint64(1); number <= 2; number++ {
			file, err := os.Open(segmentFile(cfg, number))
			if err != nil {
				t.Fatal(err)
			}
			s := &segment{number: number, name: segmentName(number), file: osFile{file}}
			if unused, err := s.readHead(cfg.NodeID); unused || err != nil {
				t.Fatal(unused, err)
			}
			ends[number] = append(ends[number], s.end)
			if _, err := s.scan(func(int64, []byte) error { ends[number] = append(ends[number], s.end); return nil }); err != nil {
				t.Fatal(err)
			}
			ends[number] = append(ends[number][1:], s.end) // of each batch the place where it begins, and the end of the last one
			file.Close()
		}
		if len(ends[2])-1 < 4 || len(ends[1])+len(ends[2])-2 != n {
			t.Fatalf("the segments have %d and %d batches: choose another number of entries", len(ends[1])-1, len(ends[2])-1)
		}
		if _, err := os.Stat(segmentFile(cfg, 3)); !os.IsNotExist(err) {
			t.Fatalf("segment 3 is there already: %v", err)
		}
		return cfg, ends
	}
	// change gives harm a segment's bytes and what begins where; back counts from the last batch, which is 1.
	type change func(raw []byte, batch func(back int) (from, to int64)) []byte
	zero := func(from, to int) change {
		return func(raw []byte, batch func(int) (int64, int64)) []byte {
			for back := from; back >= to; back-- {
				a, b := batch(back)
				clear(raw[a:b])
			}
			return raw
		}
	}
	all := func(raw []byte, _ func(int) (int64, int64)) []byte { clear(raw); return raw }
	gone := func([]byte, func(int) (int64, int64)) []byte { return nil }
	const newest = -1 // all that is in the newest segment
	for _, row := range []struct {
		name    string
		segment uint64
		harm    change
		lost    int // entries that are missing without an error after a crash; 0: it is refused
	}{
		{"the last batch is zeroes", 2, zero(1, 1), 1},
		{"the last three batches are zeroes", 2, zero(3, 1), 3},
		{"each of the last three batches has a wrong bit", 2, func(raw []byte, batch func(int) (int64, int64)) []byte {
			for back := 3; back > 0; back-- {
				_, end := batch(back)
				raw[end-batchAlign] ^= 1
			}
			return raw
		}, 3},
		{"the file ends before the last three batches", 2, func(raw []byte, batch func(int) (int64, int64)) []byte {
			at, _ := batch(3)
			return raw[:at]
		}, 3},
		{"all batches of the newest segment are zeroes, and its head is not", 2, func(raw []byte, _ func(int) (int64, int64)) []byte {
			clear(raw[segmentHead:])
			return raw
		}, newest},
		{"the newest segment is zeroes", 2, all, newest},
		{"the newest segment is gone", 2, gone, newest},
		{"the third last batch is zeroes", 2, zero(3, 3), 0},
		{"the newest segment's head is damaged", 2, func(raw []byte, _ func(int) (int64, int64)) []byte { raw[20] ^= 1; return raw }, 0},
		{"the newest segment's head is zeroes", 2, func(raw []byte, _ func(int) (int64, int64)) []byte { clear(raw[:segmentHead]); return raw }, 0},
		{"the last batch of the segment before is zeroes", 1, zero(1, 1), 0},
		{"the segment before is zeroes", 1, all, 0},
		{"the segment before is gone", 1, gone, 0},
	} {
		for _, clean := range []bool{false, true} {
			cfg, ends := cut(clean)
			path := segmentFile(cfg, row.segment)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := ends[row.segment]
			harmed := row.harm(slices.Clone(raw), func(back int) (int64, int64) { return at[len(at)-1-back], at[len(at)-back] })
			if bytes.Equal(harmed, raw) {
				t.Fatalf("%s: nothing is harmed", row.name)
			}
			if harmed == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, harmed, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			lost := row.lost
			if lost == newest {
				lost = len(ends[2]) - 1
			}
			got, err := survey(t, cfg, row.name)
			if refused := clean || lost == 0; refused && !errors.Is(err, ErrCorrupt) || !refused && (err != nil || got != n-lost) {
				t.Errorf("%s (clean close: %v): %d of %d entries, %v; want %d missing, or a refusal if that is 0 or the close was clean", row.name, clean, got, n, err, lost)
			}
		}
	}
	// A segment that was prepared behind the newest says that it was begun.
	cfg, ends := cut(false)
	zeroes := make([]byte, cfg.SegmentSize)
	if err := errors.Join(os.WriteFile(segmentFile(cfg, 2), zeroes, 0o600), os.WriteFile(segmentFile(cfg, 3), zeroes, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := survey(t, cfg, "the newest but a prepared one is zeroes"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("the newest but a prepared one is zeroes: %d entries, %v: want a refusal", got, err)
	}
	// All files from one on may be gone.
	long := writtenIn(t, cfg.SegmentSize, 2*n, false)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(long.Path), "*.wal"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v: want three segments", files, err)
	}
	for _, file := range files[1:] {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := survey(t, long, "all segments but the first are gone"); err != nil || got != len(ends[1])-1 {
		t.Errorf("all segments but the first are gone: %d entries, %v; want its %d", got, err, len(ends[1])-1)
	}
	// Once the log was opened again, its new segment says where the one before ends, and nothing is hidden there any more.
	cfg, ends = cut(false)
	if got, err := survey(t, cfg, "after the crash"); got != n || err != nil {
		t.Fatalf("%d entries, %v", got, err)
	}
	raw, err := os.ReadFile(segmentFile(cfg, 2))
	if err != nil {
		t.Fatal(err)
	}
	at := ends[2]
	clear(raw[at[len(at)-2]:])
	if err := os.WriteFile(segmentFile(cfg, 2), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := survey(t, cfg, "harmed after the next start"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%d entries, %v: want a refusal", got, err)
	}
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(cfg.Path), "*.wal")); len(files) < 3 {
		t.Errorf("%v: want a segment of the start after the crash", files)
	}
}
