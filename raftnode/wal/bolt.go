package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// fileFormat is the version of the file's layout.
const fileFormat = 1

// lockTimeout is how long OpenBolt waits for another process to let go of the file.
const lockTimeout = time.Second

// Config says how to open a log.
type Config struct {
	// Path of the file. Its folder must exist. Required.
	Path string

	// NodeID is the disk id. It is stored when the file is created; a file with
	// another one is refused with [ErrWrongNode], for it came from another disk
	// and its votes are not ours. Required.
	NodeID string

	// MustExist refuses to create the file. Set it for a disk that had a log:
	// a node that lost its log must not vote again under its old id.
	MustExist bool

	// SegmentSize is the size of a segment file in bytes, for OpenSegments; default 8 MiB. Larger ones let more entries be cut before their segment
	// is settled, and take longer to read at start.
	SegmentSize int64

	// Resting is how many full segments OpenSegments leaves alone while others fill; default 14, at least 1. More let more entries be cut before their segment is settled, and
	// take longer to read at start.
	Resting int

	// Segments is where OpenSegments keeps the segment files; default the folder of
	// Path. It is for tests, with one that fails and forgets.
	Segments Folder

	// OnFatal is called once, from the writer, when a write or fsync failed;
	// after that no call succeeds. It is for ending the process and must not
	// call the log. The default panics.
	OnFatal func(error)

	// Logger for what an operator should know. The default says nothing.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	if c.Path == "" {
		return errors.New("raft log: Path is missing")
	}
	if c.NodeID == "" {
		return errors.New("raft log: NodeID is missing")
	}
	if c.OnFatal == nil {
		c.OnFatal = func(err error) { panic(err) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// BoltLog is a [Log] in one bbolt file.
type BoltLog struct {
	path string
	db   *bolt.DB
	w    *writer

	mu   sync.Mutex // guards what follows
	open map[GroupID]*boltStore
	busy map[GroupID]bool // being opened or removed
}

var _ Log = (*BoltLog)(nil)

// OpenBolt opens the file, or creates it unless cfg.MustExist. The directory of
// groups is checked before it returns; their entries are checked when read.
//
// Errors: fs.ErrNotExist for a missing file that must exist, [ErrLocked],
// [ErrWrongNode], [ErrCorrupt].
func OpenBolt(cfg Config) (*BoltLog, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	db, err := openFile(cfg)
	if err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", cfg.Path, err)
	}
	groups := 0
	if err = guard(func() (err error) { groups, err = checkFile(db, cfg); return err }); err != nil {
		return nil, errors.Join(fmt.Errorf("open raft log %s: %w", cfg.Path, err), db.Close())
	}
	cfg.Logger.Info("raft log open", "path", cfg.Path, "groups", groups)
	return &BoltLog{
		path: cfg.Path,
		db:   db,
		w:    startWriter(db, cfg.OnFatal),
		open: make(map[GroupID]*boltStore),
		busy: make(map[GroupID]bool),
	}, nil
}

func openFile(cfg Config) (db *bolt.DB, err error) {
	created := false
	opts := &bolt.Options{
		Timeout:      lockTimeout,
		FreelistType: bolt.FreelistMapType,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag&^os.O_CREATE, perm)
			if errors.Is(err, os.ErrNotExist) && !cfg.MustExist {
				created = true
				f, err = os.OpenFile(name, flag|os.O_CREATE, perm)
			}
			return f, err
		},
	}
	err = guard(func() (err error) { db, err = bolt.Open(cfg.Path, 0o600, opts); return err })
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	if created {
		// Until its folder is synced, the file itself may vanish with the power.
		if err := syncDir(filepath.Dir(cfg.Path)); err != nil {
			return nil, errors.Join(err, db.Close())
		}
	}
	return db, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkFile writes the file header into an empty file, or checks it and the
// directory of groups. It returns the number of groups.
func checkFile(db *bolt.DB, cfg Config) (groups int, err error) {
	empty := false
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Bucket(metaBucket) == nil {
			k, _ := tx.Cursor().First()
			// We may die between creating the file and its header: an empty
			// file is a new one, but not where there was a log before.
			if empty = k == nil && !cfg.MustExist; !empty {
				return &CorruptError{Item: "file", Detail: "wanted a file header, found none"}
			}
			return nil
		}
		groups, err = checkMeta(tx, cfg)
		return err
	})
	if err != nil || !empty {
		return groups, err
	}
	return 0, db.Update(func(tx *bolt.Tx) error {
		return errors.Join(
			putMeta(tx, formatKey, binary.BigEndian.AppendUint64(nil, fileFormat)),
			putMeta(tx, nodeKey, []byte(cfg.NodeID)),
			putMeta(tx, groupsKey, make([]byte, 8)))
	})
}

func checkMeta(tx *bolt.Tx, cfg Config) (groups int, err error) {
	format, err := metaUint64(tx, formatKey)
	if err != nil {
		return 0, err
	}
	if format != fileFormat {
		return 0, fmt.Errorf("wanted file format %d, found %d: written by another version", fileFormat, format)
	}
	node, err := meta(tx, nodeKey)
	if err != nil {
		return 0, err
	}
	if string(node) != cfg.NodeID {
		return 0, fmt.Errorf("%w: wanted %q, found %q", ErrWrongNode, cfg.NodeID, node)
	}
	// A group whose bucket cannot be found would come back as one that never
	// voted, so the directory is checked as a whole.
	want, err := metaUint64(tx, groupsKey)
	if err != nil {
		return 0, err
	}
	err = eachGroup(tx, func(GroupID, head) error { groups++; return nil })
	if err == nil && uint64(groups) != want {
		err = &CorruptError{Item: "directory", Detail: fmt.Sprintf("wanted %d groups, found %d", want, groups)}
	}
	return groups, err
}

// eachGroup calls f for every group bucket in order.
func eachGroup(tx *bolt.Tx, f func(GroupID, head) error) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		if bytes.Equal(name, metaBucket) {
			return nil
		}
		if len(name) != groupIDSize {
			return &CorruptError{Item: "directory", Detail: fmt.Sprintf("wanted names of %d bytes, found %q", groupIDSize, name)}
		}
		id := groupIDFrom(name)
		h, err := decodeHead(id, b.Get(headKey))
		if err != nil {
			return err
		}
		return f(id, h)
	})
}

// Open implements [Log]. All stable values are checked, and the log's bounds.
func (l *BoltLog) Open(id GroupID) (Store, error) {
	if err := l.reserve(id); err != nil {
		return nil, fmt.Errorf("open group %s: %w", id, err)
	}
	s := l.store(id)
	err := l.view(func(tx *bolt.Tx) (err error) { s.head, err = checkGroup(tx, id); return err })
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, id)
	if err != nil {
		return nil, fmt.Errorf("open group %s: %w", id, err)
	}
	l.open[id] = s
	return s, nil
}

// store returns a store of the group that nothing was read for yet.
func (l *BoltLog) store(id GroupID) *boltStore {
	return &boltStore{log: l, handle: handle{id: id, refused: l.w.err, forget: func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, id)
	}}}
}

// checkGroup returns a group's header after comparing it with what is there.
func checkGroup(tx *bolt.Tx, id GroupID) (head, error) {
	b := tx.Bucket(id.bytes())
	if b == nil {
		return head{}, nil
	}
	want, err := decodeHead(id, b.Get(headKey))
	if err != nil {
		return head{}, err
	}
	log, stable := b.Bucket(logBucket), b.Bucket(stableBucket)
	if log == nil || stable == nil {
		return head{}, &CorruptError{Group: id, Item: "buckets", Detail: "wanted log and stable, found less"}
	}
	var got head
	got.first, got.last = bounds(log)
	if got.first != want.first || got.last != want.last {
		return head{}, &CorruptError{Group: id, Item: "bounds", Detail: fmt.Sprintf("wanted entries %d to %d, found %d to %d", want.first, want.last, got.first, got.last)}
	}
	err = stable.ForEach(func(k, v []byte) error {
		got.stable++
		_, err := unseal(domainStable, id, k, v)
		return err
	})
	if err == nil && got.stable != want.stable {
		err = &CorruptError{Group: id, Item: "stable values", Detail: fmt.Sprintf("wanted %d, found %d", want.stable, got.stable)}
	}
	return want, err
}

// Remove implements [Log].
func (l *BoltLog) Remove(id GroupID) error {
	if err := l.reserve(id); err != nil {
		return fmt.Errorf("remove group %s: %w", id, err)
	}
	err := l.w.do(&request{apply: func(b *batch) (bool, error) { return false, b.remove(id) }})
	l.mu.Lock()
	delete(l.busy, id)
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remove group %s: %w", id, err)
	}
	return nil
}

// reserve marks a closed group as busy.
func (l *BoltLog) reserve(id GroupID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[id] != nil || l.busy[id] {
		return ErrOpen
	}
	l.busy[id] = true
	return nil
}

// Groups implements [Log].
func (l *BoltLog) Groups() (ids []GroupID, err error) {
	err = l.view(func(tx *bolt.Tx) error {
		return eachGroup(tx, func(id GroupID, h head) error {
			if h.entries > 0 || h.stable > 0 {
				ids = append(ids, id)
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	return ids, nil
}

// view runs f in a read transaction unless the log is closed or failed.
func (l *BoltLog) view(f func(*bolt.Tx) error) error {
	if err := l.w.err(); err != nil {
		return err
	}
	err := guard(func() error { return l.db.View(f) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// Stats implements [Log].
func (l *BoltLog) Stats() Stats { return l.w.snapshot() }

// Writing implements [Log]: a BoltLog does not know, and is no node's log but behind a [SegmentLog].
func (l *BoltLog) Writing() time.Duration { return 0 }

// Close implements [Log].
func (l *BoltLog) Close() error {
	l.w.close()
	if err := l.db.Close(); err != nil {
		return fmt.Errorf("close raft log %s: %w", l.path, err)
	}
	return nil
}
