package node

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	for _, row := range []struct {
		lives uint64
		want  int
	}{{0, mostPercent}, {1 << 20, mostPercent}, {16 << 20, 400}, {32 << 20, 200}, {64 << 20, 100}, {1 << 30, 100}} {
		if got := gcPercent(row.lives); got != row.want {
			t.Errorf("with %d bytes alive: %d, want %d", row.lives, got, row.want)
		}
	}
	if scanned() == 0 {
		t.Error("the runtime does not say what lives: its metrics have other names now")
	}
}

// What lives grows, and the percentage follows with the next collections.
func TestGCPercentFollows(t *testing.T) {
	before := debug.SetGCPercent(mostPercent)
	defer debug.SetGCPercent(before)
	retuneGC(mostPercent)
	kept := make([]byte, 2*headroom)
	deadline := time.Now().Add(20 * time.Second)
	for {
		runtime.GC()
		got := debug.SetGCPercent(leastPercent)
		debug.SetGCPercent(got)
		if got == leastPercent {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with %d MB alive the percentage is %d, want %d", len(kept)>>20, got, leastPercent)
		}
	}
	runtime.KeepAlive(kept)
}
