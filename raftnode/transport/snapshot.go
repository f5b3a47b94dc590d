package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A snapshot's connection carries, from the one who dials, one question (InstallSnapshot), data frames and an end frame; from the other, a
// ping every quarter of an IOTimeout, 250 ms at most, as long as it lives and has not answered, and one answer. Each data frame has its checksum and says at what
// offset it belongs; without the end frame, or with another length than was announced, the reader that raft gets ends in an error.

// pingEvery lets two nodes with different timeouts get along.
const pingEvery = 250 * time.Millisecond

// errSource means that the snapshot to send is at fault, not the peer.
var errSource = errors.New("the snapshot to send")

// snapshotPiece is how much goes in one data frame, so that even a slow rate sends several in each IOTimeout.
func snapshotPiece(rate int, timeout time.Duration) int {
	each := float64(rate) * timeout.Seconds() / 16
	return int(min(max(each, 1), pieceBytes))
}

func (g *Group) sendSnapshot(to string, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t := g.transport
	if to == t.cfg.LocalID {
		return errors.New("a snapshot is not sent to oneself")
	}
	if g.transfers.Err() != nil {
		return ErrClosed
	}
	place := time.NewTimer(t.cfg.IOTimeout)
	defer place.Stop()
	select {
	case t.outgoing <- struct{}{}:
		defer func() { <-t.outgoing }()
	case <-place.C:
		return fmt.Errorf("%w: %d snapshots are being sent", ErrOverloaded, cap(t.outgoing))
	case <-g.transfers.Done():
		return ErrClosed
	}
	question, err := appendQuestion(nil, t.cfg.LocalID, g.key, req)
	if err == nil && len(question) > pieceBytes {
		err = fmt.Errorf("a snapshot's header of %d bytes, at most %d are allowed", len(question), pieceBytes)
	}
	if err != nil {
		return err
	}
	whole := t.cfg.IOTimeout*time.Duration(2+req.Size/(256<<10)) + time.Duration(float64(req.Size)/float64(t.cfg.SnapshotRate)*float64(cap(t.outgoing)+1)*float64(time.Second))
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(g.transfers, whole)
	defer cancel()
	nc, r, err := t.dial(ctx, to, kindSnapshot)
	if err != nil {
		return err
	}
	t.counts.snapshots.Add(1)
	defer t.counts.snapshots.Add(-1)
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { hangUp(nc) })()
	answered := make(chan error, 1)
	nc.SetDeadline(time.Now().Add(t.cfg.IOTimeout))
	wg.Go(func() { // ends with the answer or the connection
		answered <- t.awaitSnapshot(nc, r, to, resp)
		cancel()
	})
	err = t.stream(ctx, nc, question, req.Size, data)
	if err != nil && errors.Is(err, errSource) {
		hangUp(nc)
	}
	answer := <-answered
	var remote *RemoteError
	switch {
	case errors.Is(err, errSource):
		return err
	case answer == nil, errors.As(answer, &remote): // what the peer says explains more than that the stream broke
		return answer
	case g.transfers.Err() != nil:
		return ErrClosed
	case err != nil:
		return err
	}
	return answer
}

// awaitSnapshot reads until the answer. Each sign of life gives the peer another IOTimeout, for reading too.
func (t *Transport) awaitSnapshot(nc net.Conn, r *bufio.Reader, to string, resp *raft.InstallSnapshotResponse) error {
	in := frames{r: r, admit: nothingLong}
	for {
		m, err := in.next()
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		switch m.kind {
		case framePing:
			nc.SetDeadline(time.Now().Add(t.cfg.IOTimeout))
		case frameAnswer:
			d := decoder{b: m.payload, sender: []byte(to)}
			return d.reply(resp)
		default:
			return fmt.Errorf("snapshot: a frame of kind %d where the answer is expected", m.kind)
		}
	}
}

// stream writes the question, the data and the end.
func (t *Transport) stream(ctx context.Context, nc net.Conn, question []byte, size int64, data io.Reader) error {
	frame := appendFrame(nil, frameQuestion, 0, nil, question)
	piece := make([]byte, t.limit.Burst())
	for sent := int64(0); ; {
		if _, err := nc.Write(frame); err != nil {
			return fmt.Errorf("snapshot, after %d of %d bytes: %w", sent, size, err)
		}
		n, err := io.ReadFull(data, piece[:min(int64(len(piece)), size-sent+1)])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: %w", errSource, err)
		}
		if n == 0 {
			if sent != size {
				return fmt.Errorf("%w: it has %d bytes, %d were announced", errSource, sent, size)
			}
			if _, err := nc.Write(appendFrame(frame[:0], frameEnd, uint64(size), nil, nil)); err != nil {
				return fmt.Errorf("snapshot, at its end: %w", err)
			}
			return nil
		}
		if sent+int64(n) > size {
			return fmt.Errorf("%w: it has more than the %d bytes that were announced", errSource, size)
		}
		if err := t.limit.WaitN(ctx, n); err != nil {
			return fmt.Errorf("snapshot, after %d of %d bytes: %w", sent, size, err)
		}
		frame = appendFrame(frame[:0], frameData, uint64(sent), nil, piece[:n])
		sent += int64(n)
	}
}

// serveSnapshot gives an incoming snapshot to the group's raft.
func (t *Transport) serveSnapshot(nc net.Conn, r *bufio.Reader, from string) {
	t.counts.snapshots.Add(1)
	defer t.counts.snapshots.Add(-1)
	nc.SetReadDeadline(time.Now().Add(t.cfg.IOTimeout))
	in := frames{r: r, admit: nothingLong}
	m, err := in.next()
	if err != nil || m.kind != frameQuestion {
		t.cfg.Logger.Debug("raft snapshot", "from", from, "error", err)
		return
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends when stop is closed
		defer close(stopped)
		t.pings(nc, stop)
	}()
	resp, err := t.takeSnapshot(nc, &in, m.payload, from)
	close(stop)
	<-stopped
	nc.SetWriteDeadline(time.Now().Add(t.cfg.IOTimeout))
	if _, err := nc.Write(appendFrame(nil, frameAnswer, 0, nil, appendReply(nil, t.cfg.LocalID, resp, err))); err != nil {
		return
	}
	nc.SetReadDeadline(time.Now().Add(t.cfg.IOTimeout)) // until the peer has read it and hangs up; a close with bytes unread would take it back
	io.Copy(io.Discard, r)
}

func (t *Transport) pings(nc net.Conn, stop <-chan struct{}) {
	tick := time.NewTicker(max(min(t.cfg.IOTimeout/4, pingEvery), time.Millisecond))
	defer tick.Stop()
	ping := appendFrame(nil, framePing, 0, nil, nil)
	for {
		select {
		case <-tick.C:
			nc.SetWriteDeadline(time.Now().Add(t.cfg.IOTimeout))
			if _, err := nc.Write(ping); err != nil {
				return
			}
		case <-stop:
			return
		}
	}
}

func (t *Transport) takeSnapshot(nc net.Conn, in *frames, question []byte, from string) (any, error) {
	d := decoder{b: question, sender: []byte(from)}
	op, key := d.address()
	g := t.group(key)
	switch {
	case d.err != nil:
		return nil, d.err
	case op != opInstallSnapshot:
		return nil, fmt.Errorf("%w: question of kind %d on a snapshot's connection", errMessage, op)
	case g == nil:
		return nil, fmt.Errorf("group %s is not open here", key)
	}
	cmd, err := d.request(op)
	if err != nil {
		return nil, err
	}
	if answer, err := g.inspected(cmd); answer != nil || err != nil {
		return answer, err
	}
	select {
	case t.incoming <- struct{}{}:
		defer func() { <-t.incoming }()
	default:
		return nil, fmt.Errorf("%w: %d snapshots are coming in", ErrOverloaded, cap(t.incoming))
	}
	req := cmd.(*raft.InstallSnapshotRequest)
	answer := make(chan raft.RPCResponse, 1)
	reader := &snapshotReader{conn: nc, in: in, size: req.Size, timeout: 2 * t.cfg.IOTimeout}
	defer context.AfterFunc(g.transfers, reader.end)()
	rpc := raft.RPC{Command: req, RespChan: answer, Reader: reader}
	busy := time.NewTimer(t.cfg.IOTimeout)
	defer busy.Stop()
	select {
	case g.consumer <- rpc:
	case <-busy.C:
		return nil, fmt.Errorf("%w: raft does not take the snapshot", ErrTimeout)
	case <-g.transfers.Done():
		return nil, ErrClosed
	}
	select {
	case a := <-answer: // soon, when it is cut off: raft reads no further
		return a.Response, a.Error
	case <-g.done:
		return nil, ErrClosed
	}
}

// snapshotReader is a snapshot's data as it comes in. io.EOF means that all of it was read; every other end is another error.
type snapshotReader struct {
	conn    net.Conn
	in      *frames
	size    int64
	got     int64
	rest    []byte // of the last frame
	timeout time.Duration
	err     error

	mu    sync.Mutex // guards ended, and the connection's deadline with it
	ended bool       // cut off by end
}

// end makes who waits for data, now or later, get ErrClosed. The connection stays: the sender is to be told.
func (s *snapshotReader) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.conn.SetReadDeadline(time.Now())
}

// frame waits for the next message.
func (s *snapshotReader) frame() (incoming, error) {
	s.mu.Lock()
	if !s.ended {
		s.conn.SetReadDeadline(time.Now().Add(s.timeout))
	}
	s.mu.Unlock()
	m, err := s.in.next()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.ended {
		err = ErrClosed
	}
	return m, err
}

func (s *snapshotReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err == nil {
			s.err = s.next()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *snapshotReader) next() error {
	m, err := s.frame()
	switch {
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
		fallthrough
	case err != nil:
		return fmt.Errorf("snapshot, after %d of %d bytes: %w", s.got, s.size, err)
	case m.kind == frameEnd && m.exchange == uint64(s.size) && s.got == s.size:
		return io.EOF
	case m.kind != frameData || m.exchange != uint64(s.got) || s.got+int64(len(m.payload)) > s.size:
		return fmt.Errorf("snapshot, after %d of %d bytes: a frame of kind %d for offset %d", s.got, s.size, m.kind, m.exchange)
	}
	s.rest = m.payload
	s.got += int64(len(m.payload))
	return nil
}

// nothingLong is the admit of connections for snapshots: nothing but the data is long there, and that comes in frames of its own.
func nothingLong(incoming, int) (*ticket, bool) { return nil, false }
