package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	defaultSegmentSize = 8 << 20
	// Full segments rest: most of their entries are cut by raft before long, and need not be moved then. While the log is busy so many rest that those of one store are cut
	// whatever its size (raftnode/compact.go: 64 MiB and half of it again). Once no segment has filled for calmAfter, restingCalm are left, and the others are settled.
	restingBusy = 14
	restingCalm = 2
	calmAfter   = 5 * time.Second
	// Of more groups than fewGroups, which keep 8 MiB each at least, little would be cut in that time, and the places of what rests would be in memory for nothing.
	fewGroups = 8
	// When so many more wait to be settled, writers wait.
	maxWaiting = 8
)

// Keys in the bbolt file's meta bucket.
var (
	settledKey = []byte("settled") // number of the last segment whose records are here; the next one must exist
	closedKey  = []byte("closed")  // number that the next batch would have had when the log was closed; absent while it is open
)

// SegmentLog is a [Log] in segment files, which one append and one fdatasync a batch write for all groups, with a [BoltLog] behind it for what outlives its
// segment. See DESIGN.md.
type SegmentLog struct {
	cfg     Config
	dir     Folder
	settled *BoltLog

	mu     sync.Mutex // guards what follows
	groups map[GroupID]*group
	open   map[GroupID]bool
	busy   map[GroupID]bool

	queueMu sync.Mutex // guards what follows
	filled  *sync.Cond // queue, writing, closed or failed changed; only run waits for it
	queue   []*segmentRequest
	writing bool // somebody is in serve, or about to be
	closed  bool
	failed  error // set once: why nothing is acknowledged any more
	stats   Stats
	ended   chan struct{} // closed when the writer has returned

	began atomic.Int64 // when the write under way began, in Unix nanoseconds; 0: there is none

	// The writer's own, after open: whoever has set writing.
	current  *segment
	prepared *preparation // of the next segment; nil: not begun
	next     uint64       // number of the next batch
	buf      []byte

	fullMu  sync.Mutex  // guards what follows
	drained *sync.Cond  // full became longer or shorter, it is calm, or stop was set
	full    []*segment  // to be settled, oldest first
	spare   *spare      // nil: there is none
	filling time.Time   // when the last one became full
	calm    *time.Timer // tells drained
	stop    bool
	settler sync.WaitGroup
}

var _ Log = (*SegmentLog)(nil)

// OpenSegments opens the log beside cfg.Path, the bbolt file, or creates it unless cfg.MustExist. A directory that OpenBolt has written is taken over as it
// is. Every record in segments is checked before it returns.
//
// Errors: fs.ErrNotExist for a missing log that must exist, [ErrLocked], [ErrWrongNode], [ErrCorrupt].
func OpenSegments(cfg Config) (*SegmentLog, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.SegmentSize <= 0 {
		cfg.SegmentSize = defaultSegmentSize
	}
	if cfg.Resting == 0 {
		cfg.Resting = restingBusy
	}
	if cfg.Segments == nil {
		cfg.Segments = osFolder(filepath.Dir(cfg.Path))
	}
	l := &SegmentLog{
		cfg: cfg, dir: cfg.Segments, groups: make(map[GroupID]*group), open: make(map[GroupID]bool), busy: make(map[GroupID]bool), ended: make(chan struct{}),
	}
	l.filled, l.drained = sync.NewCond(&l.queueMu), sync.NewCond(&l.fullMu)
	files, err := l.list()
	if err != nil {
		return nil, fmt.Errorf("open raft log: %w", err)
	}
	if _, err := os.Stat(cfg.Path); errors.Is(err, fs.ErrNotExist) && len(files) > 0 {
		return nil, fmt.Errorf("open raft log: %w (%w)", &CorruptError{Item: cfg.Path, Detail: fmt.Sprintf("it is gone, but there are %d segments that belong to it", len(files))}, fs.ErrNotExist)
	}
	bcfg := cfg
	bcfg.OnFatal = l.fail
	if l.settled, err = OpenBolt(bcfg); err != nil {
		return nil, err
	}
	if err := l.recover(files); err != nil {
		for _, s := range append(l.full, l.current) {
			if s != nil {
				s.file.Close()
			}
		}
		return nil, errors.Join(fmt.Errorf("open raft log: %w", err), l.settled.Close())
	}
	l.filling, l.calm = time.Now(), time.AfterFunc(calmAfter, l.calmNow) // stopped by Close
	l.settler.Add(1)
	go l.settle() // ends when Close has set stop
	go l.run()    // ends when the log is closed and nothing is queued, or a write failed
	return l, nil
}

// calmNow has the settler look again.
func (l *SegmentLog) calmNow() {
	l.fullMu.Lock() // or the settler may be about to wait, having looked a moment ago
	defer l.fullMu.Unlock()
	l.drained.Broadcast()
}

// list returns the numbers of the segment files in order.
func (l *SegmentLog) list() (numbers []uint64, err error) {
	names, err := l.dir.List()
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// removeSpares removes what an earlier process has left; nobody else has the log open.
func (l *SegmentLog) removeSpares() error {
	names, err := l.dir.List()
	for _, name := range names {
		if segment, ok := strings.CutSuffix(name, spareSuffix); ok && err == nil {
			if _, ok := parseSegmentName(segment); ok {
				err = l.dir.Remove(name)
			}
		}
	}
	return err
}

// recover rebuilds what is known of the groups: first from the bbolt file, then from the segments, in order. It then begins a new segment; the ones that were found
// are settled in the background.
func (l *SegmentLog) recover(files []uint64) error {
	if err := l.removeSpares(); err != nil {
		return err
	}
	ids, err := l.settled.Groups()
	if err != nil {
		return err
	}
	for _, id := range ids {
		l.group(id)
	}
	var settled, closed uint64
	var segmented, clean bool
	err = l.settled.view(func(tx *bolt.Tx) (err error) {
		b := tx.Bucket(metaBucket)
		if segmented = b.Get(settledKey) != nil; segmented {
			if settled, err = metaUint64(tx, settledKey); err != nil {
				return err
			}
		}
		if clean = b.Get(closedKey) != nil; clean {
			closed, err = metaUint64(tx, closedKey)
		}
		return err
	})
	if err != nil {
		return err
	}
	l.next = 1
	number := settled
	var found []*segment
	for i, n := range files {
		if n <= settled { // we died before it was removed
			if err := l.dir.Remove(segmentName(n)); err != nil {
				return err
			}
			continue
		}
		if n != number+1 {
			return &CorruptError{Item: segmentName(number + 1), Detail: fmt.Sprintf("it is gone; the next one there is %s", segmentName(n))}
		}
		s := &segment{number: n, name: segmentName(n)}
		if s.file, err = l.dir.Open(s.name); err != nil {
			return err
		}
		unused, err := s.readHead(l.cfg.NodeID)
		if unused && i == len(files)-1 { // prepared, and never begun
			if err = s.file.Close(); err == nil {
				err = l.dir.Remove(s.name)
			}
			if err != nil {
				return err
			}
			break
		}
		if err == nil && unused {
			err = s.corrupt(0, "wanted a head, found zeroes")
		}
		if err != nil {
			s.file.Close()
			return err
		}
		l.full, number = append(l.full, s), n
		found = append(found, s)
	}
	if segmented && len(found) == 0 {
		return &CorruptError{Item: segmentName(settled + 1), Detail: "it is gone, and there are no later ones: entries and votes are lost"}
	}
	for i, s := range found {
		if i > 0 && s.first != l.next {
			before := found[i-1]
			return before.corrupt(before.end, "wanted batches up to %d, since %s begins there; found them up to %d", s.first-1, s.name, l.next-1)
		}
		if l.next, err = s.scan(func(base int64, payload []byte) error { return l.replay(s, base, payload) }); err != nil {
			return err
		}
	}
	if clean && l.next != closed {
		last := found[len(found)-1]
		return last.corrupt(last.end, "wanted batches up to %d, since the log was closed there; found them up to %d", closed-1, l.next-1)
	}
	if n := len(found); n > 0 {
		// A process that was killed has left batches that nobody has synced. We go by them from here on.
		if err := found[n-1].file.Sync(); err != nil {
			return err
		}
	}
	if l.current, err = l.create(number + 1); err != nil {
		return err
	}
	if err := l.current.begin(l.cfg.NodeID, l.next); err != nil {
		return err
	}
	// From here on the new segment must be there. In this order: we may die in between.
	return l.settled.w.do(&request{apply: func(b *batch) (bool, error) {
		if err := b.tx.Bucket(metaBucket).Delete(closedKey); err != nil {
			return false, err
		}
		return false, putMeta(b.tx, settledKey, binary.BigEndian.AppendUint64(nil, settled))
	}})
}

func (l *SegmentLog) replay(s *segment, base int64, payload []byte) error {
	items, err := parseItems(payload)
	if err != nil {
		return s.corrupt(base, "%v", err)
	}
	for i := range items {
		if err := l.group(items[i].id).apply(&items[i], s, base); err != nil {
			return err
		}
	}
	return nil
}

// create makes the file of a segment that is not begun: of the spare, whose blocks are written already, or of zeroes.
func (l *SegmentLog) create(number uint64) (*segment, error) {
	s := &segment{number: number, name: segmentName(number), size: l.cfg.SegmentSize}
	l.fullMu.Lock()
	old := l.spare
	l.spare = nil
	l.fullMu.Unlock()
	var err error
	if old != nil {
		s.file = old.file
		if err = s.mark(l.cfg.NodeID); err == nil { // before it has its name, under which nothing of another segment may be found
			err = l.dir.Rename(old.name, s.name)
		}
		if err != nil {
			s.file.Close()
		}
	} else {
		s.file, err = l.dir.Create(s.name, s.size)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", s.name, err)
	}
	return s, nil
}

// group returns what is known of the group, which may be nothing.
func (l *SegmentLog) group(id GroupID) *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[id]
	if g == nil {
		g = &group{id: id}
		l.groups[id] = g
		st, err := l.settled.Open(id)
		if err != nil {
			g.damaged, g.settled = err, l.settled.store(id)
			return g
		}
		g.settled = st.(*boltStore)
		if h := g.settled.getHead(); h.entries > 0 {
			g.live = spans{{h.first, h.last}}
		}
		g.known = g.settled.getHead() != head{}
	}
	return g
}

// Open implements [Log].
func (l *SegmentLog) Open(id GroupID) (Store, error) {
	if err := l.reserve(id); err != nil {
		return nil, fmt.Errorf("open group %s: %w", id, err)
	}
	g := l.group(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, id)
	if g.damaged != nil {
		return nil, g.damaged
	}
	l.open[id] = true
	return &segmentStore{handle: handle{id: id, refused: l.err, forget: func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, id)
	}}, log: l, group: g}, nil
}

// reserve marks a closed group as busy.
func (l *SegmentLog) reserve(id GroupID) error {
	if err := l.err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[id] || l.busy[id] {
		return ErrOpen
	}
	l.busy[id] = true
	return nil
}

// Remove implements [Log].
func (l *SegmentLog) Remove(id GroupID) error {
	if err := l.reserve(id); err != nil {
		return fmt.Errorf("remove group %s: %w", id, err)
	}
	g := l.group(id)
	data, it := appendRemoveItem(nil, id)
	err := l.do(&segmentRequest{group: g, data: data, items: []item{it}})
	l.mu.Lock()
	delete(l.busy, id)
	if err == nil {
		g.damaged = nil // what was damaged is not looked at any more
	}
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remove group %s: %w", id, err)
	}
	return nil
}

// Groups implements [Log].
func (l *SegmentLog) Groups() (ids []GroupID, err error) {
	if err := l.err(); err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, g := range l.groups {
		g.mu.RLock()
		if g.damaged != nil || len(g.pending.logs) > 0 || g.known && (len(g.recent) > 0 || len(g.live) > 0 || len(g.stable) > 0 || !g.removed && g.settled.getHead().stable > 0) {
			ids = append(ids, id)
		}
		g.mu.RUnlock()
	}
	slices.SortFunc(ids, func(a, b GroupID) int { return slices.Compare(a.bytes(), b.bytes()) })
	return ids, nil
}

// Stats implements [Log].
func (l *SegmentLog) Stats() Stats {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	return l.stats
}

// Writing implements [Log].
func (l *SegmentLog) Writing() time.Duration {
	began := l.began.Load()
	if began == 0 {
		return 0
	}
	return time.Since(time.Unix(0, began))
}

// Close implements [Log].
func (l *SegmentLog) Close() error {
	l.queueMu.Lock()
	l.closed = true
	l.queueMu.Unlock()
	l.filled.Signal()
	<-l.ended
	l.fullMu.Lock()
	again := l.stop
	l.stop = true
	l.calm.Stop()
	l.fullMu.Unlock()
	l.drained.Broadcast()
	l.settler.Wait()
	if again {
		return nil
	}
	var errs []error
	l.queueMu.Lock()
	failed := l.failed
	l.queueMu.Unlock()
	if failed == nil {
		errs = append(errs, l.settled.w.do(&request{apply: func(b *batch) (bool, error) {
			return false, putMeta(b.tx, closedKey, binary.BigEndian.AppendUint64(nil, l.next))
		}}))
	}
	open := append(l.full, l.current)
	if p := l.prepared; p != nil {
		if <-p.done; p.err == nil {
			open = append(open, p.seg)
		}
	}
	for _, s := range open {
		errs = append(errs, s.file.Close())
	}
	if l.spare != nil {
		errs = append(errs, l.spare.file.Close())
	}
	return errors.Join(append(errs, l.settled.Close())...)
}
