package wal

import (
	"errors"
	"fmt"
	"runtime"
	"time"
)

// segmentRequest is one write that waits for its batch.
type segmentRequest struct {
	group *group
	data  []byte // its records
	items []item // the same, with places relative to data
	begun bool   // the group's pending entries: nobody waits in do
	done  chan error
}

// answer tells whoever waits that the request is on the disk, or never will be.
func (r *segmentRequest) answer(err error) {
	switch {
	case !r.begun:
		r.done <- err
	case err != nil:
		r.group.landed(err)
	}
}

var errLogClosed = errors.New("the log is closing")

// do queues a request and waits until it is on the disk and visible. When nobody is writing the caller does: it would sleep anyway, and to wake another goroutine
// and be woken takes as long as a small write.
func (l *SegmentLog) do(r *segmentRequest) error {
	r.done = make(chan error, 1)
	l.queueMu.Lock()
	if err := l.refusal(); err != nil {
		l.queueMu.Unlock()
		return err
	}
	l.queue = append(l.queue, r)
	writes := !l.writing
	l.writing = true
	l.queueMu.Unlock()
	if writes {
		l.serve()
	}
	return <-r.done
}

// enqueue queues a request. Requests reach the disk in the order in which they were queued.
func (l *SegmentLog) enqueue(r *segmentRequest) error {
	l.queueMu.Lock()
	if err := l.refusal(); err != nil {
		l.queueMu.Unlock()
		return err
	}
	l.queue = append(l.queue, r)
	l.queueMu.Unlock()
	l.filled.Signal()
	return nil
}

// err returns why no call may be served, or nil.
func (l *SegmentLog) err() error {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	return l.refusal()
}

func (l *SegmentLog) refusal() error {
	if l.failed != nil {
		return l.failed
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// run writes what nobody in do writes. It ends when the log is closed and nothing is queued, or after a failure.
func (l *SegmentLog) run() {
	defer close(l.ended)
	for {
		l.queueMu.Lock()
		for l.writing || len(l.queue) == 0 && !l.closed && l.failed == nil {
			l.filled.Wait()
		}
		if len(l.queue) == 0 {
			l.queueMu.Unlock()
			return
		}
		l.writing = true
		l.queueMu.Unlock()
		l.serve()
	}
}

// yields is how often others get the processor before a batch is taken.
const yields = 2

// serve is the writer, of whom there is one at a time: it takes everything that waits, writes it as one batch, syncs, makes it visible, and answers. While a
// batch is on its way to the disk the next one gathers. Nobody waits for a timer; but who is about to write something comes first, which costs nothing when there is
// nobody, and on a busy machine makes one sync of many.
func (l *SegmentLog) serve() {
	for range yields {
		runtime.Gosched()
	}
	reqs := l.take()
	l.began.Store(time.Now().UnixNano())
	err := l.writeBatch(reqs)
	l.began.Store(0)
	if err != nil {
		l.fail(err)
	}
	l.queueMu.Lock()
	if err != nil {
		err = l.failed
		reqs = append(reqs, l.queue...)
		l.queue = nil
	}
	l.writing = false
	l.queueMu.Unlock()
	l.filled.Signal()
	for _, r := range reqs {
		r.answer(err)
	}
}

// take takes as much of the queue as one batch may hold.
func (l *SegmentLog) take() []*segmentRequest {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	n, size := 0, 0
	for n < len(l.queue) && n < maxBatchRequests && (n == 0 || size+len(l.queue[n].data) <= maxBatchBytes) {
		size += len(l.queue[n].data)
		n++
	}
	reqs := l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil // lets the array go
	}
	return reqs
}

func (l *SegmentLog) writeBatch(reqs []*segmentRequest) error {
	size := batchHead + batchAlign
	for _, r := range reqs {
		size += len(r.data)
	}
	if l.current.end+int64(size) > l.current.size {
		if err := l.roll(int64(size)); err != nil {
			return err
		}
	}
	s := l.current
	if cap(l.buf) < size {
		l.buf = make([]byte, 0, size+size/4)
	}
	b := l.buf[:batchHead]
	for _, r := range reqs {
		b = append(b, r.data...)
	}
	b = s.sealBatch(b, l.next)
	if cap(l.buf) > maxBatchBytes*2 {
		l.buf = nil // one huge batch should not keep its memory
	}
	if _, err := s.file.WriteAt(b, s.end); err != nil {
		return fmt.Errorf("write %s: %w", s.name, err)
	}
	if err := s.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.name, err)
	}
	// Durable. Whoever reads from now on may see it.
	var sum Stats
	base := s.end + batchHead
	for _, r := range reqs {
		for i := range r.items {
			it := &r.items[i]
			if it.kind == kindDelete {
				first, last := r.group.bounds()
				if lo, hi := max(first, it.lo), min(last, it.hi); first > 0 && lo <= hi {
					sum.Deleted += hi - lo + 1
				}
			}
			if it.kind == kindEntry {
				sum.Entries++
			}
			if err := r.group.apply(it, s, base); err != nil {
				return err
			}
		}
		if r.begun {
			r.group.landed(nil)
		}
		base += int64(len(r.data))
		sum.Bytes += uint64(len(r.data))
	}
	s.end += int64(len(b))
	l.next++
	if l.prepared == nil && s.end > s.size/2 {
		l.prepare(s.number + 1)
	}
	l.queueMu.Lock()
	l.stats.Syncs++
	l.stats.Batches++
	l.stats.Requests += uint64(len(reqs))
	l.stats.MaxBatch = max(l.stats.MaxBatch, uint64(len(reqs)))
	l.stats.Entries += sum.Entries
	l.stats.Deleted += sum.Deleted
	l.stats.Bytes += sum.Bytes
	l.queueMu.Unlock()
	return nil
}

// preparation is a segment that is being made.
type preparation struct {
	done chan struct{} // closed when seg or err is set
	seg  *segment
	err  error
}

// prepare makes the next segment's file in the background, so that nobody waits for its zeroes to be written.
func (l *SegmentLog) prepare(number uint64) {
	p := &preparation{done: make(chan struct{})}
	l.prepared = p
	go func() { // ends with the file; Close waits for it
		defer close(p.done)
		p.seg, p.err = l.create(number)
	}()
}

// roll begins the next segment, with room for a batch of so many bytes. It waits while too many full ones are not settled.
func (l *SegmentLog) roll(size int64) error {
	full := l.current
	if l.prepared == nil {
		l.prepare(full.number + 1)
	}
	p := l.prepared
	<-p.done
	l.prepared = nil
	next, err := p.seg, p.err
	if err != nil { // that was a while ago, when the disk was full perhaps; nothing is lost by asking it again
		l.cfg.Logger.Warn("the next segment could not be prepared; it is tried again now that it is needed", "error", err)
		if next, err = l.create(full.number + 1); err != nil {
			return err
		}
	}
	if err := next.begin(l.cfg.NodeID, l.next); err != nil {
		next.file.Close()
		return fmt.Errorf("begin %s: %w", next.name, err)
	}
	next.size = max(next.size, segmentHead+size) // a batch beyond the file's end makes it longer
	l.fullMu.Lock()
	for len(l.full) >= l.cfg.Resting+maxWaiting && !l.stop && l.alive() {
		l.drained.Wait()
	}
	l.full = append(l.full, full)
	l.filling = time.Now()
	l.calm.Reset(calmAfter)
	l.fullMu.Unlock()
	l.drained.Broadcast()
	l.current = next
	return nil
}

func (l *SegmentLog) alive() bool {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	return l.failed == nil
}

// fail ends the log, once. It is marked before anybody hears of it, and the owner hears of it first: usually that is the end of the process.
func (l *SegmentLog) fail(err error) {
	l.queueMu.Lock()
	first := l.failed == nil
	if first {
		l.failed = fmt.Errorf("raft log: write failed, nothing is acknowledged any more: %w", err)
		err = l.failed
	}
	l.queueMu.Unlock()
	if first {
		l.cfg.OnFatal(err)
	}
	l.fullMu.Lock()
	defer l.fullMu.Unlock()
	l.drained.Broadcast()
}
