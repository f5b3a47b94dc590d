package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// The parts that messages are made of:
//
//	number   uvarint, in its shortest form
//	flag     one byte, 0 or 1
//	bytes    number n · n bytes; none are nil
//	ident    0 (none) | 1 (the sender's own server id) | 2 · bytes (any other)
//	time     seconds since 1970, zigzag, as number · nanoseconds below 10^9 as number
//
// Each value has one encoding, and a decoder takes no other: what is understood, encoded again, gives the same bytes. Almost every ident in
// raft's messages is the sender's id, which the handshake told, so it costs one byte.
const (
	identNone = iota
	identSender
	identOther
)

var errMessage = errors.New("malformed message")

func appendBytes(b, v []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

func appendFlag(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendIdent(b []byte, sender string, v []byte) []byte {
	switch {
	case len(v) == 0:
		return append(b, identNone)
	case string(v) == sender:
		return append(b, identSender)
	}
	return appendBytes(append(b, identOther), v)
}

func appendTime(b []byte, t time.Time) []byte {
	sec := t.Unix()
	b = binary.AppendUvarint(b, uint64(sec)<<1^uint64(sec>>63))
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// decoder takes a message apart. The first thing that is not as it must be sets err, and everything after it reads as zero.
type decoder struct {
	b      []byte
	sender []byte // the id of who sent it; shared by all messages of a connection, never changed
	err    error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s, %d bytes before its end", errMessage, what, len(d.b))
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("cut off")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) flag() bool {
	v := d.byte()
	if v > 1 {
		d.fail("a flag is neither 0 nor 1")
	}
	return v == 1
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("a number is not well-formed")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes returns a part of the message's own buffer.
func (d *decoder) bytes() []byte {
	n := d.number()
	if n > uint64(len(d.b)) {
		d.fail("bytes are cut off")
		return nil
	}
	if n == 0 {
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) ident() []byte {
	switch d.byte() {
	case identNone:
		return nil
	case identSender:
		return d.sender
	case identOther:
		v := d.bytes()
		if len(v) == 0 || string(v) == string(d.sender) {
			d.fail("an ident is not in its shortest form")
		}
		return v
	}
	d.fail("an ident is of no known kind")
	return nil
}

func (d *decoder) time() time.Time {
	zz := d.number()
	nanos := d.number()
	if nanos >= uint64(time.Second) {
		d.fail("a time has too many nanoseconds")
		return time.Time{}
	}
	t := time.Unix(int64(zz>>1)^-int64(zz&1), int64(nanos))
	if t.Unix() != int64(zz>>1)^-int64(zz&1) || t.IsZero() { // out of time.Time's range; the zero time is left out instead
		d.fail("a time is out of range")
		return time.Time{}
	}
	return t
}

func (d *decoder) int() int {
	v := d.number()
	if v > math.MaxInt {
		d.fail("a number is too large")
		return 0
	}
	return int(v)
}

// end returns the first error; bytes that are left over are one.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("it goes on after its end")
	}
	return d.err
}
