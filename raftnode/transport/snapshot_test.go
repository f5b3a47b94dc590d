package transport

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func snapshotOf(size int) *raft.InstallSnapshotRequest {
	return &raft.InstallSnapshotRequest{RPCHeader: ownHeader(), SnapshotVersion: 1, Term: 4, LastLogIndex: 100, LastLogTerm: 4, Configuration: []byte("conf"), Size: int64(size)}
}

// installing gives the group's requests the answers of a follower; snapshots come out of the channel with the error that ended them.
func installing(t testing.TB, g *Group) <-chan received {
	out, done := make(chan received, 16), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the test
		for {
			select {
			case rpc := <-g.Consumer():
				into := bytes.NewBuffer(make([]byte, 0, rpc.Command.(*raft.InstallSnapshotRequest).Size+bytes.MinRead)) // never grows: the race detector makes that slow
				_, err := into.ReadFrom(rpc.Reader)
				data := into.Bytes()
				rpc.Respond(&raft.InstallSnapshotResponse{Term: 4, Success: err == nil}, err)
				out <- received{data, err}
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() { close(done); g.Close(); wg.Wait() })
	return out
}

type received struct {
	data []byte
	err  error
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(b)
	return b
}

func TestASnapshotDelaysNoEntries(t *testing.T) {
	const size, speed = 50 << 20, 64 << 20
	var b book
	x := listen(t, &b, "n1~a", func(c *Config) { c.SnapshotRate = speed })
	y := listen(t, &b, "n2~b", nil)
	from, got := openGroup(t, x, "1-1"), installing(t, openGroup(t, y, "1-1"))
	other, to := openGroup(t, x, "2-1"), openGroup(t, y, "2-1")
	answering(t, to)
	data := randomBytes(size)
	done := make(chan error, 1)
	var resp raft.InstallSnapshotResponse
	began := time.Now()
	go func() { done <- from.InstallSnapshot("n2~b", "n2~b", snapshotOf(size), &resp, bytes.NewReader(data)) }() // ends with the snapshot
	var slowest time.Duration
	n := uint64(0)
	for waiting := true; waiting; {
		start := time.Now()
		n++
		if err := appendOne(other, n); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(start))
		select {
		case err := <-done:
			if err != nil || !resp.Success || resp.Term != 4 {
				t.Fatalf("got %+v, %v", resp, err)
			}
			waiting = false
		default:
		}
	}
	took := time.Since(began)
	if r := <-got; r.err != nil || !bytes.Equal(r.data, data) {
		t.Fatalf("got %d bytes, %v", len(r.data), r.err)
	}
	if least := time.Duration(float64(size) / speed * 0.8 * float64(time.Second)); took < least {
		t.Errorf("%d bytes took %v, at %d bytes a second", size, took, speed)
	}
	if n < 100 || slowest > time.Second {
		t.Errorf("%d appends meanwhile, the slowest took %v", n, slowest)
	}
	t.Logf("%d MiB in %v; %d appends meanwhile, the slowest took %v", size>>20, took, n, slowest)
}

func TestASnapshotIsWholeOrAnError(t *testing.T) {
	const size = 300 << 10
	data := randomBytes(size)
	for name, r := range map[string]struct {
		data io.Reader
		size int
		want string // what the sender is told; empty: all is well
	}{
		"whole":                     {bytes.NewReader(data), size, ""},
		"empty":                     {bytes.NewReader(nil), 0, ""},
		"one byte":                  {bytes.NewReader(data), 1, "more than"},
		"one byte less":             {bytes.NewReader(data[:size-1]), size, "307199 bytes, 307200 were announced"},
		"nothing":                   {bytes.NewReader(nil), size, "0 bytes, 307200 were announced"},
		"one byte more":             {bytes.NewReader(data), size - 1, "more than"},
		"a disk that fails":         {io.MultiReader(bytes.NewReader(data[:100000]), failing{}), size, "the platter is bent"},
		"a disk that fails at once": {failing{}, size, "the platter is bent"},
	} {
		t.Run(name, func(t *testing.T) {
			x, y, from, to := pair(t, "1-1", nil)
			got := installing(t, to)
			var resp raft.InstallSnapshotResponse
			err := from.InstallSnapshot("n2~b", "n2~b", snapshotOf(r.size), &resp, r.data)
			in := <-got
			if r.want == "" {
				if err != nil || !resp.Success || in.err != nil || !bytes.Equal(in.data, data[:r.size]) {
					t.Fatalf("got %+v, %v; %d bytes, %v", resp, err, len(in.data), in.err)
				}
			} else if err == nil || !strings.Contains(err.Error(), r.want) || resp.Success || in.err == nil {
				t.Fatalf("got %+v, %v, want %q; the receiver has %d bytes, %v", resp, err, r.want, len(in.data), in.err)
			}
			eventually(t, "both ends are done", func() bool { return x.Stats().Snapshots+y.Stats().Snapshots == 0 })
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the platter is bent") }

func TestSnapshotsAtOnceAreBounded(t *testing.T) {
	var b book
	x := listen(t, &b, "n1~a", func(c *Config) { c.IOTimeout, c.SnapshotsOut = 600*time.Millisecond, 2 })
	y := listen(t, &b, "n2~b", func(c *Config) { c.SnapshotsIn = 1 })
	from, to := openGroup(t, x, "1-1"), openGroup(t, y, "1-1")
	hold := make(chan struct{})
	send := func(data io.Reader) error {
		return from.InstallSnapshot("n2~b", "n2~b", snapshotOf(1000), new(raft.InstallSnapshotResponse), data)
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- send(bytes.NewReader(make([]byte, 1000))) }() // ends when hold is closed
	rpc := <-to.Consumer()
	if err := send(bytes.NewReader(make([]byte, 1000))); err == nil || !strings.Contains(err.Error(), "1 snapshots are coming in") {
		t.Fatalf("a second one is taken: %v", err)
	}
	x.outgoing <- struct{}{}
	go func() { second <- send(heldReader{hold}) }()
	if err := <-second; !errors.Is(err, ErrOverloaded) {
		t.Fatalf("a third one goes out: %v", err)
	}
	<-x.outgoing
	if data, err := io.ReadAll(rpc.Reader); err != nil || len(data) != 1000 {
		t.Fatalf("got %d bytes, %v", len(data), err)
	}
	rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
}

type heldReader struct{ hold chan struct{} }

func (h heldReader) Read([]byte) (int, error) { <-h.hold; return 0, io.EOF }

// raft may take much longer than an IOTimeout to install a snapshot; the peer says meanwhile that it lives.
func TestAnInstallMayTakeLong(t *testing.T) {
	var b book
	short := func(c *Config) { c.IOTimeout = 50 * time.Millisecond }
	x, y := listen(t, &b, "n1~a", short), listen(t, &b, "n2~b", short)
	from, to := openGroup(t, x, "1-1"), openGroup(t, y, "1-1")
	data := randomBytes(8 << 20)
	done := make(chan error, 1)
	go func() {
		done <- from.InstallSnapshot("n2~b", "n2~b", snapshotOf(len(data)), new(raft.InstallSnapshotResponse), bytes.NewReader(data))
	}() // ends with the snapshot
	rpc := <-to.Consumer()
	slow := time.NewTimer(6 * x.cfg.IOTimeout) // the disk
	select {
	case err := <-done:
		t.Fatalf("before it was read: %v", err)
	case <-slow.C:
	}
	if got, err := io.ReadAll(rpc.Reader); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	slow.Reset(6 * x.cfg.IOTimeout)
	select {
	case err := <-done:
		t.Fatalf("before it was installed: %v", err)
	case <-slow.C:
	}
	rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A group that closes has raft let go of snapshots first; until it has closed, everything else goes on.
func TestSnapshotsAreEndedByEitherSide(t *testing.T) {
	const size = 1 << 30
	for _, who := range []string{"the sender", "the receiver"} {
		t.Run(who, func(t *testing.T) {
			x, y, from, to := pair(t, "1-1", nil)
			send := func() error {
				return from.InstallSnapshot("n2~b", "n2~b", snapshotOf(size), new(raft.InstallSnapshotResponse), zeroes{})
			}
			sent, read := make(chan error, 1), make(chan error, 1)
			go func() { sent <- send() }() // ends with the snapshot
			rpc := <-to.Consumer()
			go func() { // raft's main loop; ends with the snapshot
				_, err := io.Copy(io.Discard, rpc.Reader)
				rpc.Respond(nil, err)
				read <- err
			}()
			ends := map[string]*Group{"the sender": from, "the receiver": to}[who]
			ends.EndSnapshots()
			sender, receiver := <-sent, <-read
			if sender == nil || !strings.Contains(sender.Error(), ErrClosed.Error()) { // the receiver's answer, if it was that
				t.Errorf("the sender got %v", sender)
			}
			if receiver == nil || ends == to && !errors.Is(receiver, ErrClosed) {
				t.Errorf("the receiver got %v", receiver)
			}
			if err := send(); err == nil || !strings.Contains(err.Error(), ErrClosed.Error()) {
				t.Errorf("another one: %v", err)
			}
			answering(t, to)
			if err := appendOne(from, 1); err != nil {
				t.Errorf("an entry: %v", err)
			}
			eventually(t, "both ends are done", func() bool { return x.Stats().Snapshots+y.Stats().Snapshots == 0 })
		})
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
