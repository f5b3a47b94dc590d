package node

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// headroom is how much garbage may gather before it is collected, in a process where little lives. Go's default collects whenever as much was allocated as
// lives: a node with one busy store keeps 15 MB and would collect some times a second. Where more than headroom lives, the default holds.
const headroom = 64 << 20

const (
	leastPercent = 100 // Go's default
	mostPercent  = 1600
)

var tuneOnce sync.Once

// tuneGC keeps the process's GOGC at what headroom wants, after every collection anew, and has what is not used given back while the process is quiet. It does nothing when the environment sets GOGC. Nodes of one process share it.
func tuneGC() {
	tuneOnce.Do(func() {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(mostPercent)
			retuneGC(mostPercent)
			go giveBack() // ends with the process
		}
	})
}

// collected is an object that nothing holds: its cleanup tells of a collection.
type collected struct{ _ *collected }

// retuneGC sets the percentage after the next collection, and so on. It holds no goroutine.
func retuneGC(now int) {
	runtime.AddCleanup(new(collected), func(int) {
		next := gcPercent(scanned())
		if math.Abs(float64(next-now)) > float64(now)/8 { // setting it stops the world for a moment
			debug.SetGCPercent(next)
			now = next
		}
		retuneGC(now)
	}, 0)
}

// gcPercent is what lets headroom gather on top of what lives.
func gcPercent(lives uint64) int {
	return int(max(leastPercent, min(mostPercent, headroom*100/max(lives, 1))))
}

// scanned is what GOGC is a percentage of: what the last collection found alive, and what it looked through besides.
func scanned() (sum uint64) {
	for _, v := range readMetrics("/gc/heap/live:bytes", "/gc/scan/stack:bytes", "/gc/scan/globals:bytes") {
		sum += v
	}
	return sum
}

// readMetrics returns what the runtime says; 0 for what it does not know.
func readMetrics(names ...string) []uint64 {
	s, values := make([]metrics.Sample, len(names)), make([]uint64, len(names))
	for i, name := range names {
		s[i].Name = name
	}
	metrics.Read(s)
	for i := range s {
		if s[i].Value.Kind() == metrics.KindUint64 {
			values[i] = s[i].Value.Uint64()
		}
	}
	return values
}
