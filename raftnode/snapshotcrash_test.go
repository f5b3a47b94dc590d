package raftnode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// savedLines is a machine in a faultFolder that keeps to a Machine's contract and to no more: what it applies is in memory until a snapshot is persisted, and on the disk when
// Restore returns.
type savedLines struct {
	*lines
	dir *faultFolder
}

const stateFile = "state"

func openSaved(dir *faultFolder) (*savedLines, error) {
	m := &savedLines{&lines{changed: make(chan struct{})}, dir}
	if err := dir.Remove(stateFile + tmpSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	raw, err := readFile(dir, stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &m.state)
	}
	return m, err
}

func (m *savedLines) flush() error { return writeJSON(m.dir, stateFile, m.state) }

func (m *savedLines) Snapshot() (raft.FSMSnapshot, error) { return savedSnapshot{m}, nil }

type savedSnapshot struct{ m *savedLines }

func (s savedSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.m.flush(); err != nil {
		return err
	}
	return sink.Close()
}

func (s savedSnapshot) Release() {}

// Restore ignores a state that is older than the present one.
func (m *savedLines) Restore(rc io.ReadCloser) error {
	got := &lines{changed: make(chan struct{}), refuse: m.refuse}
	if err := got.Restore(rc); err != nil {
		return err
	}
	if got.state.Index < m.state.Index {
		return nil
	}
	m.state = got.state
	return m.flush()
}

// upTo is the state of which n entries are applied.
func upTo(n uint64) (text []string) {
	for i := range n {
		text = append(text, fmt.Sprint("entry ", i+1))
	}
	return text
}

// life is what a process has of a group.
type life struct {
	dir       *faultFolder
	machine   *savedLines
	snapshots *snapshotStore
	group     *groupMachine
	t         testing.TB
	acked     uint64 // the newest snapshot that raft was told is there; its log may be cut there
	tried     uint64 // the newest one that was begun
}

func begin(t testing.TB, dir *faultFolder, acked, tried uint64) (*life, error) {
	m, err := openSaved(dir)
	if err != nil {
		return nil, fmt.Errorf("the machine's state: %w", err)
	}
	s, err := openSnapshotsIn(dir, m)
	if err != nil {
		return nil, err
	}
	return &life{dir, m, s, &groupMachine{Machine: m, logs: raft.NewInmemStore(), snapshots: s}, t, acked, tried}, nil
}

// own takes a snapshot that ends at index, which is no command, and applies two more entries before it is written.
func (l *life) own(index uint64) error {
	l.tried = max(l.tried, index)
	apply := func(to uint64) {
		for i := l.machine.state.Index + 1; i <= to; i++ {
			l.machine.Apply(&raft.Log{Index: i, Term: 1, Data: []byte(fmt.Sprint("entry ", i))})
		}
	}
	apply(index - 1)
	snapshot, err := l.group.Snapshot()
	if err != nil {
		return err
	}
	apply(index + 1)
	k, err := l.snapshots.Create(raft.SnapshotVersionMax, index, 1, threeMembers, 1, nil)
	if err != nil {
		return err
	}
	if err := snapshot.Persist(k); err != nil {
		return errors.Join(err, k.Cancel())
	}
	if err := k.Close(); err != nil {
		return err
	}
	l.acked = index
	return nil
}

// receive takes a leader's snapshot that ends at index.
func (l *life) receive(index uint64) (raft.SnapshotSink, error) {
	l.tried = max(l.tried, index)
	k, err := l.snapshots.Create(raft.SnapshotVersionMax, index, 1, threeMembers, 1, nil)
	if err != nil {
		return nil, err
	}
	raw := streamOf(l.t, index-1, 1, upTo(index-1)...)
	for chunk := range slices.Chunk(raw, len(raw)/3+1) {
		if _, err := k.Write(chunk); err != nil {
			return nil, errors.Join(err, k.Cancel())
		}
	}
	return k, nil
}

// install is what raft does with the snapshot that it is sent.
func (l *life) install(index uint64) error {
	k, err := l.receive(index)
	if err != nil {
		return err
	}
	if err := k.Close(); err != nil {
		return err
	}
	l.acked = index
	_, rc, err := l.snapshots.Open(k.ID())
	if err != nil {
		return err
	}
	return l.group.Restore(rc)
}

var errFull = errors.New("no space left on device")

// snapshotScenario is what a replica that is often far behind goes through.
var snapshotScenario = []func(*life) error{
	func(l *life) error { return l.own(4) },
	func(l *life) error { return l.own(7) },
	func(l *life) error { return l.install(11) },
	func(l *life) error { return l.install(15) },
	func(l *life) error { // a transfer that breaks off
		k, err := l.receive(17)
		if err != nil {
			return err
		}
		return k.Cancel()
	},
	func(l *life) error { return l.own(18) },
	func(l *life) error { // one that cannot be restored
		l.machine.refuse = errFull
		defer func() { l.machine.refuse = nil }()
		if err := l.install(21); !errors.Is(err, errFull) {
			return fmt.Errorf("install without space: %w", err)
		}
		return nil
	},
	func(l *life) error { return l.install(24) }, // so another is sent
	func(l *life) error { return l.own(27) },
}

// sound says what is wrong with a life that has just begun.
func (l *life) sound() error {
	var m marker
	if last := l.snapshots.current(); last != nil {
		m = *last
	}
	applied := l.machine.state.Index
	names, _ := l.dir.List()
	switch {
	case m.Index != l.acked && (m.Index < l.acked || m.Index > l.tried):
		return fmt.Errorf("the marker ends at %d, raft was told of %d, and %d was begun", m.Index, l.acked, l.tried)
	case applied < m.Machine:
		return fmt.Errorf("the machine has applied %d, the marker says %d", applied, m.Machine)
	case applied+1 < m.Index:
		return fmt.Errorf("the machine has applied %d, the marker ends at %d, and the log may begin behind it", applied, m.Index)
	case !slices.Equal(l.machine.all(), upTo(applied)):
		return fmt.Errorf("the machine's state is not that of entry %d: %q", applied, l.machine.all())
	case m.Incoming != "":
		return fmt.Errorf("the marker still names %s", m.Incoming)
	}
	for _, name := range names {
		if name != markerFile && name != stateFile {
			return fmt.Errorf("%s is left behind", name)
		}
	}
	return nil
}

// again begins another life with what the folder was left with, and says what is wrong with it.
func (l *life) again(f fate) (*life, error) {
	next, err := begin(l.t, l.dir.restart(f), l.acked, l.tried)
	if err != nil {
		return nil, err
	}
	return next, next.sound()
}

// survives says what is wrong with what comes after the life, which has ended: with the next one, with the one that follows when that is cut off while it begins, and with its work.
func (l *life) survives(thrice bool) error {
	for i, f := range l.dir.fates() {
		next, err := l.again(f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for second := 0; thrice && i < simpleFates; second++ {
			dir := l.dir.restart(f)
			dir.at, dir.power = second, true
			if _, err := begin(l.t, dir, l.acked, l.tried); err == nil {
				break
			}
			for _, g := range dir.fates() {
				if _, err := (&life{dir: dir, t: l.t, acked: l.acked, tried: l.tried}).again(g); err != nil {
					return fmt.Errorf("%s, and cut again at operation %d of the start, %s: %w", f.name, second, g.name, err)
				}
			}
		}
		if err = next.own(30); err == nil {
			err = next.install(33)
		}
		if err == nil {
			_, err = next.again(next.dir.fates()[0])
		}
		if err != nil {
			return fmt.Errorf("%s: afterwards: %w", f.name, err)
		}
	}
	return nil
}

// cutAt goes through the scenario until the power goes at an operation, and says what is wrong with what is left. over is false when the scenario has fewer.
func cutAt(t testing.TB, at int, thrice bool, deaf func(int) bool) (l *life, over bool, err error) {
	dir := newFaultFolder()
	dir.at, dir.power, dir.deaf = at, true, deaf
	l, err = begin(t, dir, 0, 0)
	if err != nil {
		return l, true, err
	}
	for _, step := range snapshotScenario {
		if err := step(l); err != nil {
			if !errors.Is(err, errPowerCut) {
				return l, true, err
			}
			return l, true, l.survives(thrice)
		}
	}
	return l, false, l.survives(thrice)
}

// The power goes at every operation on the folder, in turn, and in a start afterwards once more.
func TestPowerCutAtEveryStepOfASnapshot(t *testing.T) {
	seen := map[uint64]bool{}
	for at := 0; ; at++ {
		l, over, err := cutAt(t, at, true, nil)
		if err != nil {
			t.Errorf("power cut at operation %d: %v", at, err)
		}
		seen[l.acked] = true
		if !over {
			if at < 100 || len(seen) != 9 {
				t.Errorf("%d cuts, with %d snapshots as the newest: the test has seen too little", at, len(seen))
			}
			return
		}
	}
}

// Every sync of the scenario is needed: without any one of them, a power cut at some operation does harm. So the test above finds it when one is forgotten.
func TestNoSyncOfASnapshotCanBeLeftOut(t *testing.T) {
	whole, _, err := cutAt(t, -1, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for left, first := range whole.dir.syncs {
		harm := false
		for at := first; !harm; at++ {
			_, over, err := cutAt(t, at, false, func(sync int) bool { return sync == left })
			if harm = err != nil; !over {
				break
			}
		}
		if !harm {
			t.Errorf("sync %d of %d was left out, and no power cut did harm", left, len(whole.dir.syncs))
		}
	}
	if n := len(whole.dir.syncs); n < 30 {
		t.Errorf("there are %d syncs: the test has seen too little", n)
	}
}

// An operation fails, each in turn, and the process lives: what raft was told of stays, also when the process dies next, and what failed can be done once more.
func TestEveryStepOfASnapshotMayFail(t *testing.T) {
	for at := 0; ; at++ {
		dir := newFaultFolder()
		dir.at = at
		l, err := begin(t, dir, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, step := range snapshotScenario {
			err := step(l)
			if err != nil {
				if serr := l.survives(false); serr != nil {
					t.Errorf("operation %d failed in step %d (%v), and the process died: %v", at, i, err, serr)
				}
				err = step(l)
			}
			if err != nil {
				t.Fatalf("operation %d failed, and step %d cannot be done again: %v", at, i, err)
			}
		}
		if err := l.survives(false); err != nil {
			t.Errorf("operation %d failed, and after all of the scenario: %v", at, err)
		}
		if !dir.over() {
			return
		}
	}
}

// A snapshot of our own was begun before one was received, and is written after it. Were it the newest, it would end before the log begins, and raft would not start again.
func TestAnOlderSnapshotDoesNotReplaceAReceivedOne(t *testing.T) {
	l, err := begin(t, newFaultFolder(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	late := createSink(t, l.snapshots, 7, 1)
	if err := l.install(11); err != nil {
		t.Fatal(err)
	}
	if err := late.Close(); err == nil || !strings.Contains(err.Error(), "before the newest") {
		t.Errorf("got %v, want a refusal: raft would take 7 for the newest snapshot", err)
	}
	if next, err := l.again(l.dir.fates()[0]); err != nil || next.snapshots.current().Index != 11 {
		t.Errorf("after a restart: %v", err)
	}
}

// The folder of the tests above behaves as the operating system's does, where nothing fails.
func TestFolders(t *testing.T) {
	for name, dir := range map[string]folder{"of the operating system": osFolder(t.TempDir()), "of the tests": newFaultFolder()} {
		t.Run(name, func(t *testing.T) {
			put := func(f file, err error, text string) string {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
				info, err := f.Stat()
				if err := errors.Join(err, f.Sync(), f.Close()); err != nil || info.Size() != int64(len(text)) {
					t.Fatalf("size %v of %d, %v", info, len(text), err)
				}
				return f.Name()[strings.LastIndex(f.Name(), "/")+1:]
			}
			for _, text := range []string{"a long text", "short"} {
				f, err := dir.Create("a")
				put(f, err, text)
			}
			f, err := dir.CreateTemp("in-*.x")
			first := put(f, err, "1")
			f, err = dir.CreateTemp("in-*.x")
			second := put(f, err, "2")
			if first == second || !strings.HasPrefix(first, "in-") || !strings.HasSuffix(second, ".x") {
				t.Errorf("got %s and %s", first, second)
			}
			if err := errors.Join(dir.Rename(first, "b"), dir.Rename("a", "b"), dir.Remove(second), dir.Sync()); err != nil {
				t.Fatal(err)
			}
			if raw, err := readFile(dir, "b"); err != nil || !bytes.Equal(raw, []byte("short")) {
				t.Errorf("got %q, %v", raw, err)
			}
			if names, err := dir.List(); err != nil || !slices.Equal(names, []string{"b"}) {
				t.Errorf("got %v, %v", names, err)
			}
			_, openErr := dir.Open("a")
			for what, err := range map[string]error{"open": openErr, "remove": dir.Remove("a"), "rename": dir.Rename("a", "c")} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: got %v, want fs.ErrNotExist", what, err)
				}
			}
		})
	}
}
