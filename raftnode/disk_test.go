package raftnode

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/quorate/quorate/raftnode/wal"
)

var errCut = errors.New("the power is gone")

// disk is where a member's log keeps its segments: syncs can be held up, and what was not synced is lost when the power goes.
type disk struct {
	mu    sync.Mutex // guards what follows, and the files
	files map[string]*diskFile
	held  chan struct{} // syncs wait until it is closed; nil: they do not
	cut   bool
}

type diskFile struct {
	disk         *disk
	durable, now []byte
	written      [][2]int64 // ranges of now that are not in durable
}

var _ wal.Folder = (*disk)(nil)

func newDisk() *disk { return &disk{files: make(map[string]*diskFile)} }

// hold makes syncs wait.
func (d *disk) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = make(chan struct{})
}

// release lets them go on.
func (d *disk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
		d.held = nil
	}
}

// cutPower makes everything fail, syncs that are held up too.
func (d *disk) cutPower() {
	d.mu.Lock()
	d.cut = true
	d.mu.Unlock()
	d.release()
}

// restart brings the power back, and what was synced.
func (d *disk) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = false
	for _, f := range d.files {
		f.now, f.written = slices.Clone(f.durable), nil
	}
}

func (d *disk) err() error {
	if d.cut {
		return errCut
	}
	return nil
}

func (d *disk) Create(name string, size int64) (wal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &diskFile{disk: d, durable: make([]byte, size), now: make([]byte, size)}
	d.files[name] = f
	return f, d.err()
}

func (d *disk) Open(name string) (wal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[name]; f != nil {
		return f, d.err()
	}
	return nil, fs.ErrNotExist
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return errCut
	}
	delete(d.files, name)
	return nil
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut {
		return errCut
	}
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

func (d *disk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.files)), d.err()
}

func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.cut {
		return 0, errCut
	}
	f.written = append(f.written, [2]int64{at, at + int64(len(p))})
	return copy(f.now[at:], p), nil
}

func (f *diskFile) ReadAt(p []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n := copy(p, f.now[min(at, int64(len(f.now))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) Sync() error {
	f.disk.mu.Lock()
	held := f.disk.held
	f.disk.mu.Unlock()
	if held != nil {
		<-held
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.cut {
		return errCut
	}
	for _, w := range f.written {
		copy(f.durable[w[0]:w[1]], f.now[w[0]:w[1]])
	}
	f.written = nil
	return nil
}

func (f *diskFile) Size() (int64, error) { return int64(len(f.now)), nil }

func (f *diskFile) Close() error { return nil }
