package fsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
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
	// Shared is what the node's machines have together: its flushes take turns with theirs. Default: the machine stands alone, and waits for no other.
	Shared *Shared
	// Prior is for the machine that all others wait for: it does not wait for what is shared.
	Prior bool
}

// FSM is the state machine of one store. Apply and Restore are called by one goroutine, raft's; everything else may be called concurrently.
//
// Locks are taken in the order sweep.mu, waking, a place of Shared, turn, a slot of Shared, file, flushing, applying, mu.
type FSM struct {
	cfg      Config
	onAppend func(term uint64, stream string, first, last uint64)

	waking sync.Mutex // held by the one who opens the file of a machine that rests

	file     sync.RWMutex // guards db, rested, reserved and streams' coming and going: Restore, grow, Rest and Close replace the file while nobody is in it
	db       *bolt.DB     // nil while the machine rests and after Close; see enter
	rested   glance       // from when it went to rest
	reserved int64        // address space that the file's map has

	turn     sync.Mutex // held by the one flush that runs or waits for a slot
	flushing sync.Mutex // held by whoever writes into the file: the flush, and steps of scavenging

	applying sync.Mutex // guards applier and reader, and of the active overlay what is not published; held for a batch, and for moments by a flush
	applier  applier
	reader   *disk // what the applier looks up, in a transaction from the last flush to the next; nil until it is needed

	mu      sync.RWMutex // guards what follows
	room    *sync.Cond   // on mu: a flush ended
	state   state
	active  *overlay      // what is applied since the last flush began; nil: nothing
	frozen  *overlay      // what is being flushed
	dirty   bool          // there is something that no flush has begun to write
	kicked  bool          // a flush runs in the background
	changed chan struct{} // closed and replaced when events were appended or the state was restored
	moved   chan struct{} // closed and replaced when applied moves
	failed  error         // ends the replica; the first one
	closed  bool
	// replacing counts those who wait for the file to be theirs; meanwhile no snapshot stream is opened.
	replacing int
	streams   map[*snapshotStream]struct{}

	background sync.WaitGroup // flushes in the background
	told       atomic.Bool    // OnFatal was called
	uses       atomic.Uint64  // calls of enter
	lastUse    atomic.Uint64  // Shared.opens at the last of them
	pending    atomic.Uint64  // bytes in the active overlay
	held       atomic.Uint64  // bytes in the frozen one
	restoring  atomic.Int32   // whether a restore is under way, where it is known, see restore.go

	sweep sweep // what scavenging and expiry know

	folder   folder                  // of the state file, for restores
	bounds   bounds                  // of the work on runs that a flush does
	hookStep func(step string) error // tests: called at the steps of a flush; its error is a crash there
	hookView func()                  // tests: called while a view is held
	hookFull func()                  // tests: called with mu held by an apply that is about to wait for room
}

var _ raft.BatchingFSM = (*FSM)(nil)

const (
	lockWait      = time.Second
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
	f := &FSM{cfg: cfg, folder: osFolder{}, bounds: usualBounds, changed: make(chan struct{}), moved: make(chan struct{}), streams: make(map[*snapshotStream]struct{})}
	f.room = sync.NewCond(&f.mu)
	f.sweep.limit, f.sweep.least = sweepEvents, holesAt
	cfg.Shared.place(cfg.Prior)
	file, err := openSparing(cfg.Path, cfg, cfg.Shared.spare)
	if err != nil {
		cfg.Shared.giveUp()
		return nil, err
	}
	f.db, f.state, f.reserved = file.db, file.st, file.reserved
	cfg.Shared.opened(f) // from now on others may make it rest
	return f, nil
}

// stateFile is an open file.
type stateFile struct {
	db       *bolt.DB
	st       state
	reserved int64
}

// openSparing is openFile that makes others rest when there is no descriptor left, as long as spare finds one.
func openSparing(path string, cfg Config, spare func() bool) (file stateFile, err error) {
	err = sparing(spare, func() (err error) {
		file, err = openFile(path, cfg)
		return err
	})
	return file, err
}

func openFile(path string, cfg Config) (file stateFile, err error) {
	var db *bolt.DB
	var st state
	open := func(size int64) error {
		return guard(func() (err error) {
			db, err = bolt.Open(path, 0o640, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType, InitialMmapSize: int(size)})
			return err
		})
	}
	file.reserved = reserve(path)
	for err = open(file.reserved); errors.Is(err, syscall.ENOMEM) && file.reserved > leastReserve; err = open(file.reserved) {
		file.reserved /= 2 // a limit on address space
	}
	if errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrVersionMismatch) || errors.Is(err, berrors.ErrChecksum) {
		return stateFile{}, fmt.Errorf("%w: open %s: %w", ErrDamaged, path, err)
	}
	if err != nil { // in use, or no rights: nothing is known of the content
		return stateFile{}, fmt.Errorf("open %s: %w", path, err)
	}
	empty := false
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if empty = tx.Bucket(bucketMeta) == nil; empty {
				return nil
			}
			if err := check(tx, cfg.Store, cfg.Incarnation); err != nil {
				return err
			}
			d, err := openDisk(tx)
			if err == nil {
				st = d.st
			}
			return err
		})
	})
	if err == nil && empty {
		err = db.Update(func(tx *bolt.Tx) error { return create(tx, cfg.Store, cfg.Incarnation) })
	}
	if err != nil {
		db.Close()
		return stateFile{}, fmt.Errorf("%s: %w", path, err)
	}
	file.db, file.st = db, st
	return file, nil
}

// Close syncs what is applied and closes the file. Nothing is applied afterwards. Snapshots that are being read end with ErrSnapshotAborted.
func (f *FSM) Close() error {
	f.mu.Lock()
	failed := f.failed != nil
	f.mu.Unlock()
	var err error
	if !failed { // why it failed was told to OnFatal
		err = f.Flush()
	}
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cfg.Shared.tell()
	f.background.Wait()
	defer f.lockFile()()
	f.applying.Lock()
	defer f.applying.Unlock()
	f.dropReader()
	f.mu.Lock()
	f.account(0, 0) // a machine that has failed takes what it did not flush with it
	f.mu.Unlock()
	if f.db == nil {
		return err
	}
	db := f.db
	f.db = nil
	defer f.cfg.Shared.closed(f)
	return errors.Join(err, db.Close())
}

// dropReader ends the applier's transaction. applying is held.
func (f *FSM) dropReader() {
	if f.reader != nil {
		if err := f.reader.tx.Rollback(); err != nil {
			f.cfg.Logger.Error("end a read transaction", "error", err)
		}
		f.reader = nil
	}
}

func (f *FSM) hook(step string) error {
	if f.hookStep == nil {
		return nil
	}
	return f.hookStep(step)
}

// fail ends the replica: what it has applied is not what the log says, or cannot be written. Whoever is told of it is told of the first error.
func (f *FSM) fail(err error) {
	f.end(err)
	if f.told.CompareAndSwap(false, true) {
		f.cfg.OnFatal(fmt.Errorf("state machine %s: %w", f.cfg.Path, f.failure()))
	}
}

// end is fail that tells nobody yet: from here on nothing is applied or written.
func (f *FSM) end(err error) {
	f.mu.Lock()
	if f.failed == nil {
		f.failed = err
		f.room.Broadcast()
	}
	f.mu.Unlock()
	f.cfg.Shared.tell()
}

// failure is why the replica has ended; nil: it has not.
func (f *FSM) failure() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.failed
}

// OnAppend sets what is told of appended events: positions first to last of the stream, by an entry of the term. The stream's name is only valid in the call.
// It is called after they can be read and their entry is durable in the log of a majority, in position order, from the goroutine that applies. Set it before
// entries are applied.
func (f *FSM) OnAppend(fn func(term uint64, stream string, first, last uint64)) { f.onAppend = fn }

// Applied returns index and term of the last entry whose effects are visible.
func (f *FSM) Applied() (index, term uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.applied, f.state.term
}

// Kinds returns the highest kind of command that was in an entry so far.
func (f *FSM) Kinds() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return int(f.state.kinds)
}

// Changed returns a channel that is closed when events are appended after the call.
func (f *FSM) Changed() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
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
		f.mu.RLock()
		st, moved := f.state, f.moved
		f.mu.RUnlock()
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

// announce makes a new state the one that is seen. mu is held.
func (f *FSM) announce(st state) {
	if st.position != f.state.position {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	f.state = st
	close(f.moved)
	f.moved = make(chan struct{})
}

// Snapshot returns a marker that says, once it is persisted, that the state is synced: raft may then cut its log up to here. A replica that failed takes none.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return snapshotMarker{f}, f.failed
}

// snapshotMarker is a snapshot of what was applied when it was made, or more.
type snapshotMarker struct{ f *FSM }

// Persist syncs the state. raft calls it while it goes on to apply entries.
func (m snapshotMarker) Persist(sink raft.SnapshotSink) error {
	if err := m.f.Flush(); err != nil {
		return err
	}
	return sink.Close()
}

func (snapshotMarker) Release() {}

var _ io.Closer = (*FSM)(nil)
