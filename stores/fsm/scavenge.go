package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	berrors "go.etcd.io/bbolt/errors"
)

// Scavenging replaces the records of events that are gone by stubs, and gives the space to the file system (holes.go). Each replica does it for itself, in steps, behind
// what is flushed: only versions below the first one that the state on disk says are gone for good, for every reader there is and every state that can follow. How far it came is
// kept beside, in the same transaction as the stubs, and is no part of the logical state:
//
//	swept  stream → version (uvarint) · CRC32C: of this stream, versions below it are stubs, and no others
var bucketSwept = []byte("swept")

// Bounds of one step of scavenging.
const (
	sweepEvents = 4096
	sweepBytes  = 4 << 20
	sweepKeys   = 10_000 // streams looked at
)

// sweep is what scavenging and expiry know between their steps. It is lost with a restart, and costs a look at the streams that have a state.
type sweep struct {
	cuts    atomic.Uint64 // counts batches that changed a stream's state
	renewed atomic.Bool   // the file is another one than that which GiveBack knows
	limit   int           // records of a step; set before the first one
	least   int64         // as holesAt

	mu    sync.Mutex // held for a step of scavenging or expiry; guards what follows. Taken before file
	after string     // the stream that the last step came to; empty: from the first one
	round uint64     // cuts when the round began
	done  uint64     // cuts at the beginning of the last round that was completed
	holes int64      // where GiveBack goes on in the file

	settled bool // nothing was freed since GiveBack had nothing to do

	aged                string // the stream with which expiry goes on; round and done as above
	agedRound, agedDone uint64
	due, agedNext       int64 // when a stream can have an event that is too old: as the last round found, and as this one does so far
}

// Scavenged is what a step did.
type Scavenged struct {
	Events int // whose records were replaced
	Bytes  int // by so many bytes less
	More   bool
}

// cut is a record to be replaced.
type cut struct {
	position uint64
	stub     []byte
}

// Scavenge makes a step. While it says that there is more, the next step should follow. Readers and appliers go on meanwhile; a flush waits for the step's commit.
//
// We may die anywhere: a step is one transaction, and where it is lost, the next one finds the same to do.
func (f *FSM) Scavenge() (did Scavenged, err error) {
	f.sweep.mu.Lock()
	defer f.sweep.mu.Unlock()
	if f.sweep.after == "" {
		f.sweep.round = f.sweep.cuts.Load()
	}
	if f.nothingGone() || f.sweep.done == f.sweep.round+1 || f.streaming() {
		return did, nil
	}
	if f.sweep.after == "" {
		if err := f.Flush(); err != nil { // what was cut up to here is to be found on disk
			return did, err
		}
	}
	leave, err := f.enter()
	if err == nil && f.mapShort() {
		leave()
		if err := f.grow(); err != nil {
			return did, err
		}
		leave, err = f.enter()
	}
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return did, nil
	}
	if err == nil {
		err = guard(func() error {
			did, err = f.sweepStep()
			return err
		})
		leave()
	}
	if err != nil {
		f.fail(err)
	}
	return did, err
}

// nothingGone reports whether no stream has a state, or nothing can be written any more.
func (f *FSM) nothingGone() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.trimmed == 0 || f.failed != nil || f.closed
}

// streaming reports whether somebody reads a snapshot stream: what is freed meanwhile cannot be used again, so scavenging would make the file grow.
func (f *FSM) streaming() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.streams) > 0
}

func (f *FSM) sweepStep() (did Scavenged, err error) {
	cuts, swept, after, err := f.findCuts(&did)
	if err != nil {
		return did, err
	}
	if len(cuts) > 0 {
		if err := f.replace(cuts, swept); err != nil {
			return did, err
		}
	}
	if f.sweep.after = after; after == "" {
		f.sweep.done = f.sweep.round + 1
	}
	did.More = after != ""
	return did, nil
}

// findCuts looks for what is to be replaced, stream by stream. after is the stream to go on behind; empty: that was all. A stream with more than a step takes is left
// as the one to go on with.
func (f *FSM) findCuts(did *Scavenged) (cuts []cut, swept map[string]uint64, after string, err error) {
	tx, err := f.db.Begin(false)
	if err != nil {
		return nil, nil, "", err
	}
	defer tx.Rollback()
	d, err := openDisk(tx)
	if err != nil {
		return nil, nil, "", err
	}
	v := view{st: d.st, disk: d} // what is flushed, and nothing above it
	swept = make(map[string]uint64)
	last, looked := "", 0
	err = v.scan(streamKey(""), streamKey(f.sweep.after), func(key string, sealed []byte) (bool, error) {
		name := key[len(streamKey("")):]
		if looked++; looked > sweepKeys {
			after = last
			return false, nil
		}
		value, err := unseal([]byte(key), sealed)
		if err != nil {
			return false, err
		}
		s, err := decodeStream(value)
		if err != nil {
			return false, err
		}
		from, err := d.swept(name)
		if err != nil || !s.worth(from) {
			last = name
			return true, err
		}
		to := from
		if cuts, to, err = v.cuts(name, from, s.first, f.sweep.limit, cuts, did); err != nil {
			return false, err
		}
		if to > from {
			swept[name] = to
		}
		if to < s.first {
			after = name // a step begins with the stream that it goes on behind, so it comes back to this one
			return false, nil
		}
		last = name
		return true, nil
	})
	return cuts, swept, after, err
}

// worth reports whether versions from swept up to first are enough to be replaced. Where a limit cuts a little with every append, little would be replaced often, and each
// time pages be written for it.
func (s *streamState) worth(swept uint64) bool {
	n := s.first - min(swept, s.first)
	if s.deleted || s.tombstoned || s.maxCount == 0 {
		return n > 0
	}
	return n >= min(64, s.maxCount)
}

// cuts adds what replaces versions from to first of the stream, until the step is full. to is the version up to which it came.
func (v *view) cuts(name string, from, first uint64, limit int, cuts []cut, did *Scavenged) (_ []cut, to uint64, err error) {
	h, err := v.disk.head(name)
	if err != nil {
		return cuts, from, err
	}
	if h.count < first {
		return cuts, from, fmt.Errorf("%w: stream %q has %d events, and its first one is said to be version %d", ErrDamaged, name, h.count, first)
	}
	for to = from; to < first && did.Events < limit && did.Bytes < sweepBytes; {
		positions, err := v.positions(&h, to, min(lastStretch, uint64(limit-did.Events), first-to))
		if err != nil {
			return cuts, to, err
		}
		for _, position := range positions {
			value, err := v.disk.record(position)
			if err != nil {
				return cuts, to, err
			}
			front, err := decodeFront(position, value)
			if err != nil {
				return cuts, to, err
			}
			if front.stream != h.number || front.version != to {
				return cuts, to, misled(&h, to, position, front.stream, front.version)
			}
			stub, err := appendStub(nil, position, value) // checks the record too
			if err != nil {
				return cuts, to, err
			}
			cuts = append(cuts, cut{position, stub})
			to++
			did.Events++
			did.Bytes += len(value) - len(stub)
		}
	}
	return cuts, to, nil
}

// replace writes a step.
func (f *FSM) replace(cuts []cut, swept map[string]uint64) error {
	slices.SortFunc(cuts, func(a, b cut) int { return cmp.Compare(a.position, b.position) })
	f.flushing.Lock()
	defer f.flushing.Unlock()
	err := f.failure() // a commit of which nobody knows what became, maybe
	if err == nil {
		err = guard(func() error { return f.writeStubs(cuts, swept) })
	}
	if err != nil {
		f.end(err) // before a flush may begin
	}
	return err
}

// writeStubs writes a step in a transaction. flushing is held.
func (f *FSM) writeStubs(cuts []cut, swept map[string]uint64) error {
	tx, err := f.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	events := tx.Bucket(bucketEvents)
	events.FillPercent = 1 // pages that are less than half full are joined
	var key [8]byte
	for _, c := range cuts {
		binary.BigEndian.PutUint64(key[:], c.position)
		if err := events.Delete(key[:]); err != nil { // only pages from which something was deleted are joined
			return err
		}
		if err := events.Put(key[:], c.stub); err != nil {
			return err
		}
	}
	marks := tx.Bucket(bucketSwept)
	for name, version := range swept {
		if err := marks.Put([]byte(name), seal([]byte(name), binary.AppendUvarint(nil, version))); err != nil {
			return err
		}
	}
	if err := f.hook("swept"); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	f.applying.Lock()
	f.dropReader() // it keeps pages from being used again
	f.applying.Unlock()
	f.sweep.settled = false
	return f.hook("swept and committed")
}

// swept returns the version below which the stream has stubs.
func (d *disk) swept(stream string) (uint64, error) {
	sealed := d.tx.Bucket(bucketSwept).Get([]byte(stream))
	if sealed == nil {
		return 0, nil
	}
	value, err := unseal([]byte(stream), sealed)
	if err != nil {
		return 0, fmt.Errorf("swept: %w", err)
	}
	r := reader{rest: bytes.Clone(value)}
	version := r.uvarint()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("%w: swept: %q: %w", ErrDamaged, stream, err)
	}
	return version, nil
}

// verifyGone checks the states of streams against their heads, and that stubs stand where it was swept and nowhere else. Those that
// came with a backup stand above that, until it is swept again, but only for what is gone.
func (v *view) verifyGone(heads []head) error {
	states, swept := make([]streamState, len(heads)), make([]uint64, len(heads))
	n := uint64(0)
	for number := 1; number < len(heads); number++ {
		name, err := v.name(uint64(number))
		if err != nil {
			return err
		}
		if states[number], err = v.streamState(name); err != nil {
			return err
		}
		if swept[number], err = v.disk.swept(name); err != nil {
			return err
		}
		s, count := &states[number], heads[number].count
		if s.first > count || (s.deleted || s.tombstoned) && s.first != count || swept[number] > s.first {
			return fmt.Errorf("%w: stream %q has %d events, its state is %+v, and it is swept up to version %d", ErrDamaged, name, count, *s, swept[number])
		}
	}
	err := v.scan(streamKey(""), "", func(string, []byte) (bool, error) {
		n++
		return true, nil
	})
	if err != nil {
		return err
	}
	if n != v.st.trimmed {
		return fmt.Errorf("%w: %d streams have a state, wanted %d", ErrDamaged, n, v.st.trimmed)
	}
	restored, err := v.restore()
	if err != nil {
		return err
	}
	return v.each(1, func(position uint64, value []byte) (bool, error) {
		rec, err := peekRecord(position, value)
		below := swept[rec.stream]
		if restored != nil && rec.stub {
			below = states[rec.stream].first
		}
		if err == nil && rec.stub != (rec.version < below) {
			err = fmt.Errorf("%w: event %d, version %d of stream number %d: stub %v, and it is swept up to version %d", ErrDamaged, position, rec.version, rec.stream, rec.stub, swept[rec.stream])
		}
		return err == nil, err
	})
}
