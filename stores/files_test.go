package stores

import (
	"math"
	"syscall"
	"testing"
)

func TestOpenFilesFollowTheLimit(t *testing.T) {
	for _, c := range []struct {
		descriptors uint64
		want        int
	}{{0, 1}, {256, 128}, {1024, 512}, {4096, 2048}, {1 << 20, 8000}, {math.MaxUint64, 8000}} {
		if got := openFiles(c.descriptors); got != c.want {
			t.Errorf("%d descriptors: got %d, want %d", c.descriptors, got, c.want)
		}
	}
}

// Nothing here raises the limit: the Go runtime does, and a release of it that no longer did would be seen here.
func TestTheSoftLimitIsTheHardOne(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur != limit.Max || descriptorLimit() != limit.Max {
		t.Errorf("soft limit %d, hard limit %d, taken for %d", limit.Cur, limit.Max, descriptorLimit())
	}
}
