package fsm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"

	bolt "go.etcd.io/bbolt"
)

// A run of hashes has a filter, which tells of nearly every hash that it is not in the run, at the price of one cache line. Without it every new id would be
// looked for in a block of every run.
//
//	key    run (8) · chunk (8)
//	value  line (64)…, filterLines of them at most
//	line   480 bits · CRC32C (4) of these, mixed with run and line
//
// The hashes of a run are spread over its lines in their order, so a run that is written in order has its filter written in order. Each line has its own checksum, for a
// flipped bit would hide an id. Filters are read where they lie, in the file's pages: they take no heap.
const (
	lineSize    = 64
	lineBits    = (lineSize - 4) * 8
	lineEntries = 32 // fifteen bits a hash: of a thousand, two are looked for in vain
	lineProbes  = 6
	filterLines = 512 // of a chunk
)

// linesFor returns how many lines a run of so many entries gets.
func linesFor(entries uint64) uint64 { return (entries + lineEntries - 1) / lineEntries }

func lineOf(hash, lines uint64) uint64 {
	hi, _ := bits.Mul64(hash, lines)
	return hi
}

// probe returns the i-th bit of a hash in its line.
func probe(hash uint64, i uint32) uint32 {
	x := hash * 0x9E3779B97F4A7C15
	hi, _ := bits.Mul32(uint32(x>>32)+i*(uint32(x)|1), lineBits)
	return hi
}

func lineChecksum(run, line uint64, bits []byte) uint32 {
	return crc32.Checksum(bits, castagnoli) ^ uint32((run*0x9E3779B97F4A7C15+line*0xC2B2AE3D27D4EB4F)>>32)
}

// mayHold reports whether the hash may be in the run; false is certain.
func (d *disk) mayHold(r *run, hash uint64) (bool, error) {
	line := lineOf(hash, r.lines)
	chunk := line / filterLines
	if r.chunks == nil {
		r.chunks = make([][]byte, (r.lines+filterLines-1)/filterLines)
	}
	c := r.chunks[chunk]
	if c == nil {
		if c = d.filters.Get(filterKey(r.id, chunk)); c == nil {
			return false, fmt.Errorf("%w: filter of run %d: chunk %d is missing", ErrDamaged, r.id, chunk)
		}
		r.chunks[chunk] = c
	}
	at := line % filterLines * lineSize
	if uint64(len(c)) < at+lineSize {
		return false, fmt.Errorf("%w: filter of run %d: chunk %d has %d bytes", ErrDamaged, r.id, chunk, len(c))
	}
	l := c[at : at+lineSize]
	if want, got := binary.BigEndian.Uint32(l[lineSize-4:]), lineChecksum(r.id, line, l[:lineSize-4]); want != got {
		return false, fmt.Errorf("%w: filter of run %d: line %d: checksum wanted %08x, found %08x", ErrDamaged, r.id, line, want, got)
	}
	for i := range uint32(lineProbes) {
		if bit := probe(hash, i); l[bit/8]&(1<<(bit%8)) == 0 {
			return false, nil
		}
	}
	return true, nil
}

func filterKey(run, chunk uint64) []byte { return binary.BigEndian.AppendUint64(u64(run), chunk) }

// filterWriter writes a run's filter, whose hashes come in ascending order. A chunk that a merge leaves half done is taken up again by the next step.
type filterWriter struct {
	bucket *bolt.Bucket
	run    *run
	chunk  uint64
	data   []byte // of the chunk; nil: none is open
}

func (w *filterWriter) add(hash uint64) error {
	line := lineOf(hash, w.run.lines)
	if err := w.open(line / filterLines); err != nil {
		return err
	}
	l := w.data[line%filterLines*lineSize:]
	for i := range uint32(lineProbes) {
		bit := probe(hash, i)
		l[bit/8] |= 1 << (bit % 8)
	}
	return nil
}

// open makes chunk the open one. Those before it are written, also where no hash fell into them.
func (w *filterWriter) open(chunk uint64) error {
	if w.data != nil && w.chunk == chunk {
		return nil
	}
	from := w.run.chunksDone
	if w.data != nil {
		if err := w.close(); err != nil {
			return err
		}
		from = w.chunk + 1
	}
	for ; from < chunk; from++ {
		w.load(from)
		if err := w.close(); err != nil {
			return err
		}
	}
	w.load(chunk)
	return nil
}

func (w *filterWriter) load(chunk uint64) {
	size := min(filterLines, w.run.lines-chunk*filterLines) * lineSize
	w.chunk, w.data = chunk, make([]byte, size)
	copy(w.data, w.bucket.Get(filterKey(w.run.id, chunk)))
}

// close writes the open chunk.
func (w *filterWriter) close() error {
	if w.data == nil {
		return nil
	}
	for i := 0; i < len(w.data); i += lineSize {
		l := w.data[i : i+lineSize]
		binary.BigEndian.PutUint32(l[lineSize-4:], lineChecksum(w.run.id, w.chunk*filterLines+uint64(i/lineSize), l[:lineSize-4]))
	}
	err := w.bucket.Put(filterKey(w.run.id, w.chunk), w.data)
	w.data, w.run.chunksDone = nil, w.chunk
	return err
}

// finish writes what is open and all that follows.
func (w *filterWriter) finish() error {
	if w.run.lines == 0 {
		return nil
	}
	if err := w.open((w.run.lines - 1) / filterLines); err != nil {
		return err
	}
	return w.close()
}
