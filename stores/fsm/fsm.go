package fsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Config is what an FSM needs.
type Config struct {
	Path               string // of the bbolt file
	Store, Incarnation uint64 // written at creation, checked at open
	Logger             *slog.Logger
	OnFatal            func(error) // a failed commit; called once, and nothing is applied afterwards; default: panic
	// OnDirty is called when something was applied that is not synced yet, and nothing was before. Flush must be called within a moment: what it
	// keeps back is memory, and work to be done again after a crash. It must not block. Default: every batch is synced at once.
	OnDirty func()
}

// FSM is the state machine of one store. Apply and Restore are called by one goroutine, raft's; everything else may be called concurrently.
type FSM struct {
	cfg      Config
	onAppend func(term, first, last uint64)

	file sync.RWMutex // guards db: Restore replaces it while nobody reads
	db   *bolt.DB

	disk    sync.Mutex // guards tx and pending; held while the open transaction is written to or read from
	tx      *bolt.Tx   // what is applied and not synced yet; nil when there is nothing
	pending int        // bytes of the entries in tx

	mu      sync.Mutex // guards what follows
	state   state
	changed chan struct{} // closed and replaced when events were appended or the state was restored
	moved   chan struct{} // closed and replaced when applied moves
	failed  error
}

var _ raft.BatchingFSM = (*FSM)(nil)

const (
	lockWait = time.Second
	// maxPending bounds what is applied but not synced, in bytes of entries.
	maxPending = 4 << 20
	// mapSize is the address space reserved for the file, not memory. bbolt cannot map more while a read transaction is open, and a snapshot that
	// is streamed to a slow peer is one: growing would stop the store.
	mapSize       = 1 << 30
	restoreSuffix = ".restore"
)

// Open opens the store's file, or creates it. A file of another store or incarnation, or one that bbolt finds broken, is ErrDamaged.
func Open(cfg Config) (*FSM, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnFatal == nil {
		cfg.OnFatal = func(err error) { panic(err) }
	}
	// A restore that was cut off leaves its half behind; the state file is still the old one.
	if err := os.Remove(cfg.Path + restoreSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f := &FSM{cfg: cfg, changed: make(chan struct{}), moved: make(chan struct{})}
	db, st, err := openFile(cfg.Path, cfg)
	if err != nil {
		return nil, err
	}
	f.db, f.state = db, st
	return f, nil
}

func openFile(path string, cfg Config) (db *bolt.DB, st state, err error) {
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0o640, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType, InitialMmapSize: mapSize})
		return err
	})
	if errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrVersionMismatch) || errors.Is(err, berrors.ErrChecksum) {
		return nil, st, fmt.Errorf("%w: open %s: %w", ErrDamaged, path, err)
	}
	if err != nil { // in use, or no rights: nothing is known of the content
		return nil, st, fmt.Errorf("open %s: %w", path, err)
	}
	empty := false
	err = db.View(func(tx *bolt.Tx) error {
		if empty = tx.Bucket(bucketMeta) == nil; empty {
			return nil
		}
		st.read(tx)
		return check(tx, cfg.Store, cfg.Incarnation)
	})
	if err == nil && empty {
		err = db.Update(func(tx *bolt.Tx) error { return create(tx, cfg.Store, cfg.Incarnation) })
	}
	if err != nil {
		db.Close()
		return nil, st, fmt.Errorf("%s: %w", path, err)
	}
	return db, st, nil
}

// Close syncs what is applied and closes the file.
func (f *FSM) Close() error {
	err := f.Flush()
	f.file.Lock()
	defer f.file.Unlock()
	return errors.Join(err, f.db.Close())
}

// Flush syncs what is applied. Durable on return.
func (f *FSM) Flush() error {
	f.file.RLock()
	defer f.file.RUnlock()
	f.disk.Lock()
	defer f.disk.Unlock()
	return f.flushLocked()
}

func (f *FSM) flushLocked() error {
	if f.tx == nil {
		return nil
	}
	err := f.tx.Commit()
	f.tx, f.pending = nil, 0
	if err != nil {
		f.fail(err)
	}
	return err
}

// fail ends the replica: what it has applied is not what the log says.
func (f *FSM) fail(err error) {
	f.mu.Lock()
	first := f.failed == nil
	if first {
		f.failed = err
	}
	f.mu.Unlock()
	if first {
		f.cfg.OnFatal(fmt.Errorf("state machine %s: %w", f.cfg.Path, err))
	}
}

// OnAppend sets what is told of appended events: positions first to last, by an entry of the term. It is called after they are durable, in position order, from
// the goroutine that applies. Set it before entries are applied.
func (f *FSM) OnAppend(fn func(term, first, last uint64)) { f.onAppend = fn }

// Applied returns index and term of the last entry whose effects are visible.
func (f *FSM) Applied() (index, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.applied, f.state.term
}

// Changed returns a channel that is closed when events are appended after the call.
func (f *FSM) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// WaitApplied returns nil once the entry with the index is applied, or ctx's error.
func (f *FSM) WaitApplied(ctx context.Context, index uint64) error {
	return f.wait(ctx, func(s state) bool { return s.applied >= index })
}

// WaitPosition returns nil once the event with the position is applied, or ctx's error.
func (f *FSM) WaitPosition(ctx context.Context, position uint64) error {
	return f.wait(ctx, func(s state) bool { return s.position >= position })
}

func (f *FSM) wait(ctx context.Context, ok func(state) bool) error {
	for {
		f.mu.Lock()
		st, moved := f.state, f.moved
		f.mu.Unlock()
		if ok(st) {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish makes a new state visible.
func (f *FSM) publish(st state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if st.position != f.state.position {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	f.state = st
	close(f.moved)
	f.moved = make(chan struct{})
}

// view runs fn on one consistent state: all that is applied. While some of it is not synced that is the open write transaction, one reader at a time; else a
// read transaction.
func (f *FSM) view(fn func(tx *bolt.Tx) error) error {
	f.file.RLock()
	defer f.file.RUnlock()
	f.disk.Lock()
	if f.tx != nil {
		defer f.disk.Unlock()
		return guard(func() error { return fn(f.tx) })
	}
	tx, err := f.db.Begin(false)
	f.disk.Unlock()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return guard(func() error { return fn(tx) })
}

// guard turns a panic, which is what bbolt makes of a page that it cannot read, into ErrDamaged: one store's damage must not end the node.
func guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return fn()
}

// Snapshot syncs the state and returns a marker: raft may then cut its log up to here. A replica that failed takes none.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Flush(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return snapshotMarker{}, f.failed
}

type snapshotMarker struct{}

func (snapshotMarker) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (snapshotMarker) Release()                             {}

var _ io.Closer = (*FSM)(nil)
