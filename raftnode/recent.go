package raftnode

import (
	"bytes"
	"sync"

	"github.com/hashicorp/raft"
)

// Bounds of what a group keeps of its log in memory. The newest entry is always kept, whatever its size.
const (
	recentEntries = 64
	recentBytes   = 1 << 20
)

// recentLog keeps a group's newest entries in memory, in front of its log: a leader reads each to send it, and every replica to apply it, soon after it was written. raft.LogCache does so too,
// but counts entries only, and one of ours may be a megabyte and more: sixty-four of them in each of a thousand groups. And it keeps them for ever, where a group that nobody writes to needs
// none (forget).
//
// An entry's data are a part of the message that it came in (see transport/DESIGN.md). Where only some of a message's entries are kept they are copied: a hundred bytes would keep up to 8 MiB.
type recentLog struct {
	raft.LogStore
	leads func() bool // whether what is stored is this replica's own; nil: it never is

	mu      sync.RWMutex             // guards what follows
	entries [recentEntries]*raft.Log // by index, modulo; those from low to high
	low     uint64
	high    uint64 // below low: there are none
	bytes   int
	written bool // since forget was last called
}

func newRecentLog(store raft.LogStore) *recentLog { return &recentLog{LogStore: store, low: 1} }

func entryBytes(e *raft.Log) int { return len(e.Data) + len(e.Extensions) }

// GetLog implements raft.LogStore.
func (l *recentLog) GetLog(index uint64, into *raft.Log) error {
	l.mu.RLock()
	if index >= l.low && index <= l.high {
		*into = *l.entries[index%recentEntries]
		l.mu.RUnlock()
		return nil
	}
	l.mu.RUnlock()
	return l.LogStore.GetLog(index, into)
}

// StoreLog implements raft.LogStore.
func (l *recentLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *recentLog) StoreLogs(logs []*raft.Log) error {
	if err := l.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = true
	for _, e := range logs {
		if e.Index != l.high+1 { // the first one, or what follows a snapshot, or takes the place of others
			l.drop(l.low, l.high)
			l.low = e.Index
		}
		l.high = e.Index
		if l.high-l.low >= recentEntries {
			l.drop(l.low, l.low)
		}
		l.entries[e.Index%recentEntries] = e
		l.bytes += entryBytes(e)
		for l.bytes > recentBytes && l.low < l.high {
			l.drop(l.low, l.low)
		}
	}
	if len(logs) > 0 && l.low > logs[0].Index && (l.leads == nil || !l.leads()) {
		for i := max(l.low, logs[0].Index); i <= l.high; i++ {
			e := *l.entries[i%recentEntries]
			e.Data, e.Extensions = bytes.Clone(e.Data), bytes.Clone(e.Extensions)
			l.entries[i%recentEntries] = &e
		}
	}
	return nil
}

// DeleteRange implements raft.LogStore.
func (l *recentLog) DeleteRange(first, last uint64) error {
	l.mu.Lock()
	switch {
	case last < l.low || first > l.high:
	case first <= l.low:
		l.drop(l.low, min(last, l.high))
	default:
		l.drop(first, l.high)
	}
	l.mu.Unlock()
	return l.LogStore.DeleteRange(first, last)
}

// drop lets go of the entries from first to last, which are the oldest ones, or the newest. mu is held.
func (l *recentLog) drop(first, last uint64) {
	for i := first; i <= last; i++ {
		at := &l.entries[i%recentEntries]
		l.bytes -= entryBytes(*at)
		*at = nil
	}
	if first == l.low {
		l.low = last + 1
	} else {
		l.high = first - 1
	}
}

// forget lets go of everything unless something was written since it was last called.
func (l *recentLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.written {
		l.drop(l.low, l.high)
	}
	l.written = false
}
