package wal

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// countingFolder counts the files of zeroes.
type countingFolder struct {
	Folder
	made int
}

func (d *countingFolder) Create(name string, size int64) (File, error) {
	d.made++
	return d.Folder.Create(name, size)
}

// The file of a settled segment is the next one's: while the log is busy no zeroes are written but for the first few. When it is calm no spare is kept.
func TestFilesOfSettledSegmentsAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "raft.db")
		dir := &countingFolder{Folder: osFolder(filepath.Dir(path))}
		cfg := Config{Path: path, Segments: dir, NodeID: "n", SegmentSize: segmentHead + 8<<10, Resting: 2, OnFatal: func(err error) { t.Error(err) }}
		l, err := OpenSegments(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Open(GroupID{1, 1})
		if err != nil {
			t.Fatal(err)
		}
		const last = 400
		for index := uint64(1); index <= last; index++ {
			if err := s.StoreLog(fatEntry(index)); err != nil {
				t.Fatal(err)
			}
			if index > 20 && index%5 == 0 {
				if err := s.DeleteRange(1, index-20); err != nil {
					t.Fatal(err)
				}
			}
			l.settledTo(cfg.Resting) // so that there is a spare when the next one is prepared
		}
		if used := l.current.number; dir.made > 6 || used < 40 {
			t.Errorf("%d files of zeroes for %d segments", dir.made, used)
		}
		time.Sleep(2 * calmAfter)
		synctest.Wait()
		names, err := dir.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if filepath.Ext(name) == spareSuffix {
				t.Errorf("%s is kept though it is calm", name)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if l, err = OpenSegments(cfg); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if s, err = l.Open(GroupID{1, 1}); err != nil {
			t.Fatal(err)
		}
		for index := uint64(last - 19); index <= last; index++ {
			var got raft.Log
			if err := s.GetLog(index, &got); err != nil || got.Index != index {
				t.Errorf("entry %d: %v", index, err)
			}
		}
	})
}

// A segment whose head is gone, so that the mark of the time before it was begun is back, is not taken for one that was never begun.
func TestALostHeadOfAUsedFile(t *testing.T) {
	for _, row := range []struct {
		name    string
		batches uint64
	}{{"never begun", 0}, {"its head is lost", 1}} {
		t.Run(row.name, func(t *testing.T) {
			dir := &memFolder{left: -1, files: map[string]*memFile{}}
			f, err := dir.Create("x", segmentHead+8<<10)
			if err != nil {
				t.Fatal(err)
			}
			older := &segment{number: 3, name: "x", size: segmentHead + 8<<10, file: f}
			if err := older.begin("n", 5); err != nil {
				t.Fatal(err)
			}
			put := func(s *segment, number uint64) {
				t.Helper()
				b := s.sealBatch(append(make([]byte, batchHead), "some payload"...), number)
				if _, err := f.WriteAt(b, s.end); err != nil {
					t.Fatal(err)
				}
				s.end += int64(len(b))
			}
			for n := range uint64(20) {
				put(older, 5+n)
			}
			s := &segment{number: 9, name: "x", size: older.size, file: f}
			if err := s.mark("n"); err != nil {
				t.Fatal(err)
			}
			mark := make([]byte, segmentHead)
			if _, err := f.ReadAt(mark, 0); err != nil {
				t.Fatal(err)
			}
			if err := s.begin("n", 40); err != nil {
				t.Fatal(err)
			}
			for n := range row.batches {
				put(s, 40+n)
			}
			got := &segment{number: 9, name: "x", file: f}
			if unused, err := got.readHead("n"); unused || err != nil || got.first != 40 {
				t.Fatalf("with its head: unused %v, first batch %d, %v", unused, got.first, err)
			}
			if next, err := got.scan(func(int64, []byte) error { return nil }); err != nil || next != 40+row.batches {
				t.Fatalf("with its head: the next batch is %d, %v; what the file held before is not this segment's", next, err)
			}
			if _, err := f.WriteAt(mark, 0); err != nil {
				t.Fatal(err)
			}
			unused, err := (&segment{number: 9, name: "x", file: f}).readHead("n")
			if unused != (row.batches == 0) || errors.Is(err, ErrCorrupt) != (row.batches > 0) {
				t.Errorf("with its mark: unused %v, %v", unused, err)
			}
			if _, err := (&segment{number: 8, name: "x", file: f}).readHead("n"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("the mark of another segment: %v", err)
			}
		})
	}
}
