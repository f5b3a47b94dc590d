package fsm

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
)

// The index of types and tags. A term is a type or a tag; the positions of the events that have it are its postings. They are kept in chunks:
//
//	terms   hash of the term (8) · length (1) · last position of the chunk, big-endian without leading zeros → how far each earlier position lies before the
//	        next one (uvarint each), from the last to the first
//	types   a type → nothing: which types there are, for prefixes of types
//
// A run's chunks are those of one stretch of positions, and runs of a tree never overlap in it: what was flushed later lies behind. So the postings of a term are
// those of the runs one after the other, the oldest first, and then those of the overlays; nothing has to be merged to read them. The key holds the last position, so the
// first chunk at or behind a position is the one that a reader needs.
//
// A hash leads to events that may have the term; the event's record says whether it has.
const (
	chunkPostings = 256 // of a chunk at most
	kindType      = 't'
	kindTag       = 'g'
)

// hashTerm returns the hash under which postings of the term are kept. Types and tags of the same text are different terms.
func hashTerm(kind byte, text string) uint64 {
	var room [1 + 256]byte // types and tags have 256 bytes at most
	room[0] = kind
	n := copy(room[1:], text)
	if n < len(text) { // an entry of a node that checked less
		return hash64(string(kind) + text)
	}
	sum := sha256.Sum256(room[:1+n])
	return binary.BigEndian.Uint64(sum[:])
}

// terms are the postings of an overlay. The goroutine that applies adds to them what is not published yet, so whoever reads takes only positions up to
// those of its view: what is above may be undone. Slices only grow, so one that was taken stays as it is.
type terms struct {
	mu     sync.RWMutex // guards what follows
	byHash map[uint64]*posted
	byType map[string]*posted // the same, for types: most events are of a type that was seen before
	types  []string           // all types of the overlay's events
}

func newTerms() terms {
	return terms{byHash: make(map[uint64]*posted), byType: make(map[string]*posted)}
}

// posted is what an overlay knows of one hash.
type posted struct {
	positions []uint64 // ascending
	types     []string // that have the hash: one, and very nearly never more
}

// Costs of terms in an overlay, for its size.
const (
	postingCost = 16
	termCost    = 120
)

// add posts an event under its type and tags. It returns how many bytes that takes, nearly. mu is held.
func (t *terms) add(position uint64, e *EventRecord) (cost uint64) {
	p := t.byType[e.Type]
	if p == nil {
		name := strings.Clone(e.Type) // it lies in the entry's memory
		p, cost = t.posted(hashTerm(kindType, name))
		t.byType[name], p.types, t.types = p, append(p.types, name), append(t.types, name)
		cost += uint64(3*len(name)) + termCost
	}
	cost += p.post(position)
	for _, tag := range e.Tags {
		p, c := t.posted(hashTerm(kindTag, tag))
		cost += c + p.post(position)
	}
	return cost
}

func (t *terms) posted(hash uint64) (p *posted, cost uint64) {
	if p = t.byHash[hash]; p != nil {
		return p, 0
	}
	p = &posted{}
	t.byHash[hash] = p
	return p, termCost
}

func (p *posted) post(position uint64) (cost uint64) {
	if n := len(p.positions); n > 0 && p.positions[n-1] == position { // an event may have a tag twice
		return 0
	}
	p.positions = append(p.positions, position)
	return postingCost
}

// of returns the positions of the hash from low to high, both included.
func (t *terms) of(hash, low, high uint64) []uint64 {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	p := t.byHash[hash]
	var all []uint64
	if p != nil {
		all = p.positions
	}
	t.mu.RUnlock()
	from := sort.Search(len(all), func(i int) bool { return all[i] >= low })
	to := sort.Search(len(all), func(i int) bool { return all[i] > high })
	return all[from:max(from, to)]
}

// typesWith calls fn with the overlay's types that begin with the prefix, also those that are not published yet.
func (t *terms) typesWith(prefix string, fn func(typ string)) {
	if t == nil {
		return
	}
	t.mu.RLock()
	all := t.types
	t.mu.RUnlock()
	for _, typ := range all {
		if strings.HasPrefix(typ, prefix) {
			fn(typ)
		}
	}
}

// undo takes back what lies above the position.
func (t *terms) undo(last uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for hash, p := range t.byHash {
		n := len(p.positions)
		for n > 0 && p.positions[n-1] > last {
			n--
		}
		if p.positions = p.positions[:n:n]; n == 0 {
			t.types = slices.DeleteFunc(slices.Clone(t.types), func(typ string) bool { return slices.Contains(p.types, typ) })
			delete(t.byHash, hash)
			for _, typ := range p.types {
				delete(t.byType, typ)
			}
		}
	}
}

// chunk is the postings of one hash that are written together.
type chunk struct {
	hash      uint64
	positions []uint64
}

func (c *chunk) key() []byte { return postingKey(c.hash, c.positions[len(c.positions)-1]) }

// postingKey sorts as hash and position do.
func postingKey(hash, position uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 17), hash)
	n := 8
	for n > 1 && position>>(8*(n-1)) == 0 {
		n--
	}
	b = append(b, byte(n))
	for ; n > 0; n-- {
		b = append(b, byte(position>>(8*(n-1))))
	}
	return b
}

func (c *chunk) encode() []byte {
	b := make([]byte, 0, 2*len(c.positions))
	for i := len(c.positions) - 1; i > 0; i-- {
		b = binary.AppendUvarint(b, c.positions[i]-c.positions[i-1])
	}
	return b
}

// decodeChunk returns hash and positions of an entry of the tree, into the memory of positions.
func decodeChunk(key, value []byte, positions []uint64) (uint64, []uint64, error) {
	if len(key) < 10 || len(key) != 9+int(key[8]) {
		return 0, nil, fmt.Errorf("%w: terms: key %x", ErrDamaged, key)
	}
	hash, at := binary.BigEndian.Uint64(key), parsePosition(key[9:])
	positions = append(positions[:0], at)
	for r := (reader{rest: value}); len(r.rest) > 0; {
		d := r.uvarint()
		if d == 0 || d >= at || r.err != nil {
			return 0, nil, fmt.Errorf("%w: terms: chunk %x", ErrDamaged, key)
		}
		at -= d
		positions = append(positions, at)
	}
	slices.Reverse(positions)
	return hash, positions, nil
}

func (o *overlay) writeTerms(add func(key, value []byte) error) (int, error) {
	n := 0
	for _, p := range o.terms.byHash {
		n += (len(p.positions) + chunkPostings - 1) / chunkPostings
	}
	if add == nil {
		return n, nil
	}
	all := make([]chunk, 0, n)
	for hash, p := range o.terms.byHash {
		for part := range slices.Chunk(p.positions, chunkPostings) {
			all = append(all, chunk{hash, part})
		}
	}
	return n, addSorted(all, add, func(a, b chunk) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.positions[0], b.positions[0]))
	}, func(c chunk) (key, value []byte) { return c.key(), c.encode() })
}

func (o *overlay) writeTypes(add func(key, value []byte) error) (int, error) {
	if add == nil {
		return len(o.terms.types), nil
	}
	return len(o.terms.types), addSorted(slices.Clone(o.terms.types), add, strings.Compare, func(typ string) (key, value []byte) { return []byte(typ), nil })
}
