package stores

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// heldEntry is an entry that is committed when the test says so.
type heldEntry struct {
	appends int
	commit  chan struct{}
}

func (e *heldEntry) Wait() (any, error) {
	<-e.commit
	return fsm.Result{Append: make([]fsm.AppendResult, e.appends)}, nil
}

// heldDoor is a door whose entries wait for the test.
type heldDoor struct {
	*door
	entries  chan *heldEntry
	answered sync.WaitGroup
	mu       sync.Mutex
	order    []int // of answers
}

func newHeldDoor() *heldDoor {
	d := &heldDoor{entries: make(chan *heldEntry, 64)}
	d.door = newDoor(&Store{spec: Spec{Name: "orders"}}, func(raw []byte) (proposal, error) {
		cmds, err := fsm.Decode(raw)
		if err != nil {
			return nil, err
		}
		e := &heldEntry{appends: len(cmds), commit: make(chan struct{})}
		d.entries <- e
		return e, nil
	})
	return d
}

// come lets n appends of so many bytes enter, numbered from first.
func (d *heldDoor) come(t *testing.T, first, n, size int) {
	t.Helper()
	d.answered.Add(n)
	for i := first; i < first+n; i++ {
		cmd := fsm.Append{Stream: "s", Expected: api.ExpectAny, Events: []fsm.EventRecord{{ID: fmt.Sprint(i), Type: "T", Data: make([]byte, size)}}}
		d.enter(&pending{body: cmd.Body(), stream: "s", done: func(_ any, err *api.Error) {
			if err != nil {
				t.Error(err)
			}
			d.mu.Lock()
			d.order = append(d.order, i)
			d.mu.Unlock()
			d.answered.Done()
		}})
	}
}

// next is the entry that was proposed, which must be there by now.
func (d *heldDoor) next(t *testing.T, appends int) *heldEntry {
	t.Helper()
	select {
	case e := <-d.entries:
		if e.appends != appends {
			t.Fatalf("an entry of %d appends, want %d", e.appends, appends)
		}
		return e
	default:
		t.Fatalf("no entry, want one of %d appends", appends)
		return nil
	}
}

// gathers says that nothing was proposed.
func (d *heldDoor) gathers(t *testing.T) {
	t.Helper()
	if len(d.entries) > 0 {
		t.Fatalf("an entry of %d appends, want none yet", (<-d.entries).appends)
	}
}

func TestDoorGathers(t *testing.T) {
	d := newHeldDoor()
	d.come(t, 0, 1, 100)
	first := d.next(t, 1) // alone, at once
	d.come(t, 1, worthCommands-1, 100)
	d.gathers(t) // not worth a round beside the first
	d.come(t, worthCommands, 1, 100)
	second := d.next(t, worthCommands)
	d.come(t, worthCommands+1, worthCommands+5, 100)
	d.gathers(t) // two are in flight
	close(first.commit)
	third := <-d.entries
	if third.appends != worthCommands+5 {
		t.Fatalf("an entry of %d appends, want all %d that waited", third.appends, worthCommands+5)
	}
	d.come(t, 2*worthCommands+6, 3, 100)
	d.gathers(t)
	close(second.commit) // three are not worth an entry beside the third, which takes them when it is done
	close(third.commit)
	close((<-d.entries).commit)
	d.answered.Wait()
	d.close()
	d.gathers(t)
	if got := len(d.order); got != 2*worthCommands+9 {
		t.Errorf("%d answers", got)
	}
}

// A few large appends are worth an entry too, and an entry has a limit.
func TestDoorCountsBytes(t *testing.T) {
	d := newHeldDoor()
	d.come(t, 0, 1, 1)
	first := d.next(t, 1)
	d.come(t, 1, 1, worthBytes)
	second := d.next(t, 1)
	d.come(t, 2, 3, entryBytes/2)
	close(first.commit)
	third := <-d.entries
	if third.appends != 1 {
		t.Errorf("an entry of %d appends, want 1: two are more than an entry may have", third.appends)
	}
	close(second.commit)
	close(third.commit)
	for d.left() > 0 {
		close((<-d.entries).commit)
	}
	for len(d.entries) > 0 {
		close((<-d.entries).commit)
	}
	d.answered.Wait()
	d.close()
	if d.size != 0 {
		t.Errorf("%d bytes wait at a door where nothing does", d.size)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(d.order, []int{0, 1, 2, 3, 4}) {
		t.Errorf("answers of %v", d.order)
	}
}

func (d *heldDoor) left() int {
	d.door.mu.Lock()
	defer d.door.mu.Unlock()
	return len(d.waiting)
}

// Who is told of a change has been told of those before it: a subscription's progress is with its consumer before what rests on it, though another goroutine answers.
func TestDoorAnswersInOrder(t *testing.T) {
	d := newHeldDoor()
	d.come(t, 0, 1, 1)
	first := d.next(t, 1)
	d.come(t, 1, worthCommands, 1)
	second := d.next(t, worthCommands)
	close(second.commit)
	for range 1000 { // the second entry's goroutine comes to its answers, if it does not wait
		runtime.Gosched()
	}
	close(first.commit)
	d.answered.Wait()
	d.close()
	if !slices.IsSorted(d.order) {
		t.Errorf("answers in the order %v", d.order)
	}
}
