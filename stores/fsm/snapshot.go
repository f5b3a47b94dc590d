package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// A state on its way to another replica is the bbolt file as one read transaction sees it, and a trailer:
//
//	file (size known before) · magic (8) · length of file (8) · CRC32C of file (4)
const (
	trailerMagic = "QUORSNP1"
	trailerSize  = 8 + 8 + 4
)

// OpenSnapshot streams one consistent state: everything applied when it is called. size is exact. Closing the stream ends the transaction, also
// when only a part was read.
func (f *FSM) OpenSnapshot() (index, term uint64, size int64, rc io.ReadCloser, err error) {
	f.file.RLock()
	f.disk.Lock()
	var tx *bolt.Tx
	if err = f.flushLocked(); err == nil {
		tx, err = f.db.Begin(false)
	}
	f.disk.Unlock()
	if err != nil {
		f.file.RUnlock()
		return 0, 0, 0, nil, err
	}
	var st state
	st.read(tx)
	length := tx.Size()
	pr, pw := io.Pipe()
	s := &snapshotStream{PipeReader: pr}
	s.done.Add(1)
	go func() { // ends when everything is read or the reader is closed
		defer s.done.Done()
		defer f.file.RUnlock()
		defer tx.Rollback()
		crc := crc32.New(castagnoli)
		n, err := tx.WriteTo(io.MultiWriter(pw, crc))
		if err == nil && n != length {
			err = fmt.Errorf("snapshot: wrote %d bytes, wanted %d", n, length)
		}
		if err == nil {
			_, err = pw.Write(trailer(n, crc))
		}
		pw.CloseWithError(err)
	}()
	return st.applied, st.term, length + trailerSize, s, nil
}

type snapshotStream struct {
	*io.PipeReader
	done sync.WaitGroup
}

func (s *snapshotStream) Close() error {
	err := s.PipeReader.Close()
	s.done.Wait()
	return err
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
	defer os.Remove(tmp)
	if err := receive(tmp, rc); err != nil {
		return fmt.Errorf("restore %s: %w", f.cfg.Path, err)
	}
	db, st, err := openFile(tmp, f.cfg)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if own, _ := f.Applied(); st.applied < own {
		f.cfg.Logger.Info("a received state is older than the present one and is ignored", "received", st.applied, "present", own)
		return nil
	}
	f.file.Lock()
	defer f.file.Unlock()
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("restore: close the old state: %w", err)
	}
	rerr := os.Rename(tmp, f.cfg.Path)
	if rerr == nil {
		rerr = syncDir(filepath.Dir(f.cfg.Path))
	}
	if f.db, st, err = openFile(f.cfg.Path, f.cfg); err != nil {
		f.cfg.OnFatal(fmt.Errorf("restore: reopen %s: %w", f.cfg.Path, err))
		return err
	}
	f.publish(st)
	return rerr
}

// receive writes the stream to path, synced, and checks it against its trailer.
func receive(path string, r io.Reader) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o640)
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

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Hash returns a digest of the logical state: all buckets in key order, without what depends on the file. Replicas that applied the same
// entries have the same.
func (f *FSM) Hash() ([]byte, error) {
	h := sha256.New()
	err := f.view(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			write(h, name)
			err := tx.Bucket(name).ForEach(func(k, v []byte) error {
				write(h, k)
				write(h, v)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return h.Sum(nil), err
}

func write(h hash.Hash, b []byte) {
	h.Write(u64(uint64(len(b))))
	h.Write(b)
}

// Verify walks the whole state and reports the first thing that contradicts another: checksums, dense positions and versions, ids. It is for tests
// and for operators who doubt a disk; its cost is that of reading everything.
func (f *FSM) Verify() error {
	if err := f.Flush(); err != nil { // bbolt counts keys only of what is committed
		return err
	}
	return f.view(func(tx *bolt.Tx) error {
		var st state
		st.read(tx)
		events, streams, names, index, ids := tx.Bucket(bucketEvents), tx.Bucket(bucketStreams), tx.Bucket(bucketNames), tx.Bucket(bucketIndex), tx.Bucket(bucketIDs)
		next := make(map[uint64]uint64) // stream number → next version
		position := uint64(0)
		err := events.ForEach(func(k, v []byte) error {
			position++
			if parseU64(k) != position {
				return fmt.Errorf("%w: events: wanted position %d, found %d", ErrDamaged, position, parseU64(k))
			}
			rec, err := decodeRecord(position, v)
			if err != nil {
				return err
			}
			if rec.version != next[rec.stream] {
				return fmt.Errorf("%w: event %d: wanted version %d, found %d", ErrDamaged, position, next[rec.stream], rec.version)
			}
			next[rec.stream]++
			if got := parseU64(index.Get(append(u64(rec.stream), u64(rec.version)...))); got != position {
				return fmt.Errorf("%w: index of event %d: found %d", ErrDamaged, position, got)
			}
			if got := parseU64(ids.Get(idKey(rec.event.ID))); got != position {
				return fmt.Errorf("%w: id of event %d: found %d", ErrDamaged, position, got)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if position != st.position || uint64(len(next)) != st.streams {
			return fmt.Errorf("%w: wanted %d events in %d streams, found %d in %d", ErrDamaged, st.position, st.streams, position, len(next))
		}
		for _, c := range []struct {
			name []byte
			want uint64
		}{{bucketIndex, st.position}, {bucketIDs, st.position}, {bucketStreams, st.streams}, {bucketNames, st.streams}} {
			if got := uint64(tx.Bucket(c.name).Stats().KeyN); got != c.want {
				return fmt.Errorf("%w: %s: wanted %d keys, found %d", ErrDamaged, c.name, c.want, got)
			}
		}
		for number, count := range next {
			name := names.Get(u64(number))
			v := streams.Get(name)
			if len(v) != 16 || parseU64(v[:8]) != number || parseU64(v[8:]) != count {
				return fmt.Errorf("%w: stream %q: wanted number %d with %d events, found %x", ErrDamaged, name, number, count, v)
			}
		}
		return nil
	})
}
