package fsm

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

const (
	// maxPending is how many bytes an overlay holds before it is flushed without being asked.
	maxPending = 4 << 20
	// maxOverlay is how many bytes the overlays may hold together; above it applying waits for the flush.
	maxOverlay = 64 << 20
)

// Flush writes what is applied into the file. Durable on return. Readers and appliers go on meanwhile. Where machines share slots it waits for one.
//
// We may die anywhere. Before the commit the file is the state as it was, and raft gives the entries again; after it the file is the state as it was when the
// overlay froze, with its applied index. Runs, merges under way and the catalog are part of the same transaction.
func (f *FSM) Flush() error {
	err := f.flushInTurn()
	if err != nil {
		f.fail(err)
	}
	return err
}

// flushInTurn lets the machine's flushes through one by one, so that a machine has one slot at most, and those that find nothing left to do take none.
// While a slot is held, nothing is waited for that may itself wait for a slot: a flush does not wake a machine, and those who hold file, flushing or
// applying never begin a flush.
func (f *FSM) flushInTurn() error {
	f.turn.Lock() // what another flush is writing must be on disk when we say so
	defer f.turn.Unlock()
	if clean, err := f.clean(); clean {
		return err
	}
	defer f.slot()()
	leave := f.enterOpen()
	if leave != nil && f.mapShort() {
		leave()
		if err := f.grow(); err != nil {
			return err
		}
		leave = f.enterOpen()
	}
	if leave == nil {
		return nil
	}
	defer leave()
	return f.flush()
}

// clean reports that there is nothing to flush, or that nothing can be flushed any more, and then why. turn is held.
func (f *FSM) clean() (bool, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.failed != nil || !f.dirty && f.frozen == nil, f.failed
}

// flush is Flush for those who hold turn and file.
func (f *FSM) flush() error {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	frozen, st, err := f.freeze()
	if err == nil && frozen != nil {
		err = f.flushFrozen(frozen, st)
	}
	if err != nil {
		f.end(err) // before the next one may begin: it would drop what this one has not written
	}
	return err
}

// flushFrozen writes the frozen overlay. flushing is held.
func (f *FSM) flushFrozen(frozen *overlay, st state) error {
	if err := f.hook("frozen"); err != nil {
		return err
	}
	if err := guard(func() error { return f.commit(frozen, st) }); err != nil {
		return err // frozen stays: it is not on disk, and may be read
	}
	f.applying.Lock()
	f.mu.Lock()
	f.frozen = nil
	f.account(f.pending.Load(), 0)
	f.room.Broadcast()
	f.mu.Unlock()
	f.dropReader()        // the next batch must not look into what was before the flush, and what the flush freed must not be kept
	f.applier = applier{} // an idle machine keeps no memory for the next batch
	f.applying.Unlock()
	return f.hook("dropped")
}

// freeze makes the active overlay the frozen one. It returns nil when everything is on disk.
func (f *FSM) freeze() (*overlay, state, error) {
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil || !f.dirty {
		return nil, f.state, f.failed
	}
	if f.frozen != nil { // a flush that failed has ended the machine; nothing else leaves one
		return nil, f.state, errors.New("a flush begins before an earlier one is on disk")
	}
	f.frozen, f.active, f.dirty = f.active, nil, false
	if f.frozen == nil { // only entries without events
		f.frozen = newOverlay(f.state)
	}
	f.account(0, f.frozen.unsynced)
	return f.frozen, f.state, nil
}

func (f *FSM) commit(o *overlay, st state) (err error) {
	old, err := f.db.Begin(false) // merges read in it what they write anew
	if err != nil {
		return err
	}
	defer old.Rollback()
	d, err := openDisk(old)
	if err != nil {
		return err
	}
	tx, err := f.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after the commit
	if d.st.position != o.base.position || d.st.streams != o.base.streams {
		return fmt.Errorf("%w: the file ends at event %d of %d streams, what is to follow begins behind %d of %d", ErrDamaged, d.st.position, d.st.streams, o.base.position, o.base.streams)
	}
	cat := d.cat
	if err := cat.tend(tx, d, len(o.events), f.bounds, f.hook); err != nil {
		return err
	}
	if err := o.write(tx, &cat); err != nil {
		return err
	}
	if err := f.hook("written"); err != nil {
		return err
	}
	if err := cat.write(tx); err != nil {
		return err
	}
	if err := st.write(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return f.hook("committed")
}

// write puts the overlay into the transaction: events and names at the ends of their buckets, and one run a tree.
func (o *overlay) write(tx *bolt.Tx, cat *catalog) error {
	events, names := tx.Bucket(bucketEvents), tx.Bucket(bucketNames)
	events.FillPercent, names.FillPercent = 1, 1 // keys only grow
	var key [8]byte
	for i, rec := range o.events {
		binary.BigEndian.PutUint64(key[:], o.base.position+1+uint64(i))
		if err := events.Put(key[:], rec); err != nil {
			return err
		}
	}
	for i, name := range o.names {
		binary.BigEndian.PutUint64(key[:], o.base.streams+1+uint64(i))
		if err := names.Put(key[:], seal(key[:], append(make([]byte, 0, len(name)+4), name...))); err != nil {
			return err
		}
	}
	for tree, entries := range [trees]func(add func(key, value []byte) error) (int, error){o.writeIDs, o.writeHeads, o.writeList, o.writeTerms, o.writeTypes} {
		if err := writeRun(tx, cat, uint8(tree), o.base.position+uint64(len(o.events)), entries); err != nil {
			return err
		}
	}
	return o.writeKeys(tx)
}

// writeRun writes one run of tier 0; last is the last position it is about. entries counts when it is called without add.
func writeRun(tx *bolt.Tx, cat *catalog, tree uint8, last uint64, entries func(add func(key, value []byte) error) (int, error)) error {
	n, err := entries(nil)
	if n == 0 || err != nil {
		return err
	}
	cat.next++
	r := run{id: cat.next, tree: tree, last: last}
	if hashed(tree) {
		r.lines = linesFor(uint64(n))
	}
	w := newRunWriter(tx, &r, nil)
	if _, err := entries(w.add); err != nil {
		return err
	}
	if err := w.finish(); err != nil {
		return err
	}
	cat.runs = append(cat.runs, r)
	return nil
}

func (o *overlay) writeIDs(add func(key, value []byte) error) (int, error) {
	n := len(o.ids) + len(o.twins)
	if add == nil {
		return n, nil
	}
	all := append(make([]idEntry, 0, n), o.twins...)
	for hash, position := range o.ids {
		all = append(all, idEntry{hash, position})
	}
	return n, addSorted(all, add, func(a, b idEntry) int {
		if a.hash != b.hash { // hashes are nearly never the same
			return cmp.Compare(a.hash, b.hash)
		}
		return slices.Compare(a.key(), b.key())
	}, func(e idEntry) (key, value []byte) { return e.key(), nil })
}

func (o *overlay) writeHeads(add func(key, value []byte) error) (int, error) {
	if add == nil {
		return len(o.heads), nil
	}
	type entry struct {
		hash uint64
		head *head
	}
	all := make([]entry, 0, len(o.heads))
	for name, h := range o.heads {
		all = append(all, entry{hash64(name), h})
	}
	return len(all), addSorted(all, add, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.head.number, b.head.number))
	}, func(e entry) (key, value []byte) {
		return append(u64(e.hash), u64(e.head.number)...), e.head.encode(nil)
	})
}

func (o *overlay) writeList(add func(key, value []byte) error) (int, error) {
	if add == nil {
		return len(o.names), nil
	}
	type entry struct {
		name   string
		number uint64
	}
	all := make([]entry, len(o.names))
	for i, name := range o.names {
		all[i] = entry{name, o.base.streams + 1 + uint64(i)}
	}
	return len(all), addSorted(all, add, func(a, b entry) int { return cmp.Compare(a.name, b.name) },
		func(e entry) (key, value []byte) { return []byte(e.name), binary.AppendUvarint(nil, e.number) })
}

func addSorted[E any](all []E, add func(key, value []byte) error, order func(a, b E) int, split func(E) (key, value []byte)) error {
	slices.SortFunc(all, order)
	for _, e := range all {
		if err := add(split(e)); err != nil {
			return err
		}
	}
	return nil
}

// kick flushes in the background, and then calls done, unless that is going on already. It reports whether it does.
func (f *FSM) kick(done func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kicked || f.closed {
		return false
	}
	f.kicked = true
	f.background.Add(1)
	go func() { // ends when little is left to flush
		defer f.background.Done()
		defer done()
		for {
			err := f.Flush()
			f.mu.Lock()
			if err != nil || f.pending.Load() <= maxPending {
				f.kicked = false
				f.room.Broadcast()
				f.mu.Unlock()
				return
			}
			f.mu.Unlock()
		}
	}()
	return true
}

// Pressure says how full the overlays are, this machine's or those of all that share with it, whichever is fuller: 0 when everything is on disk, 1 when
// applying has to wait for a flush. Whoever lets requests in should refuse them from about 0.5 on, with 503 and a retry, for what waits in the log comes on
// top. It costs three atomic loads. Prior knows its own only.
func (f *FSM) Pressure() float64 {
	own := float64(f.unsynced()) / maxOverlay
	if f.cfg.Prior {
		return own
	}
	return max(own, f.cfg.Shared.pressure())
}

func (f *FSM) unsynced() uint64 { return f.pending.Load() + f.held.Load() }

// waitRoom waits while the overlays are full. It ends with a flush, or when the machine fails.
func (f *FSM) waitRoom() {
	if f.Pressure() <= 1 {
		return
	}
	if f.unsynced() > maxOverlay {
		f.waitOwnRoom()
	}
	if !f.cfg.Prior {
		f.cfg.Shared.waitRoom(f)
	}
}

func (f *FSM) waitOwnRoom() {
	f.kick(func() {})
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.failed == nil && f.kicked && f.unsynced() > maxOverlay {
		if f.hookFull != nil {
			f.hookFull()
		}
		f.room.Wait()
	}
}
