package raftnode

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A peer that is too far behind is sent the state, and then the entries from the snapshot's end on: those are written while the state is on its way, which takes minutes for a large
// one. holds keeps them from being cut off; without it, a peer of a busy store would be sent the state again and again.
//
// A peer is held from when its snapshot begins until it is nearly as far as the log. It is let go of sooner, and then may be sent the state once more, when the snapshot fails, when more log is
// kept for it than holdBytes or its state, whichever is more (it would never get there, or the disk would be full of log), or when it takes no entry for holdPatience.
const (
	holdBytes    = 256 << 20
	holdPatience = time.Minute
	holdEntry    = 64 // bytes that an entry costs beside its data, in the log and in the log's index in memory
)

// holds is what this replica keeps of its log for peers.
type holds struct {
	written func() (entries uint64, bytes int64) // to the log, ever
	log     *slog.Logger

	some  atomic.Bool // peers has any
	short atomic.Bool // the last cut left entries for peers that it would not have left otherwise

	mu    sync.Mutex // guards what follows
	peers map[string]*hold
}

// hold is one peer's.
type hold struct {
	acked   uint64    // its newest entry, as far as is known. raft names an entry's predecessor, so the peer needs this one too
	sending bool      // the state is on its way
	heard   time.Time // when acked grew, or the state had arrived
	limit   int64     // bytes
	entries uint64    // written, when it began
	bytes   int64
}

// begin holds the log from the entry on, which is the last one of a snapshot of so many bytes that is sent to the peer.
func (s *holds) begin(peer string, index uint64, state int64) *hold {
	h := &hold{acked: index, sending: true, limit: max(state, holdBytes)}
	h.entries, h.bytes = s.written()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers == nil {
		s.peers = make(map[string]*hold)
	}
	s.peers[peer] = h
	s.some.Store(true)
	return h
}

// arrived is called when the snapshot is installed.
func (s *holds) arrived(h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.sending, h.heard = false, time.Now()
}

// failed is called when it is not, and will not be.
func (s *holds) failed(peer string, h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[peer] == h {
		s.drop(peer)
	}
}

func (s *holds) drop(peer string) {
	delete(s.peers, peer)
	s.some.Store(len(s.peers) > 0)
}

// acknowledged is told that the peer has the entries up to the index.
func (s *holds) acknowledged(peer string, index uint64) {
	if !s.some.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.peers[peer]; h != nil && !h.sending && index > h.acked {
		h.acked, h.heard = index, time.Now()
	}
}

// cut returns up to which entry a log that ends with last is to be cut, where no peer counted it would be up to want. It lets go of peers that need no hold any more, or are not to have one: a peer that
// is in the newer half of what is left without a hold is like one that was never away.
func (s *holds) cut(want, last uint64, now time.Time) uint64 {
	if !s.some.Load() {
		s.short.Store(false)
		return want
	}
	entries, bytes := s.written()
	s.mu.Lock()
	defer s.mu.Unlock()
	upTo := want
	for peer, h := range s.peers {
		kept := int64(0)
		if n := entries - h.entries; n > 0 && last > h.acked {
			behind := int64(last - h.acked)
			// Not all of what is behind are commands, and all of those were written since.
			kept = min((bytes-h.bytes)/int64(n)*behind, bytes-h.bytes) + holdEntry*behind
		}
		switch {
		case !h.sending && h.acked >= want+(last-want)/2:
			s.drop(peer)
		case !h.sending && now.Sub(h.heard) > holdPatience:
			s.log.Info("a peer that was sent the state takes no entries: the log is kept for it no longer", "peer", peer, "at", h.acked, "last", last)
			s.drop(peer)
		case kept > h.limit:
			s.log.Warn("so much was written since a peer was sent the state that it will be sent again", "peer", peer, "bytes", kept, "limit", h.limit)
			s.drop(peer)
		default:
			upTo = min(upTo, h.acked-1)
		}
	}
	s.short.Store(upTo < want)
	return upTo
}

// cutLate cuts a log of which a peer's hold has kept more than is kept otherwise, if nothing holds it any more: nobody may write to the store now, and have it cut.
func (g *Group) cutLate() {
	if g.holds.short.Load() && g.growth.due() {
		g.holds.short.Store(false) // until a cut says so again
		g.startCompact()
	}
}
