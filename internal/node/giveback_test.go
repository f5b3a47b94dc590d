package node

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestMemoryIsGivenBackWhenTheProcessIsQuiet(t *testing.T) {
	const mb = 1 << 20
	q := quiet{}
	for i, row := range []struct {
		name string
		heap heap
		want bool
	}{
		{"it works", heap{allocated: 100 * mb, live: 40 * mb, objects: 90 * mb}, false},
		{"quiet for the first time", heap{allocated: 101 * mb, live: 40 * mb, objects: 91 * mb}, false},
		{"quiet again", heap{allocated: 102 * mb, live: 40 * mb, objects: 92 * mb}, true},
		{"still quiet, with nothing to give", heap{allocated: 103 * mb, live: 40 * mb, objects: 41 * mb, free: mb}, false},
		{"still quiet, and the runtime holds free memory", heap{allocated: 104 * mb, live: 40 * mb, objects: 42 * mb, free: 14 * mb}, true},
		{"it works again", heap{allocated: 110 * mb, live: 40 * mb, objects: 48 * mb, free: 60 * mb}, false},
		{"quiet for the first time since", heap{allocated: 110 * mb, live: 40 * mb, objects: 48 * mb, free: 60 * mb}, false},
		{"more lives than there are objects, as two metrics may say that are not read at once", heap{allocated: 110 * mb, live: 50 * mb, objects: 48 * mb}, false},
	} {
		if got := q.due(row.heap); got != row.want {
			t.Errorf("look %d, %s: due is %v", i, row.name, got)
		}
	}
}

// The figures are those that matter: garbage and what is free show in them, and are gone when memory was given back.
func TestTheHeapThatIsReadIsTheOneThatIsGivenBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // the garbage stays until it is given back
	before := readHeap()
	for range 2 * worthGiving >> 20 {
		runtime.KeepAlive(make([]byte, 1<<20))
	}
	h := readHeap()
	if got := h.allocated - before.allocated; got < 2*worthGiving {
		t.Errorf("%d bytes were allocated, and the runtime says %d", 2*worthGiving, got)
	}
	q := quiet{allocated: h.allocated, looks: quietLooks}
	if !q.due(h) {
		t.Fatalf("nothing is to be given back of %+v", h)
	}
	debug.FreeOSMemory()
	if h := readHeap(); q.due(h) {
		t.Errorf("there is still something to give back of %+v", h)
	}
}
