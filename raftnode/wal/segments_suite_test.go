package wal_test

import (
	"testing"

	"github.com/quorate/quorate/raftnode/wal"
	"github.com/quorate/quorate/raftnode/wal/waltest"
)

func TestSegmentLog(t *testing.T) {
	waltest.Run(t, func(dir string) (wal.Log, error) { return wal.OpenSegments(config(dir)) })
}

// Segments so small that every few writes one is settled.
func TestSmallSegments(t *testing.T) {
	waltest.Run(t, func(dir string) (wal.Log, error) {
		cfg := config(dir)
		cfg.SegmentSize = 8 << 10
		return wal.OpenSegments(cfg)
	})
}
