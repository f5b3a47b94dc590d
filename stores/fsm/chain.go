package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// A stream's events are found without an index of their own: every event points back to others of its stream, and the stream's head points to the last.
//
// The event of version v points to version v-8^l for every l with 8^l ≤ v that 8^l divides v by: every event to the one before it, every eighth also eight
// back, every 64th also 64 back. These pointers lie in the event's record, under its checksum. The head holds, for every l, where the last version is that 8^l
// divides; one level more than has been reached, which is version 0. So the next event's pointers are known without reading anything, and any
// version is at most 7 hops a level away from the head.
//
//	versions  0 ─────────── 8 ─────────── 16 ── 17 ── 18 (last)
//	level 0   0‹1‹2‹…‹7‹────8‹9‹…‹15‹─────16‹───17‹───18   head.path[0]
//	level 1   0‹────────────8‹────────────16               head.path[1]
//	level 2   0                                            head.path[2]
const stride = 8

// head is what is known of a stream.
type head struct {
	number uint64   // of the stream, dense from 1
	count  uint64   // events; 0: the stream does not exist
	path   []uint64 // positions; see above. Its length follows from count
}

// pathLength returns how many positions the head of a stream of count events holds.
func pathLength(count uint64) int {
	n := 1
	for v := count - 1; v > 0; v /= stride {
		n++
	}
	return n
}

// pointers returns how many pointers the event of the version has.
func pointers(version uint64) int {
	n := 0
	for step := uint64(1); step <= version && version%step == 0; step *= stride {
		n++
		if step > version/stride {
			break
		}
	}
	return n
}

// push adds the event at the position. The pointers of its record are path[:pointers(count)] as they were before.
func (h *head) push(position uint64) {
	version := h.count
	h.count++
	if version == 0 {
		h.path = append(h.path[:0], position)
		return
	}
	if want := pathLength(h.count); len(h.path) < want {
		h.path = append(h.path, h.path[len(h.path)-1])
	}
	for l := range pointers(version) {
		h.path[l] = position
	}
}

func (h *head) clone() head {
	return head{number: h.number, count: h.count, path: slices.Clone(h.path)}
}

// encode appends count and path; positions of a path descend.
func (h *head) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, h.count)
	b = binary.AppendUvarint(b, h.path[0])
	for i, p := range h.path[1:] {
		b = binary.AppendUvarint(b, h.path[i]-p)
	}
	return b
}

func decodeHead(number uint64, b []byte) (head, error) {
	r := reader{rest: b}
	h := head{number: number, count: r.uvarint()}
	if h.count == 0 || r.err != nil {
		return head{}, fmt.Errorf("%w: head of stream number %d cannot be read", ErrDamaged, number)
	}
	h.path = make([]uint64, pathLength(h.count))
	h.path[0] = r.uvarint()
	for i := range h.path[1:] {
		h.path[i+1] = h.path[i] - r.uvarint()
	}
	if err := r.end(); err != nil {
		return head{}, fmt.Errorf("%w: head of stream number %d: %w", ErrDamaged, number, err)
	}
	return h, nil
}

// seek returns the position of the version, which must be below h.count, hopping from the head over records. The hops read only the fronts of records;
// what they lead to is held against stream and version by whoever reads the whole record, with its checksum.
func (v *view) seek(h *head, version uint64) (uint64, error) {
	last := h.count - 1
	level, step := 0, uint64(1)
	for l, s := 0, uint64(1); l < len(h.path); l, s = l+1, s*stride {
		if s > last { // the top of the path is version 0
			if version == 0 {
				return h.path[l], nil
			}
			break
		}
		if last-last%s < version {
			break
		}
		level, step = l, s
	}
	at, position := last-last%step, h.path[level]
	for at > version {
		front, err := v.front(position)
		if err != nil {
			return 0, err
		}
		if front.stream != h.number || front.version != at {
			return 0, fmt.Errorf("%w: pointers of stream number %d version %d lead to event %d, which is version %d of stream number %d", ErrDamaged, h.number, at, position, front.version, front.stream)
		}
		level, step = 0, 1
		for l, s := 1, uint64(stride); l < front.n && at-version >= s; l, s = l+1, s*stride {
			level, step = l, s
		}
		at, position = at-step, front.back[level]
	}
	return position, nil
}
