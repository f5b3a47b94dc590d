package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// sink is a connection that keeps what is written.
type sink struct {
	net.Conn
	bytes.Buffer
	writes int
}

func (s *sink) Write(p []byte) (int, error)      { s.writes++; return s.Buffer.Write(p) }
func (s *sink) Read(p []byte) (int, error)       { return s.Buffer.Read(p) }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

type sent struct {
	kind     byte
	exchange uint64
	payload  string
}

// drain writes what waits in the outbox, and nothing more.
func drain(t testing.TB, o *outbox) *sink {
	t.Helper()
	s := new(sink)
	var batch []slice
	for {
		var err error
		if batch, err = o.take(batch[:0]); err != nil {
			t.Fatal(err)
		}
		if len(batch) == 0 {
			return s
		}
		var b []byte
		for _, p := range batch {
			b = p.append(b)
		}
		s.Write(b)
	}
}

func putMessage(t testing.TB, o *outbox, lane string, kind byte, exchange uint64, payload []byte) {
	t.Helper()
	if err := o.put(lane, &message{kind: kind, exchange: exchange, payload: payload}); err != nil {
		t.Fatal(err)
	}
}

func readAll(raw []byte) (got []sent, err error) {
	in := frames{r: bufio.NewReaderSize(bytes.NewReader(raw), readBuffer)}
	for {
		m, err := in.next()
		if err != nil {
			return got, err
		}
		got = append(got, sent{m.kind, m.exchange, string(m.payload)})
	}
}

// stream is what an outbox writes of small and long messages in several lanes.
func stream(t testing.TB) (raw []byte, want []sent) {
	o := newOutbox(new(counters), 0)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, size := range []int{0, 1, 100, pieceBytes - 1, pieceBytes, pieceBytes + 1, 3*pieceBytes + 7, 12, 2 * pieceBytes, 40} {
		payload := make([]byte, size)
		for k := range payload {
			payload[k] = byte(rnd.Uint32())
		}
		kind := []byte{frameQuestion, frameAnswer, frameNote}[i%3]
		putMessage(t, o, fmt.Sprintf("lane%d", i%4), kind, uint64(i+1), payload)
		want = append(want, sent{kind, uint64(i + 1), string(payload)})
	}
	return drain(t, o).Bytes(), want
}

func TestMessagesShareAConnection(t *testing.T) {
	raw, want := stream(t)
	got, err := readAll(raw)
	if err != io.EOF || len(got) != len(want) {
		t.Fatalf("got %d messages, %v, want %d", len(got), err, len(want))
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("message %d of %d bytes did not come", w.exchange, len(w.payload))
		}
	}
}

// Wherever the connection is cut: what came before is whole, and nothing else comes.
func TestAStreamThatIsCutOffGivesWholeMessagesOnly(t *testing.T) {
	raw, _ := stream(t)
	all, _ := readAll(raw)
	interesting := map[int]bool{}
	for at := 0; at < len(raw); { // every byte of every frame's beginning and end
		n := int(raw[at])<<24 | int(raw[at+1])<<16 | int(raw[at+2])<<8 | int(raw[at+3])
		for k := range 32 {
			interesting[at+k], interesting[at+frameHead+n-k] = true, true
		}
		at += frameHead + n
	}
	for cut := 0; cut < len(raw); cut++ {
		if !interesting[cut] && cut%1009 != 0 {
			continue
		}
		got, err := readAll(raw[:cut])
		if err == nil || len(got) > len(all) || !slices.Equal(got, all[:len(got)]) {
			t.Fatalf("cut at %d: got %d messages, %v", cut, len(got), err)
		}
	}
}

func TestABitThatFlipsEndsTheConnection(t *testing.T) {
	o := newOutbox(new(counters), 0)
	for i := range 4 {
		putMessage(t, o, "a", frameQuestion, uint64(i), bytes.Repeat([]byte{byte(i)}, 30))
	}
	raw := drain(t, o).Bytes()
	all, _ := readAll(raw)
	for bit := range 8 * len(raw) {
		bad := bytes.Clone(raw)
		bad[bit/8] ^= 1 << (bit % 8)
		got, err := readAll(bad)
		if err == io.EOF || len(got) >= len(all) || !slices.Equal(got, all[:len(got)]) {
			t.Fatalf("bit %d: got %d messages, %v", bit, len(got), err)
		}
	}
}

func TestFramesThatAreRefused(t *testing.T) {
	begin := func(kind byte, total, piece int) []byte {
		return append([]byte{kind, byte(total >> 24), byte(total >> 16), byte(total >> 8), byte(total)}, make([]byte, piece)...)
	}
	frame := func(kind byte, exchange uint64, payload []byte) []byte {
		return appendFrame(nil, kind, exchange, nil, payload)
	}
	good := frame(frameBegin, 1, begin(frameQuestion, 100, 10))
	for name, r := range map[string]struct {
		raw  []byte
		want string
	}{
		"shorter than its fixed part": {append([]byte{0, 0, 0, frameFixed - 1}, make([]byte, 64)...), "frame of 8 bytes"},
		"nothing":                     {make([]byte, 64), "frame of 0 bytes"},
		"too long":                    {append([]byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 64)...), "frame of 4294967295"},
		"unknown kind":                {frame(99, 1, nil), "unknown kind 99"},
		"a piece of nothing":          {frame(framePiece, 1, []byte("x")), "continues nothing"},
		"an empty piece":              {append(bytes.Clone(good), frame(framePiece, 1, nil)...), "continues nothing"},
		"more pieces than announced":  {append(bytes.Clone(good), frame(framePiece, 1, make([]byte, 91))...), "continues nothing"},
		"begins twice":                {append(bytes.Clone(good), good...), "begins twice"},
		"longer than is allowed":      {frame(frameBegin, 1, begin(frameQuestion, maxMessage+1, 10)), "a long message of"},
		"ends with its first piece":   {frame(frameBegin, 1, begin(frameQuestion, 10, 10)), "a long message of"},
		"begins with nothing":         {frame(frameBegin, 1, begin(frameQuestion, 10, 0)), "the beginning of a message"},
		"a long ping":                 {frame(frameBegin, 1, begin(framePing, 100, 10)), "a long message of kind"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := readAll(r.raw); len(got) != 0 || err == nil || !strings.Contains(err.Error(), r.want) {
				t.Fatalf("got %v, %v, want %q", got, err, r.want)
			}
		})
	}
}

func FuzzFrames(f *testing.F) {
	o := newOutbox(new(counters), 0)
	putMessage(f, o, "a", frameQuestion, 1, []byte("hello"))
	putMessage(f, o, "b", frameAnswer, 2, nil)
	f.Add(drain(f, o).Bytes())
	f.Add(appendFrame(nil, frameBegin, 1, []byte{frameNote, 0, 0, 0, 9}, []byte("four")))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err := readAll(in)
		if err == nil {
			t.Fatal("no end")
		}
		for _, m := range whole {
			if len(m.payload) > maxMessage {
				t.Fatalf("a message of %d bytes", len(m.payload))
			}
		}
	})
}

func TestWhatIsUrgentGoesFirstAndLanesTakeTurns(t *testing.T) {
	o := newOutbox(new(counters), 0)
	putMessage(t, o, "bulk", frameQuestion, 1, make([]byte, 20*pieceBytes))
	putMessage(t, o, "bulk", frameQuestion, 2, []byte("behind the bulk"))
	putMessage(t, o, "other", frameQuestion, 3, []byte("x"))
	putMessage(t, o, urgentLane, frameQuestion, 4, []byte("vote"))
	got, err := readAll(drain(t, o).Bytes())
	var order []uint64
	for _, m := range got {
		order = append(order, m.exchange)
	}
	if err != io.EOF || !slices.Equal(order, []uint64{4, 3, 1, 2}) {
		t.Fatalf("got the order %v, %v", order, err)
	}
}

func TestALaneIsBounded(t *testing.T) {
	c := new(counters)
	o := newOutbox(c, 0)
	for i := range laneItems {
		putMessage(t, o, "a", frameNote, uint64(i), []byte("x"))
	}
	if err := o.put("a", &message{payload: []byte("x")}); err == nil || !strings.Contains(err.Error(), "4096 messages") {
		t.Fatalf("got %v, want the lane full", err)
	}
	putMessage(t, o, "b", frameNote, 1, make([]byte, laneBytes+1)) // alone, whatever its size
	if err := o.put("b", &message{payload: []byte("x")}); err == nil {
		t.Fatal("a lane takes more bytes than it may")
	}
	if c.dropped.Load() != 2 {
		t.Fatalf("%d dropped", c.dropped.Load())
	}
	if s := drain(t, o); s.writes*batchBytes < laneBytes {
		t.Fatalf("%d bytes in %d writes", s.Len(), s.writes)
	}
	putMessage(t, o, "a", frameNote, 1, []byte("x")) // room again
}

// What has patience goes with the next message, or when its patience ends, or when somebody waits until all is written.
func TestPatientMessages(t *testing.T) {
	const patience = 50 * time.Millisecond
	woken := func(o *outbox) bool {
		select {
		case <-o.wake:
			return true
		default:
			return false
		}
	}
	put := func(o *outbox, lane string) {
		t.Helper()
		if err := o.put(lane, newMessage(frameQuestion)); err != nil {
			t.Fatal(err)
		}
	}
	take := func(o *outbox, want int) {
		t.Helper()
		out, err := o.take(nil)
		if err != nil || len(out) != want {
			t.Fatalf("take: %d messages, %v; want %d", len(out), err, want)
		}
	}
	o := newOutbox(new(counters), time.Hour)
	put(o, patientLane)
	put(o, patientLane)
	if woken(o) {
		t.Fatal("the writer was woken for a patient message")
	}
	put(o, "group")
	if !woken(o) {
		t.Fatal("the writer was not woken")
	}
	take(o, 3)
	take(o, 0)
	put(o, patientLane)
	o.drained()
	if !woken(o) {
		t.Error("the writer was not woken for one who waits")
	}

	o = newOutbox(new(counters), patience)
	for range 2 { // the timer runs again after it was used
		began := time.Now()
		put(o, patientLane)
		<-o.wake
		if waited := time.Since(began); waited < patience {
			t.Errorf("woken after %v, want %v", waited, patience)
		}
		take(o, 1)
		take(o, 0)
	}

	o = newOutbox(new(counters), 0)
	put(o, patientLane)
	if !woken(o) {
		t.Error("an outbox without patience waits")
	}
}

// A peer that was dialled makes this node keep nothing that nobody has asked for, and no more of an answer than one can be.
func TestAnswersThatNobodyAskedFor(t *testing.T) {
	c := newConn(&link{transport: &Transport{}}, nil, nil)
	c.waiting[7] = &exchange{}
	for _, row := range []struct {
		name     string
		kind     byte
		exchange uint64
		total    int
		want     bool
	}{
		{"the answer", frameAnswer, 7, maxCallBody, true},
		{"an answer to nothing", frameAnswer, 8, maxCallBody, false},
		{"a question", frameQuestion, 7, 1000, false},
		{"a note", frameNote, 7, 1000, false},
		{"more than an answer can be", frameAnswer, 7, maxMessage, false},
	} {
		var wire bytes.Buffer
		head := append([]byte{row.kind}, binary.BigEndian.AppendUint32(nil, uint32(row.total))...)
		wire.Write(appendFrame(nil, frameBegin, row.exchange, head, []byte("x")))
		in := frames{r: bufio.NewReader(&wire), admit: c.admit}
		if _, err := in.next(); err != io.EOF {
			t.Fatal(err)
		}
		if p := in.parts[row.exchange]; (p.buf != nil) != row.want {
			t.Errorf("%s: %d bytes are kept", row.name, len(p.buf))
		}
	}
}
