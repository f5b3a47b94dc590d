package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// cutter stands between a node and its peer, and cuts each connection after so many bytes towards the peer.
type cutter struct {
	listener net.Listener
	to       string
	after    atomic.Int64
	cuts     atomic.Int64
	wg       sync.WaitGroup
	done     context.Context // cancelled by the clean-up; ends the connections that were not cut
}

func newCutter(t testing.TB, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &cutter{listener: l, to: to, done: ctx}
	c.wg.Go(func() { // ends when the listener is closed
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(nc) }) // ends when it is cut, or with either end
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); c.wg.Wait() })
	return c
}

func (c *cutter) carry(nc net.Conn) {
	defer nc.Close()
	peer, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer peer.Close()
	defer context.AfterFunc(c.done, func() { nc.Close(); peer.Close() })()
	c.wg.Go(func() { // ends with either connection
		io.Copy(nc, peer)
		nc.Close()
	})
	if n, _ := io.CopyN(peer, nc, c.after.Load()); n == c.after.Load() {
		c.cuts.Add(1)
		peer.(*net.TCPConn).CloseWrite() // what was sent before arrives
		nc.(*net.TCPConn).SetLinger(0)
	}
}

// checked is an entry's data that tells whether it is whole.
func checked(index uint64, size int) []byte {
	b := bytes.Repeat([]byte{byte(index)}, size)
	b = binary.BigEndian.AppendUint64(b, index)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func isWhole(e *raft.Log) bool {
	n := len(e.Data) - 12
	return n >= 0 && bytes.Equal(e.Data, checked(e.Index, n))
}

// Connections are cut at every offset of the first frames, and here and there in the chunks of longer messages. What reaches raft is whole, and of two groups that
// share the connection each gets its own.
func TestACutConnectionNeverDeliversAPart(t *testing.T) {
	var b book
	x := listen(t, &b, "n1~a", nil)
	y := listen(t, &b, "n2~b", nil)
	cut := newCutter(t, y.Addr().String())
	b.set("n2~b", cut.listener.Addr().String())
	keys := []string{"1-1", "2-1"}
	var from []*Group
	var arrived, done atomic.Int64
	for i, key := range keys {
		from = append(from, openGroup(t, x, key))
		to := openGroup(t, y, key)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // ends with the test
			for {
				select {
				case rpc := <-to.Consumer():
					m := rpc.Command.(*raft.AppendEntriesRequest)
					for _, e := range m.Entries {
						if !isWhole(e) || e.Index%2 != uint64(i) {
							t.Errorf("group %s got entry %d with %d bytes, whole: %v", key, e.Index, len(e.Data), isWhole(e))
						}
						arrived.Add(1)
					}
					rpc.Respond(&raft.AppendEntriesResponse{Success: true, LastLog: m.PrevLogEntry}, nil)
				case <-stop:
					return
				}
			}
		})
		t.Cleanup(func() { close(stop); wg.Wait() })
	}
	raw, _ := (&handshake{kind: kindLog, cluster: "c1", from: "n1~a", to: "n2~b"}).encode()
	offsets := []int64{}
	for k := range int64(500) { // the handshake, and about five frames
		offsets = append(offsets, k+1)
	}
	for k := range int64(60) { // in the chunks
		offsets = append(offsets, int64(len(raw))+4000+k*7919)
	}
	rounds := 0
	for _, at := range offsets {
		cut.after.Store(at)
		before := cut.cuts.Load()
		for try := 0; cut.cuts.Load() == before; try++ {
			if try > 2000 {
				t.Fatalf("the connection is not cut after %d bytes", at)
			}
			var wg sync.WaitGroup
			for i, g := range from {
				wg.Go(func() {
					index := uint64(rounds*2 + i)
					size := []int{3, 40, 200000, 70}[rounds%4]
					if at <= 500 {
						size = 3 + rounds%40
					}
					var resp raft.AppendEntriesResponse
					if err := g.AppendEntries("n2~b", "n2~b", appendOf("n1~a", index, checked(index, size)), &resp); err == nil {
						if done.Add(1); !resp.Success || resp.LastLog != index-1 {
							t.Errorf("append %d got the answer %+v", index, resp)
						}
					}
				})
			}
			wg.Wait()
			rounds++
			l := x.link("n2~b", kindLog)
			l.mu.Lock()
			l.failures = 0 // no pause: this test makes hundreds of failures
			l.mu.Unlock()
		}
	}
	if n := cut.cuts.Load(); n < int64(len(offsets)) || done.Load() == 0 || arrived.Load() < done.Load() {
		t.Errorf("%d cuts, %d entries arrived, %d were answered", n, arrived.Load(), done.Load())
	}
	t.Logf("%d cuts, %d entries arrived, %d were answered", cut.cuts.Load(), arrived.Load(), done.Load())
}

// The same for a snapshot: wherever it is cut, the receiver sees an error.
func TestACutSnapshotIsAnError(t *testing.T) {
	var b book
	x := listen(t, &b, "n1~a", nil)
	y := listen(t, &b, "n2~b", nil)
	cut := newCutter(t, y.Addr().String())
	b.set("n2~b", cut.listener.Addr().String())
	from := openGroup(t, x, "1-1")
	got := installing(t, openGroup(t, y, "1-1"))
	data := randomBytes(150 << 10)
	cut.after.Store(1 << 30)
	if err := from.InstallSnapshot("n2~b", "n2~b", snapshotOf(len(data)), new(raft.InstallSnapshotResponse), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.err != nil {
		t.Fatal(r.err)
	}
	head, _ := (&handshake{kind: kindSnapshot, cluster: "c1", from: "n1~a", to: "n2~b"}).encode()
	question, _ := appendQuestion(nil, "n1~a", "1-1", snapshotOf(len(data)))
	const frame = frameHead + frameFixed
	begins := len(head) + frame + len(question)
	whole := begins + len(data) + 4*frame // three of data and the end
	var offsets []int
	for at := 1; at < whole; at++ {
		if in := (at - begins) % (pieceBytes + frame); at < begins+40 || in < 20 || in > pieceBytes+frame-4 || at > whole-40 || at%4001 == 0 {
			offsets = append(offsets, at)
		}
	}
	for _, at := range offsets {
		cut.after.Store(int64(at))
		var resp raft.InstallSnapshotResponse
		err := from.InstallSnapshot("n2~b", "n2~b", snapshotOf(len(data)), &resp, bytes.NewReader(data))
		if err == nil || resp.Success {
			t.Fatalf("cut after %d of %d bytes: got %+v, %v", at, whole, resp, err)
		}
		if at >= begins {
			if r := <-got; r.err == nil {
				t.Fatalf("cut after %d of %d bytes: the receiver has %d bytes and no error", at, whole, len(r.data))
			}
		}
	}
	t.Logf("%d cuts of %d bytes", len(offsets), whole)
}
