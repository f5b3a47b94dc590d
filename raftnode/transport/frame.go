package transport

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// After the handshake a connection carries frames, in both directions:
//
//	length of what follows the checksum (4) · CRC-32C of it (4) · kind (1) · exchange (8) · payload
//
//	kind      payload
//	question  a question; the answer carries the same exchange
//	answer    an answer
//	note      method (1) · body; nobody answers
//	ping      nothing; whoever reads it sends a pong, ahead of everything that waits
//	pong      nothing
//	begin     kind of the message (1) · its length (4) · its first piece
//	piece     the next piece of the message that began under this exchange
//	data      a piece of a snapshot; exchange is how many bytes of it came before
//	end       nothing; exchange is the length of the snapshot
//
// A payload is at most 64 KiB; a message that is longer goes as begin and pieces, between which frames of others are sent. A message is at most
// 64 MiB. Numbers are big-endian. A frame whose length or checksum is wrong ends the connection: nothing behind it can be trusted.
const (
	frameHead     = 4 + 4
	frameFixed    = 1 + 8
	beginFixed    = 1 + 4
	pieceBytes    = 64 << 10
	maxMessage    = 64 << 20
	maxPartial    = 4096 // messages that are being put together on one connection
	frameQuestion = 1
	frameAnswer   = 2
	frameNote     = 3
	framePing     = 4
	framePong     = 5
	frameBegin    = 6
	framePiece    = 7
	frameData     = 8
	frameEnd      = 9
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends a frame whose payload is the two parts.
func appendFrame(b []byte, kind byte, exchange uint64, part1, part2 []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(frameFixed+len(part1)+len(part2)))
	sum := len(b)
	b = append(b, 0, 0, 0, 0, kind)
	b = binary.BigEndian.AppendUint64(b, exchange)
	b = append(append(b, part1...), part2...)
	binary.BigEndian.PutUint32(b[sum:], crc32.Checksum(b[sum+4:], castagnoli))
	return b
}

// incoming is one whole message.
type incoming struct {
	kind     byte
	exchange uint64
	payload  []byte  // of questions and notes: the receiver's own; of others: until the next read
	ticket   *ticket // room that was reserved for it; nil: none yet
}

// partial is a message that is being put together.
type partial struct {
	kind   byte
	buf    []byte // nil: refused, its pieces are thrown away
	got    int
	total  int
	ticket *ticket
}

// frames reads a connection's messages. One goroutine may use it.
type frames struct {
	r       *bufio.Reader
	scratch []byte
	parts   map[uint64]*partial
	bytes   int // read since the last call of next

	// admit decides, by the first piece of a long message, whether it is put together here. When it is not, admit has answered it.
	admit func(in incoming, total int) (*ticket, bool)
}

// next returns the next whole message. io.EOF means that the connection ended between two frames; every error ends it.
func (f *frames) next() (incoming, error) {
	f.bytes = 0
	for {
		in, whole, err := f.frame()
		if err != nil || whole {
			return in, err
		}
	}
}

func (f *frames) frame() (in incoming, whole bool, err error) {
	head, err := f.r.Peek(frameHead + frameFixed)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return in, false, err
	}
	n := binary.BigEndian.Uint32(head)
	if n < frameFixed || n > frameFixed+beginFixed+pieceBytes {
		return in, false, fmt.Errorf("frame of %d bytes, wanted %d to %d", n, frameFixed, frameFixed+beginFixed+pieceBytes)
	}
	want := binary.BigEndian.Uint32(head[4:])
	sum := crc32.Checksum(head[frameHead:], castagnoli)
	in = incoming{kind: head[8], exchange: binary.BigEndian.Uint64(head[9:])}
	f.r.Discard(frameHead + frameFixed)
	size := int(n) - frameFixed
	f.bytes += frameHead + int(n)

	var p *partial
	var to []byte
	switch in.kind {
	case frameQuestion, frameNote:
		to = make([]byte, size)
	case framePiece:
		if p = f.parts[in.exchange]; p == nil || size == 0 || p.got+size > p.total {
			return in, false, fmt.Errorf("a piece of %d bytes continues nothing", size)
		}
		if p.buf != nil {
			to = p.buf[p.got : p.got+size]
			break
		}
		fallthrough
	default:
		if cap(f.scratch) < size {
			f.scratch = make([]byte, size, max(size, 4<<10))
		}
		to = f.scratch[:size]
	}
	if _, err := io.ReadFull(f.r, to); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return in, false, err
	}
	if got := crc32.Update(sum, castagnoli, to); got != want {
		return in, false, fmt.Errorf("frame with checksum %08x, wanted %08x", got, want)
	}
	switch in.kind {
	case frameQuestion, frameNote, frameAnswer, framePing, framePong, frameData, frameEnd:
		in.payload = to
		return in, true, nil
	case frameBegin:
		return in, false, f.begin(in.exchange, to)
	case framePiece:
		if p.got += size; p.got < p.total {
			return in, false, nil
		}
		delete(f.parts, in.exchange)
		return incoming{kind: p.kind, exchange: in.exchange, payload: p.buf, ticket: p.ticket}, p.buf != nil, nil
	}
	return in, false, fmt.Errorf("frame of unknown kind %d", in.kind)
}

func (f *frames) begin(exchange uint64, payload []byte) error {
	if len(payload) < beginFixed+1 {
		return fmt.Errorf("the beginning of a message has %d bytes", len(payload))
	}
	p := &partial{kind: payload[0], total: int(binary.BigEndian.Uint32(payload[1:])), got: len(payload) - beginFixed}
	first := payload[beginFixed:]
	switch {
	case p.kind != frameQuestion && p.kind != frameAnswer && p.kind != frameNote:
		return fmt.Errorf("a long message of kind %d", p.kind)
	case p.total <= p.got || p.total > maxMessage:
		return fmt.Errorf("a long message of %d bytes, of which %d come first", p.total, p.got)
	case f.parts[exchange] != nil:
		return fmt.Errorf("exchange %d begins twice", exchange)
	case len(f.parts) >= maxPartial:
		return fmt.Errorf("more than %d messages are begun", maxPartial)
	}
	if f.parts == nil {
		f.parts = make(map[uint64]*partial)
	}
	f.parts[exchange] = p
	ok := true
	if f.admit != nil {
		p.ticket, ok = f.admit(incoming{kind: p.kind, exchange: exchange, payload: first}, p.total)
	}
	if ok {
		p.buf = make([]byte, p.total)
		copy(p.buf, first)
	}
	return nil
}

// drop gives back the room of messages whose rest will not come.
func (f *frames) drop() {
	for _, p := range f.parts {
		p.ticket.release()
	}
	f.parts = nil
}
