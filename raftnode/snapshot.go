package raftnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/wal"
)

// A snapshot is a marker: since the Machine is on disk, taking one writes only which entry the state contains, and its cost does not grow with the
// state. Opening one streams the Machine's present state, which is at or after the marker; replaying entries it contains already is
// harmless, the Machine ignores them.
//
// A snapshot that a leader sends is kept whole in a file of its own until the Machine has taken it over; then it becomes a marker too:
//
//	Create → bytes into incoming-<n>.snap → Close: sync it and its name, marker {incoming: incoming-<n>.snap} → remove other incoming files
//	                                          we may die here: the next open restores from that file before raft starts
//	       → Machine.Restore → marker {incoming: ""} → remove the file
//
// A second transfer never touches the first one's file while the marker names it. The file's name is durable before the marker that holds it: names that were not
// synced may come out of a power cut in any combination.
//
// A group that closes cuts an arrival or a restore off, and leaves what a crash leaves in the same place, but for a file that no marker names, which goes at once.
const (
	markerFile      = "snapshot.json"
	incomingPattern = "incoming-*.snap"
)

// marker is the content of snapshot.json.
type marker struct {
	Format             int                `json:"format"`
	Index              uint64             `json:"index"`
	Term               uint64             `json:"term"`
	Configuration      raft.Configuration `json:"configuration"`
	ConfigurationIndex uint64             `json:"configuration_index"`
	Machine            uint64             `json:"machine"`  // what the machine had applied at least; it counts commands only, so it may be below Index
	Incoming           string             `json:"incoming"` // the file that holds the state, until the machine does
	Size               int64              `json:"size"`     // of that file
}

func (m *marker) id() string { return fmt.Sprintf("%d-%d", m.Term, m.Index) }

func (m *marker) meta(size int64) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: m.id(), Index: m.Index, Term: m.Term,
		Configuration: m.Configuration, ConfigurationIndex: m.ConfigurationIndex, Size: size,
	}
}

// snapshotStore keeps a group's newest snapshot.
type snapshotStore struct {
	dir     folder
	machine Machine

	writing sync.Mutex // held while the marker is replaced: raft takes snapshots, receives them and restores them in three goroutines

	mu     sync.Mutex // guards what follows
	last   *marker
	synced uint64 // what the machine had applied when it was synced for the newest snapshot
}

var _ raft.SnapshotStore = (*snapshotStore)(nil)

// openSnapshots reads the marker and finishes a restore that a crash cut off.
func openSnapshots(dir string, machine Machine) (*snapshotStore, error) {
	s, err := openSnapshotsIn(osFolder(dir), machine)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return s, nil
}

func openSnapshotsIn(dir folder, machine Machine) (*snapshotStore, error) {
	s := &snapshotStore{dir: dir, machine: machine}
	if err := dir.Remove(markerFile + tmpSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	raw, err := readFile(dir, markerFile)
	var m marker
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(raw, &m); err != nil || m.Format != 1 {
			return nil, fmt.Errorf("%w: %s: format %d, %v", ErrDamaged, markerFile, m.Format, err)
		}
		s.last = &m
	}
	// What is there beside the file that the marker names is left of an arrival that was cut off, or was named by the marker before this one. A process that was killed may not
	// have synced this one's name: the power could go, and bring the one before back.
	if left, err := s.incoming(m.Incoming); err != nil {
		return nil, err
	} else if len(left) > 0 {
		if err := errors.Join(dir.Sync(), s.dropIncoming(m.Incoming)); err != nil {
			return nil, err
		}
	}
	if m.Incoming == "" {
		return s, nil
	}
	f, err := s.openIncoming(&m)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := machine.Restore(f); err != nil {
		return nil, fmt.Errorf("finish restore of snapshot %s: %w", m.id(), err)
	}
	return s, s.restored()
}

func (s *snapshotStore) current() *marker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// write makes m the newest snapshot. After an error either one may be on the disk.
//
// One that ends before the newest is refused. raft may have begun a snapshot of its own, wait for its main goroutine while that receives another, and then write
// what it has begun; were it taken, the marker would end before the log begins. raft gives its snapshot up after the error, and takes another in time.
func (s *snapshotStore) write(m *marker) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if last := s.current(); last != nil && m.Index < last.Index {
		return fmt.Errorf("snapshot %s ends before the newest one, %s", m.id(), last.id())
	}
	if err := writeJSON(s.dir, markerFile, m); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = m
	return nil
}

// openIncoming opens the file that the marker names.
func (s *snapshotStore) openIncoming(m *marker) (file, error) {
	f, err := s.dir.Open(filepath.Base(m.Incoming))
	if err != nil {
		return nil, fmt.Errorf("%w: the snapshot marker names a file that is gone: %w", ErrDamaged, err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() != m.Size {
		err = fmt.Errorf("%w: %s: wanted %d bytes, found %d", ErrDamaged, f.Name(), m.Size, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// incoming lists received files, except the one to keep.
func (s *snapshotStore) incoming(keep string) (files []string, err error) {
	names, err := s.dir.List()
	for _, name := range names {
		if ours, _ := filepath.Match(incomingPattern, name); ours && name != keep {
			files = append(files, name)
		}
	}
	return files, err
}

// dropIncoming removes received files, except the one to keep, which the marker on the disk names.
func (s *snapshotStore) dropIncoming(keep string) error {
	files, err := s.incoming(keep)
	for _, name := range files {
		err = errors.Join(err, s.dir.Remove(name))
	}
	return err
}

// restored is called when the machine holds what incoming.snap held.
func (s *snapshotStore) restored() error {
	m := s.current()
	if m == nil || m.Incoming == "" {
		return nil
	}
	done := *m
	done.Incoming, done.Size = "", 0
	done.Machine, _ = s.machine.Applied()
	if err := s.write(&done); err != nil {
		return err
	}
	return s.dropIncoming("")
}

// Create begins a snapshot: a marker when nothing is written to the sink, a received state otherwise.
func (s *snapshotStore) Create(_ raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &sink{store: s, marker: &marker{
		Format: 1, Index: index, Term: term, Configuration: configuration, ConfigurationIndex: configurationIndex, Machine: min(s.synced, index),
	}}, nil
}

// List returns the newest snapshot, if there is one.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	m := s.current()
	if m == nil {
		return nil, nil
	}
	return []*raft.SnapshotMeta{m.meta(m.Size)}, nil
}

// Open streams the snapshot with the id: from the file it arrived in, or from the machine.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m := s.current()
	if m == nil || m.id() != id {
		return nil, nil, fmt.Errorf("snapshot %s is gone; the newest is %v", id, m)
	}
	if m.Incoming != "" {
		f, err := s.openIncoming(m)
		if err != nil {
			return nil, nil, err
		}
		return m.meta(m.Size), f, nil
	}
	_, _, size, rc, err := s.machine.OpenSnapshot()
	if err != nil {
		return nil, nil, err
	}
	return m.meta(size), rc, nil
}

// sink receives a snapshot.
type sink struct {
	store  *snapshotStore
	marker *marker
	file   file
	closed bool
}

func (k *sink) ID() string { return k.marker.id() }

func (k *sink) Write(p []byte) (int, error) {
	if k.file == nil {
		f, err := k.store.dir.CreateTemp(incomingPattern)
		if err != nil {
			return 0, err
		}
		k.file, k.marker.Incoming, k.marker.Machine = f, filepath.Base(f.Name()), 0
	}
	n, err := k.file.Write(p)
	k.marker.Size += int64(n)
	return n, err
}

// Close makes it the newest snapshot. The machine's Persist does it, and then raft once more.
func (k *sink) Close() error {
	if k.closed {
		return nil
	}
	k.closed = true
	if k.file == nil {
		return k.store.write(k.marker)
	}
	err := k.file.Sync()
	if cerr := k.file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = k.store.dir.Sync()
	}
	if err != nil {
		return errors.Join(err, k.store.dir.Remove(k.marker.Incoming))
	}
	if err := k.store.write(k.marker); err != nil {
		return err // the marker may name the file, so it stays; the next snapshot or start removes it if not
	}
	return k.store.dropIncoming(k.marker.Incoming)
}

// Cancel drops what has arrived. After Close it does nothing, whatever Close returned.
func (k *sink) Cancel() error {
	if k.file == nil || k.closed {
		return nil
	}
	k.file.Close()
	return k.store.dir.Remove(k.marker.Incoming)
}

// groupMachine is the machine as raft sees it: a restore that succeeded turns the received snapshot into a marker, and what is applied is on this disk before, and
// noted.
type groupMachine struct {
	Machine
	closing   <-chan struct{} // closed when the group closes: a restore is cut off then
	log       wal.Store
	logs      raft.LogStore // log as raft sees it
	snapshots *snapshotStore
	applied   func(last *raft.Log)
	grew      func(logs []*raft.Log)
}

func (m *groupMachine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

func (m *groupMachine) ApplyBatch(logs []*raft.Log) []any {
	if len(logs) == 0 {
		return nil
	}
	if lost := m.awaitDurable(logs); lost != nil {
		return lost
	}
	results := m.Machine.ApplyBatch(logs)
	m.applied(logs[len(logs)-1])
	m.grew(logs)
	return results
}

// Snapshot notes what is synced once it is persisted. raft goes on to apply entries before it asks for the marker, and those may be in memory only: a marker that counted them would
// say after a crash that the state was lost.
func (m *groupMachine) Snapshot() (raft.FSMSnapshot, error) {
	snapshot, err := m.Machine.Snapshot()
	if err == nil {
		applied, _ := m.Applied() // raft's goroutine, which is here, is the one that applies
		m.snapshots.mu.Lock()
		m.snapshots.synced = applied
		m.snapshots.mu.Unlock()
	}
	return snapshot, err
}

func (m *groupMachine) Restore(rc io.ReadCloser) error {
	if err := m.Machine.Restore(endingReader{rc, m.closing}); err != nil { // cut off: the next open begins it anew
		return err
	}
	if err := m.snapshots.restored(); err != nil {
		return err
	}
	return discardForeign(m.logs, m.snapshots.current())
}

// endingReader ends with ErrClosed once closing is closed.
type endingReader struct {
	io.ReadCloser
	closing <-chan struct{}
}

func (r endingReader) Read(p []byte) (int, error) {
	select {
	case <-r.closing:
		return 0, ErrClosed
	default:
		return r.ReadCloser.Read(p)
	}
}

// discardForeign takes out of a log what may contradict the snapshot, as Raft asks for (Ongaro 2014, figure 5.3, InstallSnapshot, step 6): when there is no entry with the snapshot's last
// index, all up to it, and when there is one of another term, everything. That may never have been committed. raft 1.8.0 keeps it, and as a leader would send it to a follower that
// is far behind, which would apply it.
//
// What lies behind a gap at the snapshot's end came after the snapshot, and stays. In the other case raft has the log's old end in memory until it is started anew, and refuses what
// follows the snapshot: the leader sends it again and again until one ends behind that, as it did before. It takes a leader that was cut off with more entries than others have committed and
// cut off their logs since.
func discardForeign(log raft.LogStore, m *marker) error {
	if m == nil {
		return nil
	}
	first, err := log.FirstIndex()
	if err != nil || first == 0 || first > m.Index {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	var e raft.Log
	switch err := log.GetLog(m.Index, &e); {
	case err == nil && e.Term == m.Term:
		return nil
	case errors.Is(err, raft.ErrLogNotFound):
		last = min(last, m.Index)
	case err != nil:
		return err
	}
	return log.DeleteRange(first, last)
}
