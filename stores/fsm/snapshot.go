package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
)

// A state on its way to another replica is the bbolt file as one read transaction sees it, and a trailer:
//
//	file (size known before) · magic (8) · length of file (8) · CRC32C of file (4)
const (
	trailerMagic = "QUORSNP1"
	trailerSize  = 8 + 8 + 4
)

// ErrSnapshotAborted ends a snapshot stream when the file is about to be replaced under it. A new one can be opened at once.
var ErrSnapshotAborted = errors.New("the state file is being replaced; open the snapshot again")

// OpenSnapshot streams one consistent state: everything applied when it is called. size is exact. Closing the stream ends the transaction, also
// when only a part was read. While it is open, pages that flushes free are not used again: the file grows, flushes do not wait.
func (f *FSM) OpenSnapshot() (index, term uint64, size int64, rc io.ReadCloser, err error) {
	if err := f.Flush(); err != nil {
		return 0, 0, 0, nil, err
	}
	leave, err := f.enter()
	if err != nil {
		return 0, 0, 0, nil, err
	}
	tx, err := f.db.Begin(false)
	if err != nil {
		leave()
		return 0, 0, 0, nil, err
	}
	var st state
	length := tx.Size()
	pr, pw := io.Pipe()
	s := &snapshotStream{PipeReader: pr, writer: pw}
	if err = guard(func() error { return st.read(tx) }); err == nil {
		err = f.addStream(s)
	}
	if err != nil {
		err = errors.Join(err, tx.Rollback())
		leave()
		return 0, 0, 0, nil, err
	}
	s.done.Add(1)
	go func() { // ends when everything is read, the reader is closed, or the stream is aborted
		defer s.done.Done()
		defer leave()
		defer tx.Rollback()
		crc := crc32.New(castagnoli)
		n, err := tx.WriteTo(io.MultiWriter(pw, crc))
		if err == nil && n != length {
			err = fmt.Errorf("snapshot: wrote %d bytes, wanted %d", n, length)
		}
		if err == nil {
			_, err = pw.Write(trailer(n, crc))
		}
		f.mu.Lock()
		delete(f.streams, s)
		f.mu.Unlock()
		pw.CloseWithError(err)
	}()
	return st.applied, st.term, length + trailerSize, s, nil
}

type snapshotStream struct {
	*io.PipeReader
	writer *io.PipeWriter
	done   sync.WaitGroup
}

func (s *snapshotStream) Close() error {
	err := s.PipeReader.Close()
	s.done.Wait()
	return err
}

func (f *FSM) addStream(s *snapshotStream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.replacing > 0 || f.closed {
		return ErrSnapshotAborted
	}
	f.streams[s] = struct{}{}
	return nil
}

// lockFile takes file for itself. Readers end soon; snapshot streams are as slow as a peer, so they are aborted.
func (f *FSM) lockFile() (unlock func()) {
	f.mu.Lock()
	f.replacing++
	for s := range f.streams {
		s.writer.CloseWithError(ErrSnapshotAborted)
	}
	f.mu.Unlock()
	f.file.Lock()
	return func() {
		f.mu.Lock()
		f.replacing--
		f.mu.Unlock()
		f.file.Unlock()
		f.cfg.Shared.leave()
	}
}

// bbolt cannot map more of the file while a read transaction is open, and while a flush waits for that, readers wait too. So much more address space is
// reserved than the file needs (it is not memory: of 128 TiB, eight thousand stores take a half), and when that nears its end the file is closed and
// opened with more, between two flushes.
const (
	minReserve   = 8 << 30
	leastReserve = 256 << 20 // where the system does not give as much
	reserveTimes = 4
	reserveSlack = 1 << 30 // more than the merges of a flush write, and than is applied between the look at the map and the flush
)

// reserve returns how much address space the file at the path gets.
func reserve(path string) int64 {
	size := int64(minReserve)
	if fi, err := os.Stat(path); err == nil {
		size = max(size, reserveTimes*fi.Size())
	}
	return min((size+1<<30-1)>>30<<30, math.MaxInt)
}

// mapShort reports whether the next flush could outgrow the map. It must not: a flush holds a read transaction itself, for its merges, and so does the
// applier, and bbolt would wait for both to end. file is held.
func (f *FSM) mapShort() (short bool) {
	tx, err := f.db.Begin(false)
	if err != nil {
		return false
	}
	defer tx.Rollback()
	return tx.Size()+2*int64(f.unsynced())+min(reserveSlack, f.reserved/4) > f.reserved
}

// grow opens the file anew with more address space.
func (f *FSM) grow() error {
	defer f.lockFile()()
	if f.db == nil || !f.mapShort() { // closed, or another flush did
		return nil
	}
	return f.reopen(f.cfg.Path)
}

// reopen replaces db by the file at path, which is renamed to its place first if it is not there. The file is locked.
func (f *FSM) reopen(path string) error {
	f.applying.Lock()
	defer f.applying.Unlock()
	f.dropReader()
	if f.db != nil {
		if err := f.db.Close(); err != nil {
			return fmt.Errorf("close the state file: %w", err)
		}
	}
	var rerr error
	if path != f.cfg.Path {
		if rerr = f.folder.Rename(path, f.cfg.Path); rerr == nil {
			rerr = f.folder.Sync(filepath.Dir(path))
		}
	}
	// Only machines with nothing to flush may rest for it: a flush that grows has a slot.
	file, err := openSparing(f.cfg.Path, f.cfg, func() bool { return f.cfg.Shared.rest(1) > 0 })
	if err != nil {
		f.fail(fmt.Errorf("reopen %s: %w", f.cfg.Path, err))
		return err
	}
	f.db, f.reserved = file.db, file.reserved
	if path != f.cfg.Path {
		f.mu.Lock()
		f.active, f.frozen, f.dirty = nil, nil, false
		f.account(0, 0)
		f.restoring.Store(restoringUnknown) // before anybody sees the state
		f.announce(file.st)
		f.sweep.cuts.Add(1)
		f.sweep.renewed.Store(true)
		f.mu.Unlock()
	}
	return rerr
}

func (f *FSM) closing() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.closed
}

func trailer(length int64, crc hash.Hash32) []byte {
	b := []byte(trailerMagic)
	b = binary.BigEndian.AppendUint64(b, uint64(length))
	return binary.BigEndian.AppendUint32(b, crc.Sum32())
}

// Restore replaces the state by one that OpenSnapshot streamed. A stream that is cut off, damaged or another store's changes nothing. A state older
// than the present one is ignored: what is here contains it.
//
// We may die anywhere: until the rename the old file is in place, afterwards the new one is, and it was synced before.
func (f *FSM) Restore(rc io.ReadCloser) error {
	if err := f.Flush(); err != nil { // the present state may be kept, and then it counts as restored
		return fmt.Errorf("restore: %w", err)
	}
	tmp := f.cfg.Path + restoreSuffix
	defer f.folder.Remove(tmp)
	if err := receive(f.folder, tmp, rc); err != nil {
		return fmt.Errorf("restore %s: %w", f.cfg.Path, err)
	}
	f.waking.Lock() // before a place: whoever wakes the machine has this, and waits for one
	defer f.waking.Unlock()
	shared, ours := f.cfg.Shared, false
	shared.place(f.cfg.Prior) // for the received file, and then for the machine's own if it rests
	defer func() {
		if !ours {
			shared.giveUp()
		}
	}()
	received, err := openSparing(tmp, f.cfg, shared.spare)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := received.db.Close(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if own, _ := f.Applied(); received.st.applied < own {
		f.cfg.Logger.Info("a received state is older than the present one and is ignored", "received", received.st.applied, "present", own)
		return nil
	}
	if err := f.hook("received"); err != nil {
		return err
	}
	defer f.lockFile()()
	rests := f.db == nil
	err = f.reopen(tmp)
	if ours = rests && f.db != nil; ours {
		shared.opened(f)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return f.hook("restored")
}

// receive writes the stream to path, synced, and checks it against its trailer.
func receive(in folder, path string, r io.Reader) (err error) {
	file, err := in.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
	}()
	n, err := io.Copy(file, r)
	if err != nil {
		return err
	}
	length := n - trailerSize
	if length < 0 {
		return fmt.Errorf("%w: snapshot has %d bytes, wanted %d at least", ErrDamaged, n, trailerSize)
	}
	got := make([]byte, trailerSize)
	if _, err := file.ReadAt(got, length); err != nil {
		return err
	}
	crc := crc32.New(castagnoli)
	if _, err := io.Copy(crc, io.NewSectionReader(file, 0, length)); err != nil {
		return err
	}
	if want := trailer(length, crc); string(want) != string(got) {
		return fmt.Errorf("%w: snapshot trailer wanted %x, found %x", ErrDamaged, want, got)
	}
	if err := file.Truncate(length); err != nil {
		return err
	}
	return file.Sync()
}
