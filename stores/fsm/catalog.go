package fsm

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// The trees: each is a set of immutable sorted runs, of which newer ones go before older ones.
const (
	treeIDs   = iota // hash of an event id (8) · position, big-endian without leading zeros → nothing
	treeHeads        // hash of a stream's name (8) · number (8) → head, see chain.go; the newest counts
	treeList         // stream's name → number (uvarint); only for listing streams in name order
	treeTerms        // types and tags → positions of their events, see terms.go
	treeTypes        // a type → nothing, see terms.go
	trees
)

// hashed says whether the keys of a tree begin with a hash; its runs then have filters.
func hashed(tree uint8) bool { return tree != treeList && tree != treeTypes }

// run is one immutable sorted run.
type run struct {
	id         uint64 // unique in the file
	tree, tier uint8
	entries    uint64
	blocks     uint64
	lines      uint64 // of its filter; 0: it has none
	chunksDone uint64 // of its filter while it is being written: the last chunk on disk
	last       uint64 // position of the last event that is flushed with it, or with one of the runs it is merged from

	chunks [][]byte // filter chunks that were read, in the memory of one transaction
}

// job is a merge under way: inputs, runs of one tier, become out, a run of the next. Until it is done its inputs are what is read.
type job struct {
	inputs []uint64
	out    run
	cursor []byte // the next key to be taken
}

// catalog says which runs there are. It is written in the same transaction as the runs' blocks, so a crash finds both as they were after some flush.
type catalog struct {
	next  uint64 // the last run id given out
	runs  []run  // visible
	jobs  []job
	drops []uint64 // merged runs whose blocks are still to be deleted
}

func (c *catalog) write(tx *bolt.Tx) error {
	return tx.Bucket(bucketMeta).Put(keyCatalog, seal(keyCatalog, c.encode()))
}

func (c *catalog) encode() []byte {
	b := binary.AppendUvarint(nil, c.next)
	b = binary.AppendUvarint(b, uint64(len(c.runs)))
	for i := range c.runs {
		b = c.runs[i].encode(b)
	}
	b = binary.AppendUvarint(b, uint64(len(c.jobs)))
	for i := range c.jobs {
		j := &c.jobs[i]
		b = binary.AppendUvarint(b, uint64(len(j.inputs)))
		for _, id := range j.inputs {
			b = binary.AppendUvarint(b, id)
		}
		b = j.out.encode(b)
		b = appendBytes(b, j.cursor)
	}
	b = binary.AppendUvarint(b, uint64(len(c.drops)))
	for _, id := range c.drops {
		b = binary.AppendUvarint(b, id)
	}
	return b
}

func (r *run) encode(b []byte) []byte {
	for _, v := range []uint64{r.id, uint64(r.tree), uint64(r.tier), r.entries, r.blocks, r.lines, r.chunksDone, r.last} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func (r *reader) run() run {
	return run{
		id: r.uvarint(), tree: uint8(r.uvarint()), tier: uint8(r.uvarint()), entries: r.uvarint(), blocks: r.uvarint(), lines: r.uvarint(), chunksDone: r.uvarint(), last: r.uvarint(),
	}
}

func readCatalog(tx *bolt.Tx) (catalog, error) {
	body, err := unseal(keyCatalog, tx.Bucket(bucketMeta).Get(keyCatalog))
	if err != nil {
		return catalog{}, err
	}
	r := reader{rest: body}
	c := catalog{next: r.uvarint(), runs: make([]run, r.count(8))}
	for i := range c.runs {
		c.runs[i] = r.run()
	}
	c.jobs = make([]job, r.count(10))
	for i := range c.jobs {
		j := &c.jobs[i]
		j.inputs = make([]uint64, r.count(1))
		for k := range j.inputs {
			j.inputs[k] = r.uvarint()
		}
		j.out, j.cursor = r.run(), r.bytes()
	}
	c.drops = make([]uint64, r.count(1))
	for i := range c.drops {
		c.drops[i] = r.uvarint()
	}
	if err := r.end(); err != nil {
		return catalog{}, fmt.Errorf("%w: catalog of runs: %w", ErrDamaged, err)
	}
	return c, nil
}

// newest returns the visible runs of a tree, newest first: a tier's runs are newer than those of the next, and in a tier ids ascend with age lost.
func (c *catalog) newest(tree uint8) []*run {
	var of []*run
	for i := range c.runs {
		if c.runs[i].tree == tree {
			of = append(of, &c.runs[i])
		}
	}
	slices.SortFunc(of, func(a, b *run) int { return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(b.id, a.id)) })
	return of
}

// plan begins the merges that are due: when a tier has fanout runs that no merge has taken, the oldest of them become one run of the next tier. One merge
// a tier at a time, so that the results of a tier's merges are in order of age too.
func (c *catalog) plan() {
	for tree := range uint8(trees) {
		byTier := make(map[uint8][]*run)
		of := c.newest(tree)
		slices.Reverse(of)
		for _, r := range of {
			byTier[r.tier] = append(byTier[r.tier], r)
		}
		for tier := uint8(0); len(byTier) > 0; tier++ {
			runs := byTier[tier]
			delete(byTier, tier)
			if len(runs) < fanout || slices.ContainsFunc(c.jobs, func(j job) bool { return j.out.tree == tree && j.out.tier == tier+1 }) {
				continue
			}
			j := job{out: run{tree: tree, tier: tier + 1}}
			var entries uint64
			for _, r := range runs[:min(len(runs), 2*fanout)] {
				j.inputs, entries = append(j.inputs, r.id), entries+r.entries
				j.out.last = r.last // the oldest come first
			}
			c.next++
			j.out.id = c.next
			if hashed(tree) {
				j.out.lines = linesFor(entries)
			}
			c.jobs = append(c.jobs, j)
		}
	}
	slices.SortFunc(c.jobs, func(a, b job) int {
		return cmp.Or(cmp.Compare(a.out.tree, b.out.tree), cmp.Compare(a.out.tier, b.out.tier))
	})
}

// install makes the result of a merge visible in place of its inputs.
func (c *catalog) install(j *job) {
	c.runs = slices.DeleteFunc(c.runs, func(r run) bool { return slices.Contains(j.inputs, r.id) })
	c.runs = append(c.runs, j.out)
	c.drops = append(c.drops, j.inputs...)
}

// fanout is how many runs of a tier become one of the next. With four, ten million events in flushes of 12,000 make six tiers: an entry is rewritten five times, and a lookup asks
// about a dozen filters.
const fanout = 4
