package natsbus

import (
	"context"
	"sync"
)

// work counts what runs in the background. Unlike a sync.WaitGroup it may be added to while somebody waits: requests still come when a node begins to
// stop.
type work struct {
	mu   sync.Mutex // guards what follows
	n    int
	idle chan struct{} // closed when n is 0; nil while nobody waits
}

// add counts something that ends with a call of done.
func (w *work) add() {
	w.mu.Lock()
	w.n++
	w.mu.Unlock()
}

// start runs fn in the background.
func (w *work) start(fn func()) {
	w.add()
	go func() { // ends with fn
		defer w.done()
		fn()
	}()
}

func (w *work) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// wait returns once nothing runs, or ctx's error.
func (w *work) wait(ctx context.Context) error {
	w.mu.Lock()
	if w.n == 0 {
		w.mu.Unlock()
		return nil
	}
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	w.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
