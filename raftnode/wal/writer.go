package wal

import (
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// Bounds of one batch, so that no commit takes for ever.
const (
	maxBatchRequests = 4096
	maxBatchBytes    = 16 << 20
)

// request is one write that waits for its commit.
type request struct {
	// apply does the write inside of the transaction. It returns more if a
	// piece is left: the request is then queued again behind all others. An
	// error of apply is a failure of the disk and ends the log.
	apply func(b *batch) (more bool, err error)
	size  int        // bytes it will write, for the bound of a batch
	done  chan error // buffered; answered once
}

// writer is the one goroutine that writes to the file. It ends when close was
// called and nothing is queued, or when a commit failed.
type writer struct {
	db      *bolt.DB
	onFatal func(error)
	ended   chan struct{} // closed when run has returned

	// failpoint, if set, runs at the end of every transaction; an error from it
	// fails the commit. Only tests set it, before their first write.
	failpoint func() error

	mu     sync.Mutex // guards what follows
	filled *sync.Cond // queue, closed changed
	queue  []*request
	closed bool
	failed error // set once: why nothing is acknowledged any more
	stats  Stats
}

func startWriter(db *bolt.DB, onFatal func(error)) *writer {
	w := &writer{db: db, onFatal: onFatal, ended: make(chan struct{})}
	w.filled = sync.NewCond(&w.mu)
	go w.run()
	return w
}

// do queues a request and waits for its answer.
func (w *writer) do(r *request) error {
	r.done = make(chan error, 1)
	w.mu.Lock()
	if err := w.refusal(); err != nil {
		w.mu.Unlock()
		return err
	}
	w.queue = append(w.queue, r)
	w.mu.Unlock()
	w.filled.Signal()
	return <-r.done
}

// err returns why no call may be served, or nil.
func (w *writer) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refusal()
}

// refusal is err with w.mu held.
func (w *writer) refusal() error {
	if w.failed != nil {
		return w.failed
	}
	if w.closed {
		return ErrClosed
	}
	return nil
}

// close refuses new requests and waits until those queued are answered.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.filled.Signal()
	<-w.ended
}

func (w *writer) snapshot() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

func (w *writer) run() {
	defer close(w.ended)
	for {
		reqs := w.take()
		if len(reqs) == 0 {
			return
		}
		b := &batch{groups: make(map[GroupID]*groupTx)}
		more, err := w.commit(b, reqs)
		if err != nil {
			w.fail(err, reqs)
			return
		}
		// Durable. Whoever reads from now on may see it.
		b.publish()
		w.mu.Lock()
		w.stats.Syncs++
		w.stats.Batches++
		w.stats.Requests += uint64(len(reqs))
		w.stats.MaxBatch = max(w.stats.MaxBatch, uint64(len(reqs)))
		w.stats.Entries += b.stats.Entries
		w.stats.Deleted += b.stats.Deleted
		w.stats.Bytes += b.stats.Bytes
		for i, r := range reqs {
			if more[i] {
				w.queue = append(w.queue, r)
			}
		}
		w.mu.Unlock()
		for i, r := range reqs {
			if !more[i] {
				r.done <- nil
			}
		}
	}
}

// take waits until something is queued and takes as much of it as one batch may
// hold. It returns nothing when the writer is closed and the queue empty.
func (w *writer) take() []*request {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && !w.closed {
		w.filled.Wait()
	}
	n, size := 0, 0
	for n < len(w.queue) && n < maxBatchRequests && size < maxBatchBytes {
		size += w.queue[n].size
		n++
	}
	reqs := w.queue[:n:n]
	w.queue = w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil // lets the array go
	}
	return reqs
}

// commit applies the requests in one transaction. more says which of them have
// a piece left.
func (w *writer) commit(b *batch, reqs []*request) (more []bool, err error) {
	more = make([]bool, len(reqs))
	err = guard(func() error {
		return w.db.Update(func(tx *bolt.Tx) error {
			b.tx = tx
			for i, r := range reqs {
				var err error
				if more[i], err = r.apply(b); err != nil {
					return err
				}
			}
			if err := b.finish(); err != nil {
				return err
			}
			if w.failpoint != nil {
				return w.failpoint()
			}
			return nil
		})
	})
	return more, err
}

// fail ends the log. It is marked before anybody hears of it, and the owner
// hears of it first: usually that is the end of the process.
func (w *writer) fail(err error, reqs []*request) {
	err = fmt.Errorf("raft log: write failed, nothing is acknowledged any more: %w", err)
	w.mu.Lock()
	w.failed = err
	reqs = append(reqs, w.queue...)
	w.queue = nil
	w.mu.Unlock()
	w.onFatal(err)
	for _, r := range reqs {
		r.done <- err
	}
}
