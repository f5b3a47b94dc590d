package node

import (
	"runtime/debug"
	"time"
)

// A process that has become quiet gives what it does not use back to the operating system. headroom lets garbage gather, and the runtime keeps a tenth more than it lets gather; both are good for a
// process that works, and after its last burst of work they stay: a node with a thousand stores that rest held 50 MB for nothing. It costs one collection, and page faults when work comes again, so it is
// done once the process has been quiet for a while, and only when it is worth it.
const (
	quietLook   = 10 * time.Second
	quietLooks  = 2        // in a row that find the process quiet
	quietBytes  = 4 << 20  // allocated between two looks at most
	worthGiving = 16 << 20 // bytes
)

// heap is what the runtime says of it, in bytes.
type heap struct {
	allocated uint64 // since the start
	live      uint64 // found by the last collection
	objects   uint64 // live, and garbage since then
	free      uint64 // held for objects to come
}

func readHeap() heap {
	v := readMetrics("/gc/heap/allocs:bytes", "/gc/heap/live:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/free:bytes")
	return heap{v[0], v[1], v[2], v[3]}
}

// quiet follows how much a process allocates.
type quiet struct {
	allocated uint64
	looks     int
}

// due takes a look, and reports whether memory should be given back.
func (q *quiet) due(h heap) bool {
	if h.allocated-q.allocated > quietBytes {
		q.looks = 0
	} else {
		q.looks++
	}
	q.allocated = h.allocated
	return q.looks >= quietLooks && h.free+h.objects-min(h.live, h.objects) >= worthGiving
}

// giveBack looks after the process's memory, until the process ends.
func giveBack() {
	q := quiet{allocated: readHeap().allocated}
	for range time.Tick(quietLook) {
		if q.due(readHeap()) {
			debug.FreeOSMemory()
		}
	}
}
