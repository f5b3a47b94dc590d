package wal_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/quorate/quorate/raftnode/wal"
	"github.com/quorate/quorate/raftnode/wal/waltest"
)

func config(dir string) wal.Config {
	return wal.Config{Path: filepath.Join(dir, "raft.db"), NodeID: "disk-1"}
}

func TestBoltLog(t *testing.T) {
	waltest.Run(t, func(dir string) (wal.Log, error) { return wal.OpenBolt(config(dir)) })
}

func TestOpenBoltRefuses(t *testing.T) {
	rows := []struct {
		name    string
		prepare func(t *testing.T, dir string, cfg *wal.Config)
		want    error
	}{
		{"another node's file", func(t *testing.T, dir string, cfg *wal.Config) {
			closeLog(t, openLog(t, *cfg))
			cfg.NodeID = "disk-2"
		}, wal.ErrWrongNode},
		{"a missing file that must exist", func(t *testing.T, dir string, cfg *wal.Config) {
			cfg.MustExist = true
		}, fs.ErrNotExist},
		{"an empty file that must hold a log", func(t *testing.T, dir string, cfg *wal.Config) {
			cfg.MustExist = true
			if err := os.WriteFile(cfg.Path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, wal.ErrCorrupt},
		{"a file in use", func(t *testing.T, dir string, cfg *wal.Config) {
			l := openLog(t, *cfg)
			t.Cleanup(func() { closeLog(t, l) })
		}, wal.ErrLocked},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := config(dir)
			row.prepare(t, dir, &cfg)
			l, err := wal.OpenBolt(cfg)
			if !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			if err == nil {
				closeLog(t, l)
			}
			if errors.Is(row.want, fs.ErrNotExist) {
				if _, err := os.Stat(cfg.Path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the refusal made the file: %v", err)
				}
			}
		})
	}
	for _, cfg := range []wal.Config{{NodeID: "n"}, {Path: "p"}} {
		if _, err := wal.OpenBolt(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestGarbageFileIsRefused(t *testing.T) {
	cfg := config(t.TempDir())
	if err := os.WriteFile(cfg.Path, make([]byte, 40_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := wal.OpenBolt(cfg); err == nil {
		t.Error("a file of zeroes was accepted")
	}
}

func openLog(t *testing.T, cfg wal.Config) *wal.BoltLog {
	t.Helper()
	l, err := wal.OpenBolt(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t *testing.T, l wal.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A DeleteRange of many pieces lets other groups write in between.
func TestLargeDeleteRange(t *testing.T) {
	l := openLog(t, config(t.TempDir()))
	defer closeLog(t, l)
	a, err := l.Open(wal.GroupID{Store: 1, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Open(wal.GroupID{Store: 2, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	const n = 30_000
	if err := a.StoreLogs(waltest.Entries(1, n, 1)); err != nil {
		t.Fatal(err)
	}
	before := l.Stats().Batches
	done := make(chan error, 1)
	go func() { done <- a.DeleteRange(1, n-10) }()
	between := 0
	for index := uint64(1); ; index++ {
		if err := b.StoreLogs(waltest.Entries(index, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if first, _ := a.FirstIndex(); first > 1 && first <= n-10 {
			between++
			var got raft.Log
			if err := a.GetLog(n, &got); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		default:
			continue
		}
		break
	}
	if between == 0 {
		t.Error("no write of another group got in between")
	}
	if pieces := l.Stats().Batches - before; pieces < n/5000 {
		t.Errorf("%d entries were deleted in %d batches", n, pieces)
	}
	if first, _ := a.FirstIndex(); first != n-9 {
		t.Errorf("first index: got %d, want %d", first, n-9)
	}
}
