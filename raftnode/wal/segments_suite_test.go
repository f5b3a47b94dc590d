package wal_test

import (
	"testing"

	"github.com/quorate/quorate/raftnode/wal"
	"github.com/quorate/quorate/raftnode/wal/waltest"
)

// Segments that no test fills. The default size is tested where it matters (TestTooLarge, TestOpenSegmentsTakesOver): here every one of some thousand opened logs would
// write and sync so many zeroes, which took three of this package's four minutes under -race.
func TestSegmentLog(t *testing.T) {
	waltest.Run(t, func(dir string) (wal.Log, error) {
		cfg := config(dir)
		cfg.SegmentSize, cfg.Resting = 1<<20, 2
		return wal.OpenSegments(cfg)
	})
}

// Segments so small that every few writes one is settled.
func TestSmallSegments(t *testing.T) {
	waltest.Run(t, func(dir string) (wal.Log, error) {
		cfg := config(dir)
		cfg.SegmentSize, cfg.Resting = 8<<10, 2
		return wal.OpenSegments(cfg)
	})
}
