package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	inboxItems = 512      // requests of one group that wait for raft, of each sort
	inboxBytes = 64 << 20 // of those; a single one may be larger
	splitBytes = 8 << 20  // of entries in one message; more go as several requests
)

// Inspect is given what a peer asks of a group, before raft is. It may change the request; with an answer, raft's response to it, or an error it is answered and raft does not
// see it. What a server asks itself is not inspected. It is called for one request at a time of those that come with entries, and for others beside them; it may read the log and must not wait for raft.
type Inspect func(req any) (answer any, err error)

// Group is raft's transport for one group. The address of a server is its id.
//
// What comes for the group waits in three inboxes, so that neither a vote nor a heartbeat waits behind entries, and each is fed to raft one
// at a time, in order.
type Group struct {
	// Acknowledged, unless it is nil, is told that a peer has accepted a request, and which is the last entry that the request shows the peer to have. It is called in the
	// order of a pipeline's requests, must not block, and is set before the first request.
	Acknowledged func(peer string, index uint64)

	inspect     Inspect      // nil: nobody does
	refusalSaid atomic.Int64 // when a refused request was last told of, in Unix nanoseconds
	transport   *Transport
	key         string
	consumer    chan raft.RPC
	beats       *inbox[request]
	votes       *inbox[request]
	log         *inbox[request]
	done        chan struct{}  // closed by Close
	wg          sync.WaitGroup // the inboxes' workers and the pipelines

	transfers    context.Context // of the snapshots under way, in both directions; done: there are none any more
	endTransfers context.CancelFunc

	mu        sync.Mutex // guards what follows
	closed    bool
	pipelines map[*pipeline]bool // open ones
}

var (
	_ raft.Transport   = (*Group)(nil)
	_ raft.WithClose   = (*Group)(nil)
	_ raft.WithPreVote = (*Group)(nil)
)

func newGroup(t *Transport, key string) *Group {
	g := &Group{transport: t, key: key, consumer: make(chan raft.RPC), done: make(chan struct{}), pipelines: make(map[*pipeline]bool)}
	g.transfers, g.endTransfers = context.WithCancel(t.ctx)
	box := func() *inbox[request] {
		answer := make(chan raft.RPCResponse, 1)
		return &inbox[request]{
			workers: 1, maxItems: inboxItems, maxBytes: inboxBytes, all: &t.inbound, wg: &g.wg,
			handle: func(r request) { g.serve(r, answer) },
		}
	}
	g.beats, g.votes, g.log = box(), box(), box()
	return g
}

// Consumer returns the channel on which raft gets its peers' requests.
func (g *Group) Consumer() <-chan raft.RPC { return g.consumer }

// LocalAddr returns this server's address: its id.
func (g *Group) LocalAddr() raft.ServerAddress { return raft.ServerAddress(g.transport.cfg.LocalID) }

// EncodePeer returns the server's address as bytes.
func (g *Group) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }

// DecodePeer returns what EncodePeer was given.
func (g *Group) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler is told raft's fast path for heartbeats and does not use it: it runs beside raft's own goroutine, and a heartbeat between two statements of
// a replica that is told to stand (raft 1.8.0, timeoutNow) makes it a follower again. The leader that told it then waits, refusing writes, for an election
// time-out. Heartbeats take raft's main loop, in their turn.
func (g *Group) SetHeartbeatHandler(func(raft.RPC)) {}

// isHeartbeat knows a request that only says that the leader is there.
func isHeartbeat(m *raft.AppendEntriesRequest) bool {
	return m.Term != 0 && len(m.Entries) == 0 && m.PrevLogEntry == 0 && m.PrevLogTerm == 0 && m.LeaderCommitIndex == 0
}

// take queues a peer's request for raft; its errors are inbox.reserve's.
func (g *Group) take(r request, size int) error {
	box := g.votes
	if m, ok := r.cmd.(*raft.AppendEntriesRequest); ok {
		if box = g.log; isHeartbeat(m) {
			box = g.beats
		}
	}
	return box.offer(r, size)
}

// serve has raft answer a request. answer is the inbox's own and empty.
func (g *Group) serve(r request, answer chan raft.RPCResponse) {
	if time.Since(r.at) > g.transport.cfg.IOTimeout { // the one who asked has given up
		r.reply(nil, ErrTimeout)
		return
	}
	if a, err := g.inspected(r.cmd); a != nil || err != nil {
		r.reply(a, err)
		return
	}
	rpc := raft.RPC{Command: r.cmd, RespChan: answer}
	select {
	case g.consumer <- rpc:
	case <-g.done:
		r.reply(nil, ErrClosed)
		return
	}
	select {
	case a := <-answer:
		r.reply(a.Response, a.Error)
	case <-g.done: // raft that shuts down answers nobody, but it may have answered before
		select {
		case a := <-answer:
			r.reply(a.Response, a.Error)
		default:
			r.reply(nil, ErrClosed)
		}
	}
}

// refusalAgain is the least time between two warnings of a group about requests that are refused.
const refusalAgain = time.Minute

func (g *Group) inspected(req any) (answer any, err error) {
	if g.inspect == nil {
		return nil, nil
	}
	answer, err = g.inspect(req)
	now := time.Now().UnixNano()
	if said := g.refusalSaid.Load(); err != nil && now-said >= int64(refusalAgain) && g.refusalSaid.CompareAndSwap(said, now) {
		g.transport.cfg.Logger.Warn("a peer's request is refused", "group", g.key, "error", err)
	}
	return answer, err
}

// AppendEntries sends a heartbeat over the control connection, anything else over the log connection. Entries of more than 8 MiB go as several
// requests one after the other.
func (g *Group) AppendEntries(_ raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(req) {
		return g.ask(string(to), kindControl, patientLane, req, resp)
	}
	for part, rest := split(req); ; part, rest = split(rest) {
		err := g.ask(string(to), kindLog, g.key, part, resp)
		if err != nil || !resp.Success {
			return err
		}
		g.acknowledged(string(to), part)
		if rest == nil {
			return nil
		}
	}
}

func (g *Group) acknowledged(peer string, req *raft.AppendEntriesRequest) {
	if g.Acknowledged != nil {
		g.Acknowledged(peer, req.PrevLogEntry+uint64(len(req.Entries)))
	}
}

// split cuts a request whose entries are too many bytes; rest is nil when nothing remains. The rest is the request a leader sends to a follower that
// has the part's entries, so a follower that accepts it has all of them (Raft §5.3, log matching).
func split(req *raft.AppendEntriesRequest) (part, rest *raft.AppendEntriesRequest) {
	size := 0
	for i, e := range req.Entries {
		if size += entryBytes(e); size <= splitBytes || i == 0 {
			continue
		}
		first, second := *req, *req
		first.Entries, second.Entries = req.Entries[:i:i], req.Entries[i:]
		second.PrevLogEntry, second.PrevLogTerm = req.Entries[i-1].Index, req.Entries[i-1].Term
		return &first, &second
	}
	return req, nil
}

// RequestVote asks for a vote.
func (g *Group) RequestVote(_ raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return g.ask(string(to), kindControl, urgentLane, req, resp)
}

// RequestPreVote asks whether there would be a vote.
func (g *Group) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return g.ask(string(to), kindControl, urgentLane, req, resp)
}

// TimeoutNow tells the server, which may be this one, to stand for election at once.
func (g *Group) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return g.ask(string(to), kindControl, urgentLane, req, resp)
}

// ask asks the group at the server and waits for the answer, at most an IOTimeout once there is a connection. resp is changed only without an error.
func (g *Group) ask(to string, kind byte, lane string, req, resp any) error {
	if to == g.transport.cfg.LocalID {
		return g.askSelf(req, resp)
	}
	c, err := g.transport.link(to, kind).get(g.done)
	if err != nil {
		return g.wrap(to, err)
	}
	m, size, err := g.question(req)
	if err != nil {
		return g.wrap(to, err)
	}
	e := exchanges.Get().(*exchange)
	e.resp, e.err, e.deadline = resp, nil, g.deadline(size)
	id, err := c.ask(e, lane, m)
	if err == nil {
		select {
		case <-e.done:
			err = e.err
		case <-g.done:
			if err = ErrClosed; !c.forget(id) {
				<-e.done
			}
		}
	}
	e.resp = nil
	exchanges.Put(e)
	if err != nil {
		return g.wrap(to, err)
	}
	return nil
}

func (g *Group) wrap(to string, err error) error {
	if errors.Is(err, errStopped) {
		err = ErrClosed
	}
	return fmt.Errorf("group %s at %s: %w", g.key, to, err)
}

// question encodes a request. size is the message's length in bytes.
func (g *Group) question(req any) (m *message, size int, err error) {
	m = newMessage(frameQuestion)
	if append, ok := req.(*raft.AppendEntriesRequest); ok {
		for _, e := range append.Entries {
			size += entryBytes(e)
		}
		if size > pieceBytes/4 && cap(m.payload) < size {
			m.payload = make([]byte, 0, size+1024)
		}
	}
	if m.payload, err = appendQuestion(m.payload, g.transport.cfg.LocalID, g.key, req); err != nil {
		return nil, 0, err
	}
	if size = len(m.payload); size > maxMessage {
		return nil, 0, fmt.Errorf("a message of %d bytes, at most %d are allowed", size, maxMessage)
	}
	return m, size, nil
}

// deadline is when an exchange of so many bytes must be over.
func (g *Group) deadline(size int) time.Time {
	return time.Now().Add(g.transport.cfg.IOTimeout * time.Duration(1+size/splitBytes))
}

// askSelf gives raft a request of this server's own: at once, since whoever asks waits for the answer anyway.
func (g *Group) askSelf(req, resp any) error {
	to := g.transport.cfg.LocalID
	answer := make(chan raft.RPCResponse, 1)
	timer := time.NewTimer(g.transport.cfg.IOTimeout)
	defer timer.Stop()
	select {
	case g.consumer <- raft.RPC{Command: req, RespChan: answer}:
	case <-timer.C:
		return g.wrap(to, ErrTimeout)
	case <-g.done:
		return g.wrap(to, ErrClosed)
	}
	select {
	case a := <-answer:
		if a.Error != nil {
			return g.wrap(to, a.Error)
		}
		return g.wrapNil(to, copyResponse(resp, a.Response))
	case <-timer.C:
		return g.wrap(to, ErrTimeout)
	case <-g.done:
		return g.wrap(to, ErrClosed)
	}
}

func (g *Group) wrapNil(to string, err error) error {
	if err == nil {
		return nil
	}
	return g.wrap(to, err)
}

func copyResponse(to, from any) error {
	switch to := to.(type) {
	case *raft.AppendEntriesResponse:
		return copyAs(to, from)
	case *raft.RequestVoteResponse:
		return copyAs(to, from)
	case *raft.RequestPreVoteResponse:
		return copyAs(to, from)
	case *raft.TimeoutNowResponse:
		return copyAs(to, from)
	}
	return fmt.Errorf("a %T cannot be asked of oneself", to)
}

func copyAs[T any](to *T, from any) error {
	v, ok := from.(*T)
	if !ok {
		return fmt.Errorf("raft answered with a %T, wanted a %T", from, to)
	}
	*to = *v
	return nil
}

// EndSnapshots ends the snapshots that are on their way from and to this server, with ErrClosed, and refuses others from now on; everything else goes on. raft waits for its
// snapshots when it shuts down, and closes its transport only then: so whoever shuts it down ends them first.
func (g *Group) EndSnapshots() { g.endTransfers() }

// Close ends everything that waits for the group, here and at peers, waits for the group's goroutines and frees its key.
func (g *Group) Close() error {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	open := slices.Collect(maps.Keys(g.pipelines))
	g.mu.Unlock()
	if first {
		t := g.transport
		t.mu.Lock()
		if t.groups[g.key] == g {
			delete(t.groups, g.key)
		}
		t.mu.Unlock()
		close(g.done)
		g.EndSnapshots()
		for _, box := range []*inbox[request]{g.beats, g.votes, g.log} {
			box.close()
		}
		for _, p := range open {
			p.Close()
		}
	}
	g.wg.Wait()
	return nil
}

// InstallSnapshot streams a snapshot to the server over a connection of its own, at the transport's SnapshotRate, and waits until its raft has it. At
// most SnapshotsOut do so at once; the others wait an IOTimeout for a place and then give up with ErrOverloaded.
//
// It ends with an error when nothing is heard from the peer for an IOTimeout, and in any case after one for each 256 KiB of the snapshot and the time that
// the rate takes, and when EndSnapshots is called.
func (g *Group) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return g.wrapNil(string(to), g.sendSnapshot(string(to), req, resp, data))
}
