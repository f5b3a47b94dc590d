package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/quorate/quorate/api"
)

// An entry is one or more commands. The leader may put the requests that wait at one time into one entry.
//
//	entry    formatVersion (1) · count (uvarint) · count × command
//	command  kind (1) · length (uvarint) · body (length bytes)
//	append   time (varint, Unix µs) · expected (varint) · stream (text) · events (uvarint) · event…     kind 1
//	several  see several.go                                                                             kind 2
//	others   see change.go                                                                              kinds from 3 on
//	event    flags (1: 1 = JSON, 2 = has data) · id (text) · type (text) · data (bytes) · metadata (bytes) · tags (uvarint) · tag (text)…
//
// text and bytes are a uvarint length and so many bytes. A reader that does not know the format version or a kind answers api.ErrUnknownFormat and changes
// nothing; the length lets later versions add kinds.
const (
	formatVersion = 1
	kindAppend    = 1
	kindSeveral   = 2

	flagJSON    = 1
	flagHasData = 2
)

// Kinds is the highest kind of command that this program can apply. A leader must not propose a kind that a member of the store cannot apply: that member
// would leave the command out, and differ from then on.
const Kinds = kindRestore

// Append is the command to append events to one stream or several, atomically.
type Append struct {
	Time     int64  // Unix microseconds at the leader
	Stream   string // 1 to api.MaxStreamName bytes; of several streams the one of the first event
	Expected int64  // api.Expect*, or the exact last version of Stream; ExpectAny when there are several streams
	Events   []EventRecord

	Others     []string        // further streams, in the order in which events first name them
	Of         []int           // with Others: the stream of each event, 0 for Stream and i for Others[i-1]
	Conditions []api.Condition // on the state before the append
}

// Kind returns the least kind of command that can say the append.
func (a *Append) Kind() int {
	if len(a.Others)+len(a.Conditions) > 0 {
		return kindSeveral
	}
	return kindAppend
}

// Body is a command as it stands in an entry.
type Body struct {
	Kind int
	Data []byte
}

// EventRecord is an event as it is stored.
type EventRecord struct {
	ID       string
	Type     string
	Data     []byte // nil: none
	JSON     bool   // Data is JSON and comes back as such; else it comes back as base64
	Metadata []byte // a JSON object, or nil
	Tags     []string
}

var errMalformed = errors.New("malformed entry")
var errUnknownFormat = errors.New("entry of an unknown format")

// Encode makes an entry of the commands.
func Encode(cmds ...Append) []byte {
	bodies := make([]Body, len(cmds))
	for i := range cmds {
		bodies[i] = cmds[i].Body()
	}
	return EncodeBodies(bodies)
}

// EncodeBodies makes an entry of commands that are encoded already, by Body.
func EncodeBodies(bodies []Body) []byte {
	size := 16
	for i := range bodies {
		size += len(bodies[i].Data) + 8
	}
	b := make([]byte, 0, size)
	b = append(b, formatVersion)
	b = binary.AppendUvarint(b, uint64(len(bodies)))
	for i := range bodies {
		b = append(b, byte(bodies[i].Kind))
		b = appendBytes(b, bodies[i].Data)
	}
	return b
}

// Body encodes the command.
func (a *Append) Body() Body {
	if a.Kind() == kindSeveral {
		return Body{kindSeveral, a.encodeSeveral()}
	}
	size := 64 + len(a.Stream)
	for i := range a.Events {
		size += 64 + len(a.Events[i].Data) + len(a.Events[i].Metadata)
	}
	b := make([]byte, 0, size)
	b = binary.AppendVarint(b, a.Time)
	b = binary.AppendVarint(b, a.Expected)
	b = appendBytes(b, a.Stream)
	b = binary.AppendUvarint(b, uint64(len(a.Events)))
	for i := range a.Events {
		b = a.Events[i].encode(b)
	}
	return Body{kindAppend, b}
}

func (e *EventRecord) encode(b []byte) []byte {
	var flags byte
	if e.JSON {
		flags |= flagJSON
	}
	if e.Data != nil {
		flags |= flagHasData
	}
	b = append(b, flags)
	b = appendBytes(b, e.ID)
	b = appendBytes(b, e.Type)
	b = appendBytes(b, e.Data)
	b = appendBytes(b, e.Metadata)
	b = binary.AppendUvarint(b, uint64(len(e.Tags)))
	for _, t := range e.Tags {
		b = appendBytes(b, t)
	}
	return b
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// Decode reads an entry. Slices of the result share data's memory. Anything that Encode does not write is refused.
func Decode(data []byte) ([]Append, error) {
	d := decoder{}
	err := d.entry(data)
	if err != nil {
		return nil, err
	}
	return d.cmds, nil
}

// decoder reads entries, one after the other, into the same memory.
type decoder struct {
	share bool // also the strings of the result share the entry's memory: it must not change while they are in use
	cmds  []Append
	raws  [][]byte // the encodings of all events, in the order of cmds

	kinds   []byte // of all commands, in the entry's order: appends are in cmds, others in changes
	changes []Change
}

func (d *decoder) entry(data []byte) error {
	r := reader{rest: data, share: d.share}
	if v := r.byte(); r.err == nil && v != formatVersion {
		return fmt.Errorf("%w: version %d", errUnknownFormat, v)
	}
	n := r.count(2)
	d.raws = d.raws[:0]
	if cap(d.cmds) < n || !d.share {
		d.cmds = make([]Append, 0, n)
	}
	d.cmds, d.kinds, d.changes = d.cmds[:0], d.kinds[:0], nil
	for range n {
		kind := r.byte()
		body := r.bytes()
		if r.err != nil {
			return r.err
		}
		var err error
		switch kind {
		case kindAppend:
			err = d.append(body)
		case kindSeveral:
			err = d.several(body)
		default:
			err = d.change(kind, body)
		}
		d.kinds = append(d.kinds, kind)
		if err != nil {
			return err
		}
	}
	return r.end()
}

func (d *decoder) append(body []byte) error {
	r := reader{rest: body, share: d.share}
	a := d.next()
	a.Time, a.Expected, a.Stream = r.varint(), r.varint(), r.text()
	n := r.count(6)
	d.room(a, n)
	for range n {
		d.event(&r, a)
	}
	return r.end()
}

// next returns the command to be decoded into. Only its slice of events is kept from an earlier entry.
func (d *decoder) next() *Append {
	d.cmds = d.cmds[:len(d.cmds)+1]
	a := &d.cmds[len(d.cmds)-1]
	a.Others, a.Of, a.Conditions = nil, nil, nil
	return a
}

func (d *decoder) room(a *Append, n int) {
	if cap(a.Events) < n || !d.share {
		a.Events = make([]EventRecord, 0, n)
	}
	a.Events = a.Events[:0]
}

func (d *decoder) event(r *reader, a *Append) {
	before := r.rest
	a.Events = append(a.Events, r.event())
	d.raws = append(d.raws, before[:len(before)-len(r.rest)])
}

func (r *reader) event() EventRecord {
	flags := r.byte()
	if flags&^(flagJSON|flagHasData) != 0 {
		r.fail()
	}
	e := EventRecord{JSON: flags&flagJSON != 0, ID: r.text(), Type: r.text()}
	data := r.bytes()
	switch {
	case flags&flagHasData != 0:
		e.Data = data
	case len(data) > 0 || e.JSON:
		r.fail()
	}
	if m := r.bytes(); len(m) > 0 {
		e.Metadata = m
	}
	if n := r.count(1); n > 0 {
		e.Tags = make([]string, n)
		for i := range e.Tags {
			e.Tags[i] = r.text()
		}
	}
	return e
}

// reader takes values off a byte slice. After the first error it gives zero values, so a decoder checks once.
type reader struct {
	rest  []byte
	share bool // strings share rest's memory
	err   error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errMalformed
	}
	r.rest = nil
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads how many items follow; each takes at least size bytes, so a forged count cannot make us allocate much.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.rest)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail()
		return nil
	}
	v := r.rest[:n:n]
	r.rest = r.rest[n:]
	return v
}

func (r *reader) text() string {
	b := r.bytes()
	if r.share {
		return unsafe.String(unsafe.SliceData(b), len(b))
	}
	return string(b)
}

func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		return fmt.Errorf("%w: %d bytes too many", errMalformed, len(r.rest))
	}
	return r.err
}
