package fsm

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// bounds limit the work on runs that a flush does beside its own entries.
type bounds struct {
	mergeBase int // entries merged, a tree,
	mergeRate int // and so many more for each event that is flushed
	dropBase  int // blocks deleted, in all, and one more for every eight events
}

// An entry is merged once a tier, so a dozen for each new one keeps up with as many tiers, which is a store of 10^11 events.
var usualBounds = bounds{mergeBase: 4096, mergeRate: 12, dropBase: 512}

// runWriter writes a run's blocks in key order.
type runWriter struct {
	bucket *bolt.Bucket
	filter *filterWriter
	run    *run
	block  blockBuilder
}

func newRunWriter(tx *bolt.Tx, r *run, from []byte) *runWriter {
	w := &runWriter{bucket: tx.Bucket(bucketRuns), run: r}
	w.bucket.FillPercent = 1 // a run's keys only grow
	w.block.fence = append(w.block.fence, from...)
	if r.lines > 0 {
		w.filter = &filterWriter{bucket: tx.Bucket(bucketFilters), run: r}
		w.filter.bucket.FillPercent = 1
	}
	return w
}

func (w *runWriter) add(key, value []byte) error {
	if w.block.full(key, value) {
		if err := w.put(key); err != nil {
			return err
		}
	}
	w.block.add(key, value)
	w.run.entries++
	if w.filter == nil {
		return nil
	}
	return w.filter.add(binary.BigEndian.Uint64(key))
}

func (w *runWriter) put(end []byte) error {
	w.run.blocks++
	return w.bucket.Put(w.block.build(w.run.id, end))
}

// pause writes what is complete up to the key next, with which another writer will go on.
func (w *runWriter) pause(next []byte) error {
	if w.block.n > 0 {
		if err := w.put(next); err != nil {
			return err
		}
	}
	if w.filter == nil {
		return nil
	}
	return w.filter.close()
}

func (w *runWriter) finish() error {
	if err := w.put(nil); err != nil {
		return err
	}
	if w.filter == nil {
		return nil
	}
	return w.filter.finish()
}

// step takes a merge further: at most budget entries of its inputs, read in d, whose transaction is older than tx. It returns what is left of the budget.
func (j *job) step(tx *bolt.Tx, d *disk, budget int) (left int, done bool, err error) {
	if budget <= 0 {
		return 0, false, nil
	}
	var inputs []*iterator // newest first
	for _, r := range d.order[j.out.tree] {
		if slices.Contains(j.inputs, r.id) {
			it, err := d.iterate(r, j.cursor)
			if err != nil {
				return 0, false, err
			}
			inputs = append(inputs, it)
		}
	}
	w := newRunWriter(tx, &j.out, j.cursor)
	for {
		var first *iterator
		for _, it := range inputs {
			if it.ok && (first == nil || bytes.Compare(it.key, first.key) < 0) {
				first = it
			}
		}
		if first == nil {
			return budget, true, w.finish()
		}
		key := first.key
		if budget <= 0 {
			j.cursor = bytes.Clone(key)
			return 0, false, w.pause(j.cursor)
		}
		if err := w.add(key, first.value); err != nil {
			return 0, false, err
		}
		for _, it := range inputs {
			if it.ok && bytes.Equal(it.key, key) { // older values of the same key are gone by this
				budget--
				if err := it.next(); err != nil {
					return 0, false, err
				}
			}
		}
	}
}

// tend takes the merges further and deletes blocks of merged runs, both for so many flushed entries.
func (c *catalog) tend(tx *bolt.Tx, d *disk, flushed int, bounds bounds, hook func(string) error) error {
	c.plan()
	var budget [trees]int
	for tree := range budget {
		budget[tree] = bounds.mergeBase + bounds.mergeRate*flushed
	}
	var done []job
	for i := range c.jobs {
		j := &c.jobs[i]
		left, finished, err := j.step(tx, d, budget[j.out.tree])
		if err != nil {
			return err
		}
		budget[j.out.tree] = left
		if finished {
			done = append(done, *j)
		}
		if err := hook("merge"); err != nil {
			return err
		}
	}
	if err := c.drop(tx, d, bounds.dropBase+flushed/8); err != nil {
		return err
	}
	for i := range done { // after drop: what d sees of them is all there
		c.install(&done[i])
		c.jobs = slices.DeleteFunc(c.jobs, func(j job) bool { return j.out.id == done[i].out.id })
	}
	return nil
}

// drop deletes blocks and filters of merged runs.
func (c *catalog) drop(tx *bolt.Tx, d *disk, budget int) error {
	for len(c.drops) > 0 {
		prefix := u64(c.drops[0])
		for _, b := range []struct {
			from *bolt.Bucket
			name []byte
		}{{d.runs, bucketRuns}, {d.filters, bucketFilters}} {
			cursor, to := b.from.Cursor(), tx.Bucket(b.name)
			for k, _ := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
				if budget == 0 {
					return nil
				}
				if err := to.Delete(k); err != nil {
					return err
				}
				budget--
			}
		}
		c.drops = c.drops[1:]
	}
	return nil
}
