package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
)

var testID = GroupID{Store: 7, Incarnation: 1}

// fill makes a log of two groups and closes it.
func fill(t *testing.T) Config {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "disk-1"}
	l, err := OpenBolt(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []GroupID{testID, {Store: 8, Incarnation: 1}} {
		s, err := l.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.StoreLogs(testEntries(1, 9)), s.SetUint64([]byte("LastVoteTerm"), 4), s.Set([]byte("LastVoteCand"), []byte("n1"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func testEntries(first uint64, n int) (logs []*raft.Log) {
	for i := range n {
		index := first + uint64(i)
		logs = append(logs, &raft.Log{Index: index, Term: 1, Data: fmt.Appendf(nil, "entry %d", index)})
	}
	return logs
}

// readAll opens the log and reads everything of the test's group; it returns
// the first error that is not one.
func readAll(cfg Config) error {
	l, err := OpenBolt(cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	s, err := l.Open(testID)
	if err != nil {
		return err
	}
	for _, want := range testEntries(1, 9) {
		var got raft.Log
		if err := s.GetLog(want.Index, &got); err != nil {
			return err
		}
		if string(got.Data) != string(want.Data) {
			return fmt.Errorf("entry %d: silently wrong: %q", want.Index, got.Data)
		}
	}
	n, err := s.GetUint64([]byte("LastVoteTerm"))
	if err == nil && n != 4 {
		return errVote
	}
	return err
}

func TestDamageIsAnError(t *testing.T) {
	group := func(tx *bolt.Tx) *bolt.Bucket { return tx.Bucket(testID.bytes()) }
	rename := func(b *bolt.Bucket, from, to []byte) error {
		v := append([]byte(nil), b.Get(from)...)
		return errors.Join(b.Delete(from), b.Put(to, v))
	}
	rows := []struct {
		name   string
		damage func(tx *bolt.Tx) error
		index  uint64 // that the error names
	}{
		{"last entry gone", func(tx *bolt.Tx) error { return group(tx).Bucket(logBucket).Delete(indexKey(9)) }, 0},
		{"first entry gone", func(tx *bolt.Tx) error { return group(tx).Bucket(logBucket).Delete(indexKey(1)) }, 0},
		{"middle entry gone", func(tx *bolt.Tx) error { return group(tx).Bucket(logBucket).Delete(indexKey(5)) }, 5},
		{"entry under another index", func(tx *bolt.Tx) error { return rename(group(tx).Bucket(logBucket), indexKey(5), indexKey(6)) }, 5},
		{"entry of another group", func(tx *bolt.Tx) error {
			other := tx.Bucket(GroupID{Store: 8, Incarnation: 1}.bytes())
			return group(tx).Bucket(logBucket).Put(indexKey(3), append([]byte(nil), other.Bucket(logBucket).Get(indexKey(3))...))
		}, 3},
		{"record cut short", func(tx *bolt.Tx) error { return group(tx).Bucket(logBucket).Put(indexKey(2), []byte("ab")) }, 2},
		{"vote gone", func(tx *bolt.Tx) error { return group(tx).Bucket(stableBucket).Delete([]byte("LastVoteTerm")) }, 0},
		{"vote under another key", func(tx *bolt.Tx) error {
			return rename(group(tx).Bucket(stableBucket), []byte("LastVoteTerm"), []byte("LastVoteTerl"))
		}, 0},
		{"header gone", func(tx *bolt.Tx) error { return group(tx).Delete(headKey) }, 0},
		{"log bucket gone", func(tx *bolt.Tx) error { return group(tx).DeleteBucket(logBucket) }, 0},
		{"group gone", func(tx *bolt.Tx) error { return tx.DeleteBucket(testID.bytes()) }, 0},
		{"meta gone", func(tx *bolt.Tx) error { return tx.DeleteBucket(metaBucket) }, 0},
		{"node id gone", func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Delete(nodeKey) }, 0},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			cfg := fill(t)
			change(t, cfg, row.damage)
			var damaged *CorruptError
			err := readAll(cfg)
			if !errors.Is(err, ErrCorrupt) || !errors.As(err, &damaged) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			if damaged.Index != row.index {
				t.Errorf("got index %d, want %d: %v", damaged.Index, row.index, err)
			}
		})
	}
}

// Every byte of an entry, of a vote and of a header is covered.
func TestFlippedBytesAreAnError(t *testing.T) {
	places := []struct {
		name string
		key  []byte
		in   func(g *bolt.Bucket) *bolt.Bucket
	}{
		{"entry", indexKey(4), func(g *bolt.Bucket) *bolt.Bucket { return g.Bucket(logBucket) }},
		{"vote", []byte("LastVoteTerm"), func(g *bolt.Bucket) *bolt.Bucket { return g.Bucket(stableBucket) }},
		{"header", headKey, func(g *bolt.Bucket) *bolt.Bucket { return g }},
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			cfg := fill(t)
			flip := func(at int) (size int) {
				change(t, cfg, func(tx *bolt.Tx) error {
					b := p.in(tx.Bucket(testID.bytes()))
					v := append([]byte(nil), b.Get(p.key)...)
					v[at] ^= 0x10
					size = len(v)
					return b.Put(p.key, v)
				})
				return size
			}
			for at, size := 0, 1; at < size; at++ {
				size = flip(at)
				var damaged *CorruptError
				if err := readAll(cfg); !errors.As(err, &damaged) {
					t.Fatalf("byte %d: got %v, want a CorruptError", at, err)
				} else if damaged.Group != testID || damaged.Want == damaged.Got {
					t.Errorf("byte %d: the error names too little: %v", at, err)
				}
				flip(at)
			}
			if err := readAll(cfg); err != nil {
				t.Fatalf("all flipped back: %v", err)
			}
		})
	}
}

// One bit is flipped in each of many places of the file, bbolt's own pages too:
// what is read is right or an error.
func TestFlippedFileIsNeverReadWrong(t *testing.T) {
	cfg := fill(t)
	clean, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	var used []int // zeroes are mostly pages never written
	for i, b := range clean {
		if b != 0 {
			used = append(used, i)
		}
	}
	errs := 0
	for i := 0; i < len(used); i += 1 + len(used)/400 {
		dirty := slices.Clone(clean)
		dirty[used[i]] ^= 1 << (i % 8)
		if err := os.WriteFile(cfg.Path, dirty, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readAll(cfg); err != nil {
			errs++
			if strings.Contains(err.Error(), "silently") || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, errVote) {
				t.Errorf("byte %d: %v", used[i], err)
			}
		}
	}
	t.Logf("%d flips noticed", errs)
	if errs == 0 {
		t.Error("no flip was noticed")
	}
}

var errVote = errors.New("vote is silently wrong")

// change edits the file beneath the log.
func change(t *testing.T, cfg Config, f func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(cfg.Path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// The log dies at every commit of a long DeleteRange; what is left has no hole,
// and a failed log acknowledges nothing.
func TestFailedCommit(t *testing.T) {
	const n = 3*deleteChunk + 10
	boom := errors.New("disk on fire")
	rows := []struct {
		name   string
		lo, hi uint64
	}{
		{"head", 1, n - 5},
		{"tail", 6, n},
		{"all", 1, n},
	}
	for _, row := range rows {
		for dieAt := range 4 {
			t.Run(fmt.Sprintf("%s, commit %d", row.name, dieAt), func(t *testing.T) {
				told := make(chan error, 10)
				cfg := Config{Path: filepath.Join(t.TempDir(), "raft.db"), NodeID: "d", OnFatal: func(err error) { told <- err }}
				l, err := OpenBolt(cfg)
				if err != nil {
					t.Fatal(err)
				}
				commits := -1
				l.w.failpoint = func() error {
					if commits++; commits > dieAt { // the first one stores
						return boom
					}
					return nil
				}
				s, err := l.Open(testID)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.StoreLogs(testEntries(1, n)); err != nil {
					t.Fatal(err)
				}
				if err := s.DeleteRange(row.lo, row.hi); !errors.Is(err, boom) {
					t.Fatalf("failed delete: got %v", err)
				}
				_, lastErr := s.LastIndex()
				_, getErr := s.Get([]byte("k"))
				_, openErr := l.Open(GroupID{1, 1})
				_, groupsErr := l.Groups()
				for name, err := range map[string]error{
					"store": s.StoreLogs(testEntries(1, 1)), "set": s.SetUint64([]byte("k"), 1), "last": lastErr, "get": getErr,
					"log": s.GetLog(1, new(raft.Log)), "open": openErr, "groups": groupsErr, "remove": l.Remove(GroupID{1, 1}),
				} {
					if !errors.Is(err, boom) {
						t.Errorf("%s after the failure: got %v", name, err)
					}
				}
				if err := errors.Join(s.Close(), l.Close()); err != nil {
					t.Fatal(err)
				}
				if len(told) != 1 {
					t.Errorf("OnFatal was called %d times", len(told))
				}
				wantWhole(t, cfg, n-dieAt*deleteChunk)
			})
		}
	}
}

// wantWhole reopens the log and wants so many entries without a hole.
func wantWhole(t *testing.T, cfg Config, entries int) {
	t.Helper()
	l, err := OpenBolt(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Open(testID)
	if err != nil {
		t.Fatal(err)
	}
	h := s.(*boltStore).getHead()
	if h.entries != uint64(entries) || !h.dense() {
		t.Errorf("after the crash: got %+v, want %d entries without a hole", h, entries)
	}
	for index := h.first; index <= h.last; index++ {
		var got raft.Log
		if err := s.GetLog(index, &got); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	good, err := encodeEntry(testID, &raft.Log{Index: 9, Term: 3, Type: raft.LogNoop, Data: []byte("data"), Extensions: []byte("ext")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good[:20], true)
	f.Add([]byte(nil), false)
	f.Fuzz(func(t *testing.T, b []byte, reseal bool) {
		if reseal && len(b) >= sealSize {
			b = seal(domainLog, testID, indexKey(9), append([]byte(nil), b...))
		}
		var got raft.Log
		if err := decodeEntry(testID, 9, b, &got); err != nil {
			var damaged *CorruptError
			if !errors.As(err, &damaged) || damaged.Index != 9 || damaged.Group != testID {
				t.Fatalf("got %v, want a CorruptError that names the entry", err)
			}
			if got.Index != 0 {
				t.Fatalf("an error filled in %+v", got)
			}
			return
		}
		again, err := encodeEntry(testID, &got)
		if err != nil || string(again) != string(b) {
			t.Fatalf("decoded and encoded again: %x, %v, was %x", again, err, b)
		}
	})
}

func TestTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("allocates 1 GiB of address space")
	}
	_, err := encodeEntry(testID, &raft.Log{Index: 1, Data: make([]byte, maxRecord), Extensions: []byte{1}})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestGroupID(t *testing.T) {
	id := GroupID{Store: 1<<63 + 5, Incarnation: 2}
	if got := groupIDFrom(id.bytes()); got != id {
		t.Errorf("got %v, want %v", got, id)
	}
	if got, want := testID.String(), "7-1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if binary.BigEndian.Uint64(id.bytes()) != id.Store {
		t.Error("groups do not sort by store")
	}
}
