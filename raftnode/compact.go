package raftnode

import (
	"sync"

	"github.com/hashicorp/raft"
)

// How much log a replica keeps. hashicorp/raft counts entries, but an entry of ours is all that waited at the door, from a hundred bytes to a megabyte: 8,192 of
// them may be 100 MB behind a state that is no larger. So each replica also counts bytes, and has raft take a snapshot, which is only a marker, and cut the log
// behind it when the log has grown by half of what it keeps.
//
// What it keeps decides how long a follower may be away and still be sent entries instead of the state. Sending the state costs the more the larger it is, so a large one keeps
// more: a sixteenth of the state, between keepAtLeast and keepAtMost. A follower that is sent the state is not cut off from what is written meanwhile, see hold.go.
const (
	keepAtLeast = 8 << 20
	keepAtMost  = 64 << 20
	keepShare   = 16
	keepEntries = 16 // at least, however fat they are
)

// growth is what a replica has applied since its log was last cut.
type growth struct {
	mu      sync.Mutex // guards what follows
	entries uint64
	bytes   int64
	limit   int64 // bytes at which the log is cut; 0: raft cannot be asked yet
	cutting bool
	typical int64 // what average last returned

	allEntries uint64 // applied since the replica was opened
	allBytes   int64
}

// start is called when raft can be asked: it may apply entries before its owner has it.
func (w *growth) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = keepAtLeast / 2
}

// grew counts entries that were applied and reports whether the log is to be cut now. Until cut is called the answer is then no.
func (w *growth) grew(logs []*raft.Log) bool {
	bytes := 0
	for _, l := range logs {
		bytes += len(l.Data)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries += uint64(len(logs))
	w.bytes += int64(bytes)
	w.allEntries += uint64(len(logs))
	w.allBytes += int64(bytes)
	if w.limit == 0 || w.cutting || w.bytes < w.limit {
		return false
	}
	w.cutting = true
	return true
}

// due reports whether the log is to be cut now, however little it has grown. It is not while it is being cut.
func (w *growth) due() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit == 0 || w.cutting {
		return false
	}
	w.cutting = true
	return true
}

// all returns what was applied since the replica was opened.
func (w *growth) all() (entries uint64, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allEntries, w.allBytes
}

// average returns the bytes of an entry, and begins to count anew. When hardly any were counted they are what they were.
func (w *growth) average() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.entries >= keepEntries || w.typical == 0 || w.bytes >= w.limit {
		w.typical = max(w.bytes/int64(max(w.entries, 1)), 1)
	}
	w.entries, w.bytes = 0, 0
	return w.typical
}

// cut notes that the log was cut, or could not be, and how much a replica keeps.
func (w *growth) cut(keep int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.cutting = keep/2, false
}

// keep returns how many bytes of log to keep behind a state of so many bytes.
func keep(state int64) int64 { return min(max(state/keepShare, keepAtLeast), keepAtMost) }

// grew is told of entries that were applied.
func (g *Group) grew(logs []*raft.Log) {
	if g.growth.grew(logs) {
		g.startCompact()
	}
}

func (g *Group) startCompact() {
	if g.enter() {
		go g.compact() // ends with raft's answer; Close waits for it
	}
}

// compact has raft take a snapshot and cut the log so that about as many bytes are left as are to be kept, judged by the entries since the last time.
func (g *Group) compact() {
	defer g.inflight.Done()
	state, err := g.machine.Bytes()
	if err != nil {
		g.log.Debug("the size of the state is not known; the least of the log is kept", "error", err)
	}
	kept := keep(state)
	defer g.growth.cut(kept)
	conf := g.raft.ReloadableConfig()
	conf.TrailingLogs = uint64(min(max(kept/g.growth.average(), keepEntries), trailingLogs))
	if err := g.raft.ReloadConfig(conf); err != nil {
		g.log.Error("the log is kept longer than it should be", "error", err)
		return
	}
	if err := g.takeSnapshot(); err != nil && g.ctx.Err() == nil {
		g.log.Warn("no snapshot was taken; the log is cut later", "error", err)
	}
}
