package transport

import (
	"sync"
	"sync/atomic"
)

// inbox is a queue between the readers of connections and one consumer of what they read. Offering never blocks: what finds no room is
// refused. A goroutine works while something waits, and none when nothing does.
type inbox[T any] struct {
	handle   func(T)
	workers  int           // at once; with 1, items are handled in the order of put
	maxItems int           // that wait or are handled
	maxBytes int           // of those; a single item may be larger
	all      *atomic.Int64 // bytes in every inbox of the transport
	wg       *sync.WaitGroup

	mu      sync.Mutex // guards what follows
	queue   fifo[boxed[T]]
	items   int
	bytes   int
	running int
	closed  bool
}

type boxed[T any] struct {
	item T
	size int
}

// maxInbound bounds what all inboxes of a transport hold together, in bytes.
const maxInbound = 512 << 20

// ticket is room in an inbox for a message that is still coming in.
type ticket struct {
	size int
	free func(size int)
}

func (t *ticket) release() {
	if t != nil {
		t.free(t.size)
	}
}

// reserve takes room for an item, and put or free must follow. ErrOverloaded: there is no room. ErrClosed: the inbox is closed.
func (b *inbox[T]) reserve(size int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if b.items >= b.maxItems || b.items > 0 && b.bytes+size > b.maxBytes {
		return ErrOverloaded
	}
	if b.all.Add(int64(size)) > maxInbound {
		b.all.Add(int64(-size))
		return ErrOverloaded
	}
	b.items++
	b.bytes += size
	return nil
}

// free gives reserved room back.
func (b *inbox[T]) free(size int) {
	b.mu.Lock()
	b.items--
	b.bytes -= size
	b.mu.Unlock()
	b.all.Add(int64(-size))
}

// put queues an item in reserved room. ErrClosed: the inbox is closed, and the room is given back.
func (b *inbox[T]) put(item T, size int) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.free(size)
		return ErrClosed
	}
	b.queue.push(boxed[T]{item, size})
	if b.running < b.workers {
		b.running++
		b.wg.Add(1)
		go b.work() // ends when nothing waits
	}
	b.mu.Unlock()
	return nil
}

// offer reserves and puts.
func (b *inbox[T]) offer(item T, size int) error {
	if err := b.reserve(size); err != nil {
		return err
	}
	return b.put(item, size)
}

func (b *inbox[T]) work() {
	defer b.wg.Done()
	for {
		b.mu.Lock()
		next, ok := b.queue.pop()
		if !ok {
			b.running--
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		b.handle(next.item)
		b.free(next.size)
	}
}

// close throws away what waits and takes no more. What is being handled goes on.
func (b *inbox[T]) close() {
	b.mu.Lock()
	b.closed = true
	var dropped int
	for {
		next, ok := b.queue.pop()
		if !ok {
			break
		}
		b.items--
		b.bytes -= next.size
		dropped += next.size
	}
	b.mu.Unlock()
	b.all.Add(int64(-dropped))
}

// fifo is a queue that reuses its memory.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) push(v T) {
	if q.head > len(q.items)/2 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

func (q *fifo[T]) pop() (v T, ok bool) {
	if q.head == len(q.items) {
		return v, false
	}
	var zero T
	v, q.items[q.head] = q.items[q.head], zero
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return v, true
}

func (q *fifo[T]) front() *T {
	if q.head == len(q.items) {
		return nil
	}
	return &q.items[q.head]
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }
