package raftnode

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/quorate/quorate/raftnode/transport"
)

// detector tells which nodes can be reached, once for all groups, so that the groups themselves may have long timers and cost nothing while they are
// idle.
//
// It sends a probe to every peer each Timing.Probe, and when a connection breaks, and counts a peer as gone after Timing.Silence without an answer, or sooner when its process refuses
// connections. Probes carry what their sender thinks of the others: one node's silence may be that node's own trouble, so a leader is
// replaced only when a majority of its group's members agrees that it is gone (see agreed). Only answers to our own probes count as signs of life, so a peer that
// can send and not receive is gone too. And a node whose disk hangs, which neither writes nor fails, says that it is gone itself.
type detector struct {
	node    *Node
	process uint64 // of this process: a peer that restarts leads nothing any more, however fast it was
	changed func() // called after every change of a peer's state; must not block
	poke    chan struct{}

	mu    sync.Mutex // guards what follows, and what peers point to
	peers map[string]*peerState
	hangs bool // this node's own disk takes a write for longer than Timing.Hang
}

type peerState struct {
	groups   int       // open groups that have it as a member
	gone     bool      // true until it is heard for the first time
	since    time.Time // when it began to be watched
	heard    time.Time // when the last answered probe was sent
	asked    time.Time // when it was first probed since it has answered; zero: not yet
	failing  time.Time // since when its connections fail; zero when they do not
	troubled bool      // a probe was not answered; messages may have been lost as well
	process  uint64    // as it last said
	view     []string  // whom it thinks gone
	viewed   time.Time // when it said so
	probing  int       // probes that are not answered yet
}

const (
	// refusedFor is how long a peer's connections must fail until it is gone: a process that has ended refuses them, and one that restarts its
	// listener does not for so long.
	refusedFor = 150 * time.Millisecond
	maxProbing = 3
)

func newDetector(n *Node, changed func()) *detector {
	var b [8]byte
	rand.Read(b[:])
	return &detector{node: n, process: binary.BigEndian.Uint64(b[:]) | 1, changed: changed, poke: make(chan struct{}, 1), peers: make(map[string]*peerState)}
}

// run ends with ctx.
func (d *detector) run(ctx context.Context) {
	timer := time.NewTimer(d.node.cfg.Timing.Probe)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-d.poke:
		case <-ctx.Done():
			return
		}
		timer.Reset(d.round(ctx))
	}
}

// suspect has everybody probed at once: a connection has broken, or a probe has failed.
func (d *detector) suspect() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// watch begins to probe the members of a group that is opened, unwatch ends it.
func (d *detector) watch(members []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range members {
		if id == d.node.ServerID() {
			continue
		}
		p := d.peers[id]
		if p == nil {
			p = &peerState{gone: true, since: time.Now()}
			d.peers[id] = p
			d.probeLocked(d.node.ctx, id, p) // do not wait for the next round
		}
		p.groups++
	}
}

func (d *detector) unwatch(members []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range members {
		if p := d.peers[id]; p != nil {
			if p.groups--; p.groups == 0 {
				delete(d.peers, id)
			}
		}
	}
}

// round counts the silent as gone, sends a probe to everybody, which tells of that, and returns when the next round is due: sooner while somebody's connections
// fail.
func (d *detector) round(ctx context.Context) (wait time.Duration) {
	d.mu.Lock()
	t := d.node.cfg.Timing
	now, changed := time.Now(), d.lookAtDiskLocked()
	wait = t.Probe
	for id, p := range d.peers {
		silent := !p.asked.IsZero() && now.Sub(p.asked) > t.Silence
		refused := !p.failing.IsZero() && now.Sub(p.failing) > refusedFor
		if !p.gone && (silent || refused) {
			p.gone, changed = true, true
			d.node.cfg.Logger.Debug("peer is gone", "peer", id, "silent", silent, "refused", refused)
		}
		if p.gone {
			continue
		}
		if !p.failing.IsZero() {
			wait = min(wait, refusedFor/3)
		}
		if !p.asked.IsZero() {
			wait = min(wait, max(t.Silence-now.Sub(p.asked), time.Millisecond))
		}
	}
	for id, p := range d.peers {
		if p.probing < maxProbing {
			d.probeLocked(ctx, id, p)
		}
	}
	d.mu.Unlock()
	if changed {
		d.changed()
	}
	return wait
}

func (d *detector) lookAtDiskLocked() (changed bool) {
	took := d.node.log.Writing()
	if hangs := took > d.node.cfg.Timing.Hang; hangs != d.hangs {
		d.hangs, changed = hangs, true
		if hangs {
			d.node.cfg.Logger.Error("the disk of the raft log hangs: a write has not ended; others lead what this node led, where they are a majority", "after", took)
		} else {
			d.node.cfg.Logger.Warn("the disk of the raft log goes on")
		}
	}
	return changed
}

// hung reports whether this node's disk hangs.
func (d *detector) hung() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hangs
}

func (d *detector) probeLocked(ctx context.Context, id string, p *peerState) {
	p.probing++
	if p.asked.IsZero() {
		p.asked = time.Now()
	}
	body := d.encodeLocked()
	d.node.wg.Add(1)
	go func() { // ends with the answer, at the latest after Timing.Silence
		defer d.node.wg.Done()
		d.probe(ctx, id, p, body)
	}()
}

func (d *detector) probe(ctx context.Context, id string, p *peerState, body []byte) {
	ctx, cancel := context.WithTimeout(ctx, d.node.cfg.Timing.Silence)
	defer cancel()
	sent := time.Now()
	raw, err := d.node.transport.Call(ctx, id, methodProbe, body)
	d.probed(id, p, sent, raw, err)
}

// probed notes what came of a probe that was sent then.
func (d *detector) probed(id string, p *peerState, sent time.Time, raw []byte, err error) {
	var process uint64
	var view []string
	if err == nil {
		process, view, err = decodeProbe(raw)
	}
	var refusal *transport.RemoteError
	d.mu.Lock()
	p.probing--
	changed, healed := false, false
	switch {
	case err == nil:
		p.answeredLocked(sent)
		healed, p.troubled = p.troubled, false
		if hangs := slices.Contains(view, id); p.gone != hangs {
			p.gone, changed = hangs, true
		}
		if p.process != process {
			p.process, changed = process, true
		}
		changed = d.viewedLocked(p, view) || changed
	case errors.As(err, &refusal): // it lives, and has more to do than it can
		p.answeredLocked(sent)
		p.troubled = true
	case errors.Is(err, transport.ErrOverloaded): // this node has; nothing was asked
		p.troubled = true
		if p.probing == 0 {
			p.asked = time.Time{}
		}
	default:
		p.troubled = true
		if !errors.Is(err, context.DeadlineExceeded) && p.failing.IsZero() {
			p.failing = sent
			d.suspect()
		}
	}
	d.mu.Unlock()
	if changed {
		d.changed()
	}
	if healed {
		d.node.notices.remindAll(id)
	}
}

// answeredLocked notes a sign of life: an answer to a probe that was sent then.
func (p *peerState) answeredLocked(sent time.Time) {
	p.failing, p.asked = time.Time{}, time.Time{}
	if p.probing > 0 {
		p.asked = time.Now() // of the others, at the latest
	}
	if sent.After(p.heard) {
		p.heard = sent
	}
}

// answer is the handler of methodProbe.
func (d *detector) answer(from string, body []byte) ([]byte, error) {
	_, view, err := decodeProbe(body)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	p := d.peers[from]
	changed := p != nil && d.viewedLocked(p, view)
	raw := d.encodeLocked()
	d.mu.Unlock()
	if changed {
		d.changed()
	}
	return raw, nil
}

func (d *detector) viewedLocked(p *peerState, view []string) (changed bool) {
	changed = !slices.Equal(p.view, view)
	p.view, p.viewed = view, time.Now()
	return changed
}

// A probe and its answer:
//
//	process (number) · number of nodes that are gone, the sender itself if its disk hangs · each one's server id (text), in order
func (d *detector) encodeLocked() []byte {
	b := binary.AppendUvarint(nil, d.process)
	var gone []string
	for id, p := range d.peers {
		if d.missedLocked(p) {
			gone = append(gone, id)
		}
	}
	if d.hangs {
		gone = append(gone, d.node.ServerID())
	}
	slices.Sort(gone)
	b = binary.AppendUvarint(b, uint64(len(gone)))
	for _, id := range gone {
		b = appendText(b, id)
	}
	return b
}

func decodeProbe(raw []byte) (process uint64, gone []string, err error) {
	s := scanner{rest: raw}
	process = s.number()
	for range s.count() {
		gone = append(gone, s.text())
	}
	return process, gone, s.end()
}

// reachable reports whether the node answers this one.
func (d *detector) reachable(id string) bool {
	if id == d.node.ServerID() {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.peers[id]
	return p != nil && !p.gone
}

// calm reports that nobody is missed, neither by this node nor, by what they said last, by others: then no node is isolated or agreed to be gone.
func (d *detector) calm() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.peers {
		if len(p.view) > 0 || d.missedLocked(p) {
			return false
		}
	}
	return !d.hangs
}

// quiet reports that nobody is gone, neither for this node nor, by what they said last, for others: until changed is called, nothing is different from what it was then.
func (d *detector) quiet() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.peers {
		if p.gone || len(p.view) > 0 {
			return false
		}
	}
	return !d.hangs
}

// agreed reports whether a majority of the members thinks that the node is gone.
func (d *detector) agreed(id string, members []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	count, fresh := 0, time.Now().Add(-d.node.cfg.Timing.Silence)
	for _, m := range members {
		switch p := d.peers[m]; {
		case m == id:
		case m == d.node.ServerID():
			if about := d.peers[id]; about != nil && d.missedLocked(about) {
				count++
			}
		case p != nil && p.viewed.After(fresh) && slices.Contains(p.view, id):
			count++
		}
	}
	return count >= majority(len(members))
}

// isolated reports whether this node misses so many of the members that it reaches no majority.
func (d *detector) isolated(members []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	missed := 0
	for _, id := range members {
		if p := d.peers[id]; p != nil && d.missedLocked(p) {
			missed++
		}
	}
	return len(members)-missed < majority(len(members))
}

// replaceable reports whether this node reaches so many of the members that they are a majority without it.
func (d *detector) replaceable(members []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	reached := 0
	for _, id := range members {
		if p := d.peers[id]; p != nil && !p.gone {
			reached++
		}
	}
	return reached >= majority(len(members))
}

// missedLocked reports whether the peer should answer and does not. One that this node has not heard yet is not missed before it had the time to answer.
func (d *detector) missedLocked(p *peerState) bool {
	return p.gone && (!p.heard.IsZero() || time.Since(p.since) > d.node.cfg.Timing.Silence)
}

// processOf returns a number that is another one after the node's process was started anew; 0 while it is not known.
func (d *detector) processOf(id string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.peers[id]; p != nil {
		return p.process
	}
	return 0
}

func majority(members int) int { return members/2 + 1 }
