package fsm

import (
	"crypto/sha256"
	"encoding/binary"
)

// Of an event that is gone, scavenging leaves a stub in the place of its record. It keeps what others lead through (front), what makes retries safe (id) and what a retry is
// held against (sum of type and data):
//
//	stub   CRC32C (4) as of a record · front · time (varint) · flagStub (1) · id (text) · sum (8)
//
// What the stub of a record is follows from the record alone, so replicas can be compared whether they have the one or the other.
const flagStub = 4

// sum is 64 bits of what a retry of the event must have in common with it.
func (e *EventRecord) sum() uint64 {
	var flags byte
	if e.JSON {
		flags |= flagJSON
	}
	h := sha256.New()
	h.Write([]byte{flags, byte(len(e.Type)), byte(len(e.Type) >> 8)})
	h.Write([]byte(e.Type))
	h.Write(e.Data)
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// appendStub appends the stub of a record, which may be one already.
func appendStub(b []byte, position uint64, value []byte) ([]byte, error) {
	rec, f, err := decodeChecked(position, value, true)
	if err != nil {
		return b, err
	}
	if rec.stub {
		return append(b, value...), nil
	}
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, f.stream)
	b = binary.AppendUvarint(b, f.version)
	for l := range f.n {
		b = binary.AppendUvarint(b, position-f.back[l])
	}
	b = binary.AppendVarint(b, rec.time)
	b = append(b, flagStub)
	b = appendBytes(b, rec.event.ID)
	b = binary.BigEndian.AppendUint64(b, rec.event.sum())
	binary.BigEndian.PutUint32(b[start:], checksum(position, b[start+4:]))
	return b, nil
}

// looksLikeStub is for readers to which most records are none: it does not look at the checksum, so what it says is a guess until the record is decoded.
func looksLikeStub(position uint64, value []byte) bool {
	r := reader{rest: value[min(4, len(value)):]}
	r.takeFront(position)
	r.varint()
	return len(r.rest) > 0 && r.rest[0] == flagStub
}

// takeStub takes what stands behind a stub's time off the reader.
func (rec *record) takeStub(r *reader) {
	r.byte()
	rec.stub = true
	rec.event.ID = r.text()
	if len(r.rest) < 8 {
		r.fail()
		return
	}
	rec.sum, r.rest = binary.BigEndian.Uint64(r.rest), r.rest[8:]
}

// same reports whether a retry of the event could be e. gone says that the event is, in the replicated state: then only sums are compared, on every replica.
func (rec *record) same(e *EventRecord, gone bool) bool {
	switch {
	case rec.stub:
		return rec.sum == e.sum()
	case gone:
		return rec.event.sum() == e.sum()
	}
	return rec.event.Type == e.Type && rec.event.JSON == e.JSON && string(rec.event.Data) == string(e.Data)
}
