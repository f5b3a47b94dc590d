package wal

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// handle is what the stores of every [Log] share: whose group it is, and whether it may be used.
type handle struct {
	id      GroupID
	refused func() error // why the log serves nobody, or nil
	forget  func()       // lets the group be opened again

	// life is held for reading by every call, for writing by Close, which so waits for them. It guards closed.
	life   sync.RWMutex
	closed bool
}

// acquire begins a call; the caller must call release unless it fails.
func (h *handle) acquire() error {
	if err := h.refused(); err != nil {
		return h.wrap(err)
	}
	h.life.RLock()
	if h.closed {
		h.life.RUnlock()
		return h.wrap(ErrClosed)
	}
	return nil
}

func (h *handle) release() { h.life.RUnlock() }

func (h *handle) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("group %s: %w", h.id, err)
}

// Close implements [Store]. A second Close does nothing.
func (h *handle) Close() error {
	h.life.Lock()
	defer h.life.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	h.forget()
	return nil
}

// checkStable refuses a key or a value that no log takes.
func (h *handle) checkStable(key, val []byte) error {
	if len(key) == 0 || len(key) > maxKey || len(val) > maxRecord {
		return h.wrap(fmt.Errorf("set %q: key of %d bytes, value of %d: %w", key[:min(len(key), 32)], len(key), len(val), ErrTooLarge))
	}
	return nil
}

// uint64Of reads what SetUint64 wrote: 0 for a missing key, an error for a value that Set wrote and that is not 8 bytes long.
func (h *handle) uint64Of(key, v []byte, err error) (uint64, error) {
	if err == ErrKeyNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, h.wrap(fmt.Errorf("stable value %q has %d bytes: not a uint64", key, len(v)))
	}
	return binary.BigEndian.Uint64(v), nil
}
