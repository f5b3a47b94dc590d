package fsm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
)

// openStateFiles lists the descriptors that this process has of state files below dir.
func openStateFiles(t *testing.T, dir string) (open []string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	for _, fd := range list {
		name, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err == nil && strings.HasPrefix(name, dir) && filepath.Ext(name) == ".db" {
			open = append(open, fd.Name()+" "+name)
		}
	}
	return open
}

// tooManyOpen lists the open state files when they are more than places. A list that was made while files come and go may have one that was closed beside
// one that was opened for it, so what counts is that several lists are the same.
func tooManyOpen(t *testing.T, dir string, places int) []string {
	t.Helper()
	open := openStateFiles(t, dir)
	for range 3 {
		if len(open) <= places || !slices.Equal(open, openStateFiles(t, dir)) {
			return nil
		}
	}
	return open
}

// openMany opens machines in one folder.
func openMany(t *testing.T, shared *Shared, n int) (machines []*FSM, dir string) {
	t.Helper()
	dir = t.TempDir()
	for i := range n {
		machines = append(machines, openShared(t, shared, func(cfg *Config) { cfg.Path = filepath.Join(dir, fmt.Sprintf("%d.db", i)) }))
	}
	return machines, dir
}

func resting(machines []*FSM) (list []bool) {
	for _, f := range machines {
		list = append(list, f.Resting())
	}
	return list
}

// However many machines are in use at once, no more files are open than there are places, and everybody is served.
func TestOpenFilesAreBounded(t *testing.T) {
	const places = 3
	machines, dir := openMany(t, NewShared(Bounds{Flushes: 2, Files: places, Unflushed: 1 << 30}), 12)
	var workers sync.WaitGroup
	var writes atomic.Int64
	for i, f := range machines {
		workers.Go(func() {
			for index := uint64(1); index <= 30; index++ {
				got := f.ApplyBatch([]*raft.Log{entry(index, cmd("s", int64(index)-2, fmt.Sprint(index)))})
				if r, ok := got[0].(Result); !ok || r.Append[0].Err != nil {
					t.Errorf("machine %d, entry %d: %v", i, index, got[0])
					return
				}
				writes.Add(1)
				page, err := f.ReadAll(AllQuery{Limit: 100, MaxBytes: 1 << 20})
				if err != nil || len(page.Events) != int(index) {
					t.Errorf("machine %d: %d events, %v; want %d", i, len(page.Events), err, index)
				}
				if index%10 == 0 {
					if err := f.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }() // ends with the workers
	for looks := 0; ; looks++ {
		if open := tooManyOpen(t, dir, places); open != nil {
			t.Errorf("%d files are open, want %d at most: %v", len(open), places, open)
			<-done
		}
		select {
		case <-done:
			if writes.Load() != 12*30 || looks == 0 {
				t.Errorf("%d entries, %d looks", writes.Load(), looks)
			}
			for _, f := range machines {
				if err := f.Verify(); err != nil {
					t.Error(err)
				}
			}
			return
		default:
		}
	}
}

// The machine that was used the least recently rests for one that wakes; one that is in use does not, and one that has something to flush is flushed.
func TestWhoRestsForAnother(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 3, Unflushed: 1 << 30})
	machines, _ := openMany(t, shared, 4)
	read := func(f *FSM) {
		t.Helper()
		if _, err := f.ReadAll(AllQuery{Limit: 1}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, rest ...bool) {
		t.Helper()
		if got := resting(machines); fmt.Sprint(got) != fmt.Sprint(rest) {
			t.Fatalf("%s: resting %v, want %v", what, got, rest)
		}
	}
	want("opened in turn", true, false, false, false)
	read(machines[1])
	read(machines[0])
	want("1 was used after 2", false, false, true, false)
	machines[3].hookView = func() {
		machines[3].hookView = nil
		read(machines[2])
		want("3 is the oldest and is being read", false, true, false, false)
	}
	read(machines[3])
	for _, i := range []int{0, 2, 3} {
		apply(t, machines[i], cmd("s", -2, "a"))
	}
	read(machines[1])
	rest := 0
	for i, f := range machines { // since nobody woke in between, the three count as used at the same time
		if f.Resting() {
			rest++
			if f.unsynced() != 0 {
				t.Errorf("%d rests and was not flushed", i)
			}
		}
	}
	if rest != 1 {
		t.Errorf("%d machines rest, want 1: all had something to flush", rest)
	}
}

// When every machine is in use, the one that wakes waits until one is left, and not longer.
func TestWakeWaitsForAMachineThatIsLeft(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 1, Unflushed: 1 << 30})
	machines, dir := openMany(t, shared, 2) // the second one has the place
	reading, proceed := make(chan struct{}), make(chan struct{})
	machines[1].hookView = func() { close(reading); <-proceed }
	errs := make(chan error, 2)
	read := func(f *FSM) {
		_, err := f.ReadAll(AllQuery{Limit: 1})
		errs <- err
	}
	go read(machines[1]) // ends when told to proceed
	<-reading
	go read(machines[0]) // ends after it
	waitFor(t, "somebody waits", shared.waiting.Load)
	if open := openStateFiles(t, dir); len(open) != 1 {
		t.Errorf("open are %v, want 1", open)
	}
	close(proceed)
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := fmt.Sprint(resting(machines)); got != "[false true]" {
		t.Errorf("resting: %v", got)
	}
}

// Machines that are only opened, at the same time, do not wait for one another's first use.
func TestOpeningDoesNotWaitForUse(t *testing.T) {
	for range 20 {
		shared := NewShared(Bounds{Flushes: 1, Files: 1, Unflushed: 1 << 30})
		var wg sync.WaitGroup
		for range 4 {
			cfg := testConfig(filepath.Join(t.TempDir(), "state.db"))
			cfg.Shared = shared
			wg.Go(func() {
				f, err := Open(cfg)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { f.Close() })
			})
		}
		wg.Wait()
		if shared.taken != 1 {
			t.Fatalf("%d places are taken, want 1", shared.taken)
		}
	}
}

// The machine that all others wait for does not wait for a place.
func TestPriorWaitsForNoPlace(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 1, Unflushed: 1 << 30})
	f := openShared(t, shared)
	f.hookView = func() {
		prior := openShared(t, shared, func(cfg *Config) { cfg.Prior, cfg.OnDirty = true, nil })
		apply(t, prior, cmd("s", -2, "a"))
	}
	if _, err := f.ReadAll(AllQuery{Limit: 1}); err != nil {
		t.Fatal(err)
	}
}

// Places are given back by whoever closes, fails to open, or replaces a file, and a machine that rested keeps its own when its state is replaced.
func TestPlacesAreGivenBack(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 2, Unflushed: 1 << 30})
	f := openShared(t, shared)
	taken := func(want int) {
		t.Helper()
		if shared.taken != want || len(shared.open) != want {
			t.Fatalf("%d places are taken, %d machines are open, want %d", shared.taken, len(shared.open), want)
		}
	}
	taken(1)
	other := testConfig(f.cfg.Path)
	other.Store, other.Shared = other.Store+1, shared
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	taken(0)
	if _, err := Open(other); err == nil {
		t.Fatal("a file of another store was opened")
	}
	taken(0)
	source, target := openShared(t, shared), openShared(t, shared)
	apply(t, source, cmd("s", -2, "a"))
	stream := func() io.ReadCloser {
		_, _, _, rc, err := source.OpenSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		rc.Close()
		return io.NopCloser(bytes.NewReader(b))
	}
	first := stream()
	for _, rest := range []bool{true, false} {
		if rest {
			if ok, err := target.Rest(); !ok || err != nil {
				t.Fatal(err)
			}
		}
		if err := target.Restore(first); err != nil {
			t.Fatal(err)
		}
		read, err := target.ReadAll(AllQuery{Limit: 1})
		if err != nil || len(read.Events) != 1 {
			t.Fatalf("%d events, %v", len(read.Events), err)
		}
		if source.Resting() { // it did for the received file, when the target's own was open
			taken(1)
		} else {
			taken(2)
		}
		apply(t, source, cmd("s", -2, fmt.Sprint(rest)))
		first = stream()
	}
	if err := target.Restore(io.NopCloser(bytes.NewReader([]byte("no state at all, and long enough for a trailer")))); err == nil {
		t.Fatal("restored")
	}
	source.Close()
	target.Close()
	taken(0)
}

// Where the process has no descriptor left, a machine that wakes makes another rest, also one that has something to flush.
func TestWakeWithoutDescriptors(t *testing.T) {
	shared := NewShared(Bounds{Flushes: 1, Files: 100, Unflushed: 1 << 30})
	machines, _ := openMany(t, shared, 3)
	if ok, err := machines[0].Rest(); !ok || err != nil {
		t.Fatal(err)
	}
	apply(t, machines[1], cmd("s", -2, "a"))
	apply(t, machines[2], cmd("s", -2, "a"))
	exhaustDescriptors(t)
	if res := apply(t, machines[0], cmd("s", -2, "a")); res[0].Err != nil {
		t.Fatal(res[0].Err)
	}
	rest := 0
	for _, f := range machines {
		if f.Resting() {
			rest++
		}
	}
	if rest != 1 || machines[0].Resting() {
		t.Errorf("resting: %v, want one of the last two", resting(machines))
	}
}

// exhaustDescriptors takes all descriptors that this process may have, until the end of the test.
func exhaustDescriptors(t *testing.T) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	few := before
	few.Cur = uint64(len(list) + 32)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
		for _, f := range files {
			f.Close()
		}
	})
	for {
		f, err := os.Open(os.DevNull)
		if noDescriptor(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
}
