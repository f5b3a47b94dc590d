package raftnode

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

var threeMembers = raft.Configuration{Servers: []raft.Server{{ID: "n1~a", Address: "n1~a"}, {ID: "n2~b", Address: "n2~b"}, {ID: "n3~c", Address: "n3~c"}}}

func openStore(t *testing.T, dir string, m Machine) *snapshotStore {
	t.Helper()
	s, err := openSnapshots(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func createSink(t *testing.T, s *snapshotStore, index, term uint64, chunks ...[]byte) raft.SnapshotSink {
	t.Helper()
	k, err := s.Create(raft.SnapshotVersionMax, index, term, threeMembers, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		if n, err := k.Write(c); err != nil || n != len(c) {
			t.Fatalf("wrote %d of %d: %v", n, len(c), err)
		}
	}
	return k
}

func TestASnapshotOfOurOwnIsAMarker(t *testing.T) {
	dir := t.TempDir()
	m := openLines(t, "")
	m.state = linesState{Index: 7, Term: 2, Lines: []string{"a"}}
	s := openStore(t, dir, m)
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v, want no snapshot", list, err)
	}
	if _, err := (&groupMachine{Machine: m, logs: raft.NewInmemStore(), snapshots: s}).Snapshot(); err != nil { // as raft does before it asks for the marker
		t.Fatal(err)
	}
	if err := createSink(t, s, 9, 3).Close(); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*snapshotStore{"at once": s, "after a restart": openStore(t, dir, m)} {
		t.Run(name, func(t *testing.T) {
			list, err := s.List()
			if err != nil || len(list) != 1 || list[0].Index != 9 || list[0].Term != 3 || len(list[0].Configuration.Servers) != 3 || list[0].ConfigurationIndex != 1 {
				t.Fatalf("got %+v, %v", list, err)
			}
			if got := s.current(); got.Machine != 7 || got.Incoming != "" {
				t.Fatalf("got %+v, want the machine at 7 and nothing incoming", got)
			}
			meta, rc, err := s.Open(list[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			raw, _ := io.ReadAll(rc)
			if int64(len(raw)) != meta.Size || !slices.Equal(raw, streamOf(t, 7, 2, "a")) {
				t.Fatalf("got %d bytes, meta says %d", len(raw), meta.Size)
			}
			if _, _, err := s.Open("1-1"); err == nil {
				t.Fatal("got a snapshot that never was")
			}
		})
	}
	if exists(dir, incomingPattern) || m.restored() != 0 {
		t.Error("a marker copies or restores the state")
	}
}

func TestAReceivedSnapshotBecomesAMarkerOnceRestored(t *testing.T) {
	dir := t.TempDir()
	m := openLines(t, "")
	s := openStore(t, dir, m)
	raw := streamOf(t, 20, 4, "a", "b")
	if err := createSink(t, s, 21, 4, raw[:5], raw[5:]).Close(); err != nil {
		t.Fatal(err)
	}
	list, _ := s.List()
	if len(list) != 1 || list[0].Size != int64(len(raw)) {
		t.Fatalf("got %+v, want size %d", list, len(raw))
	}
	_, rc, err := s.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&groupMachine{Machine: m, logs: raft.NewInmemStore(), snapshots: s}).Restore(rc); err != nil {
		t.Fatal(err)
	}
	if got := s.current(); got.Incoming != "" || got.Machine != 20 || got.Index != 21 {
		t.Fatalf("got %+v, want a marker at 21 with the machine at 20", got)
	}
	if exists(dir, incomingPattern) {
		t.Error("the received file is left behind")
	}
	if !slices.Equal(m.all(), []string{"a", "b"}) {
		t.Errorf("got %v", m.all())
	}
}

// Each row is what a crash leaves behind, and what the next open makes of it.
func TestSnapshotCrashPoints(t *testing.T) {
	raw := streamOf(t, 20, 4, "new")
	rows := []struct {
		name    string
		crash   func(t *testing.T, s *snapshotStore, dir string)
		lines   []string
		index   uint64 // of the marker; 0: none
		restore int    // how often the machine restored at open
	}{
		{"while the bytes arrive", func(t *testing.T, s *snapshotStore, dir string) { createSink(t, s, 21, 4, raw[:10]) }, []string{"old"}, 0, 0},
		{"after the last byte, before the marker", func(t *testing.T, s *snapshotStore, dir string) { createSink(t, s, 21, 4, raw) }, []string{"old"}, 0, 0},
		{"after the marker, before the restore", func(t *testing.T, s *snapshotStore, dir string) {
			if err := createSink(t, s, 21, 4, raw).Close(); err != nil {
				t.Fatal(err)
			}
		}, []string{"new"}, 21, 1},
		{"in the restore, which a close cut off", func(t *testing.T, s *snapshotStore, dir string) {
			if err := createSink(t, s, 21, 4, raw).Close(); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(incoming(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			closing := make(chan struct{})
			close(closing)
			if err := (&groupMachine{Machine: s.machine, logs: raft.NewInmemStore(), snapshots: s, closing: closing}).Restore(f); !errors.Is(err, ErrClosed) {
				t.Fatalf("got %v", err)
			}
		}, []string{"new"}, 21, 1},
		{"after the restore, before the second marker", func(t *testing.T, s *snapshotStore, dir string) {
			if err := createSink(t, s, 21, 4, raw).Close(); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(incoming(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.machine.Restore(f); err != nil {
				t.Fatal(err)
			}
		}, []string{"new"}, 21, 1},
		{"after the second marker, before the received file is removed", func(t *testing.T, s *snapshotStore, dir string) {
			if err := createSink(t, s, 21, 4, raw).Close(); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(incoming(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := (&groupMachine{Machine: s.machine, logs: raft.NewInmemStore(), snapshots: s}).Restore(f); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "incoming-7.snap"), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"new"}, 21, 0},
		{"cancelled", func(t *testing.T, s *snapshotStore, dir string) {
			if err := createSink(t, s, 21, 4, raw).Cancel(); err != nil {
				t.Fatal(err)
			}
			if exists(dir, incomingPattern) {
				t.Fatal("the received file is left behind")
			}
		}, []string{"old"}, 0, 0},
		{"a marker of our own was cancelled", func(t *testing.T, s *snapshotStore, dir string) {
			if err := createSink(t, s, 21, 4).Cancel(); err != nil {
				t.Fatal(err)
			}
		}, []string{"old"}, 0, 0},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state")
			m := openLines(t, path)
			m.state = linesState{Index: 3, Term: 1, Lines: []string{"old"}}
			m.save()
			r.crash(t, openStore(t, dir, m), dir)
			m = openLines(t, path)
			s := openStore(t, dir, m)
			var index uint64
			if last := s.current(); last != nil {
				index = last.Index
				if last.Incoming != "" {
					t.Error("the marker still says incoming")
				}
			}
			if index != r.index || m.restored() != r.restore || !slices.Equal(m.all(), r.lines) || exists(dir, incomingPattern) {
				t.Fatalf("got marker %d, %d restores, %v, incoming %v; want %d, %d, %v, false",
					index, m.restored(), m.all(), exists(dir, incomingPattern), r.index, r.restore, r.lines)
			}
		})
	}
}

func TestDamagedMarkersAreRefused(t *testing.T) {
	rows := map[string]string{
		"cut off":            `{"format":1,"ind`,
		"empty":              ``,
		"of a newer program": `{"format":2}`,
		"its file is gone":   `{"format":1,"index":5,"term":1,"incoming":"incoming-7.snap","size":3}`,
	}
	for name, text := range rows {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, markerFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := openSnapshots(dir, openLines(t, "")); !errors.Is(err, ErrDamaged) {
				t.Fatalf("got %v, want ErrDamaged", err)
			}
		})
	}
}

// Found by a test: a second transfer wrote into the file that the marker of the first one names, so that a crash (or a Cancel) left
// a marker that points to half of another snapshot, and the replica never opens again. It happens when the restore of the first one
// failed (disk full) and the leader sends again.
func TestASecondTransferSparesTheFirstThatIsNotRestoredYet(t *testing.T) {
	for _, how := range []string{"crash", "cancel"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			m := openLines(t, "")
			s := openStore(t, dir, m)
			if err := createSink(t, s, 21, 4, streamOf(t, 20, 4, "first")).Close(); err != nil {
				t.Fatal(err)
			}
			m.refuse = errors.New("no space left on device")
			f, err := os.Open(incoming(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			if err := (&groupMachine{Machine: m, logs: raft.NewInmemStore(), snapshots: s}).Restore(f); !errors.Is(err, m.refuse) {
				t.Fatalf("got %v", err)
			}
			second := createSink(t, s, 31, 4, streamOf(t, 30, 4, "first", "second")[:20])
			if how == "cancel" {
				if err := second.Cancel(); err != nil {
					t.Fatal(err)
				}
			}
			m = openLines(t, "")
			if _, err := openSnapshots(dir, m); err != nil {
				t.Fatalf("after the crash: %v", err)
			}
			if !slices.Equal(m.all(), []string{"first"}) {
				t.Fatalf("got %v, want the first snapshot", m.all())
			}
		})
	}
}
