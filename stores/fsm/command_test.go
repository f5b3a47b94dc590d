package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/quorate/quorate/api"
)

var commandCases = []struct {
	name string
	cmds []Append
}{
	{"no command", []Append{}},
	{"append without events", []Append{{Stream: "s", Events: []EventRecord{}}}},
	{"one event", []Append{cmd("s", -2, "a")}},
	{"every expectation", []Append{cmd("s", -1, "a"), cmd("s", -2, "b"), cmd("s", -4, "c"), cmd("s", 0, "d"), cmd("s", math.MaxInt64, "e"), cmd("s", math.MinInt64, "f")}},
	{"extreme times", []Append{{Time: math.MinInt64, Stream: "s", Events: evs("a")}, {Time: math.MaxInt64, Stream: "s", Events: evs("b")}}},
	{"no data", []Append{{Stream: "s", Events: []EventRecord{{ID: "a", Type: "t"}}}}},
	{"empty data is not no data", []Append{{Stream: "s", Events: []EventRecord{{ID: "a", Type: "t", Data: []byte{}}}}}},
	{"binary data", []Append{{Stream: "s", Events: []EventRecord{{ID: "a", Type: "t", Data: []byte{0, 255, 10}}}}}},
	{"JSON, metadata and tags", []Append{{Stream: "s", Events: []EventRecord{{ID: "a", Type: "t", JSON: true, Data: []byte(`{"n":1}`), Metadata: []byte(`{}`), Tags: []string{"x", "", "ü"}}}}}},
	{"texts that a decoder must not check", []Append{{Stream: "", Events: []EventRecord{{}}}}},
	{"long values", []Append{{Stream: strings.Repeat("s", 512), Events: []EventRecord{{ID: strings.Repeat("i", 256), Type: "t", Data: bytes.Repeat([]byte{7}, 1<<20)}}}}},
	{"many events", []Append{{Stream: "s", Events: make([]EventRecord, 300)}}},
	{"several streams", []Append{{Time: 3, Stream: "a", Expected: -2, Others: []string{"b", "c"}, Of: []int{0, 1, 0, 2, 1}, Events: evs("1", "2", "3", "4", "5")}, cmd("s", 0, "z")}},
	{"conditions", []Append{{Time: 3, Stream: "a", Expected: 7, Events: evs("1"), Conditions: someConditions}, cmd("s", 0, "z")}},
	{"conditions and several streams", []Append{cmd("s", 0, "z"), {Stream: "a", Expected: -2, Others: []string{"b"}, Of: []int{0, 1}, Events: evs("1", "2"), Conditions: someConditions}}},
	{"conditions and no events", []Append{{Stream: "a", Events: []EventRecord{}, Conditions: someConditions[:1]}}},
}

var minusOne = int64(-1)

var someConditions = []api.Condition{
	{Stream: "x", Version: &minusOne},
	{Query: &api.Query{Items: []api.QueryItem{}}},
	{Query: &api.Query{Items: []api.QueryItem{{Types: []string{"t", ""}}, {TypePrefixes: []string{"p"}, Tags: []string{"a", "b"}, StreamPrefixes: []string{"s"}}, {}}}, After: math.MaxUint64},
}

func TestEncodeDecode(t *testing.T) {
	for _, c := range commandCases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode(Encode(c.cmds...))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.cmds) {
				t.Errorf("got %+v, want %+v", got, c.cmds)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := Encode(cmd("s", -1, "a", "b"), cmd("s", 1, "c"))
	event := func(flags byte, data string) []byte {
		body := binary.AppendVarint(nil, 1)
		body = binary.AppendVarint(body, -2)
		body = appendBytes(body, "s")
		body = append(body, 1, flags)
		for _, s := range []string{"id", "type", data, ""} {
			body = appendBytes(body, s)
		}
		body = append(body, 0)
		return append([]byte{formatVersion, 1, kindAppend}, appendBytes(nil, body)...)
	}
	several := func(streams []string, of []int, conditions ...byte) []byte {
		body := binary.AppendVarint(nil, 1)
		body = binary.AppendVarint(body, -2)
		body = binary.AppendUvarint(body, uint64(len(streams)))
		for _, s := range streams {
			body = appendBytes(body, s)
		}
		body = binary.AppendUvarint(body, uint64(len(of)))
		for _, at := range of {
			e := EventRecord{ID: "id", Type: "t"}
			body = e.encode(binary.AppendUvarint(body, uint64(at)))
		}
		return append([]byte{formatVersion, 1, kindSeveral}, appendBytes(nil, append(body, conditions...))...)
	}
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"several: no stream", several(nil, nil, 0), errMalformed},
		{"several: one stream and no condition", several([]string{"a"}, []int{0}, 0), errMalformed},
		{"several: a stream without an event", several([]string{"a", "b"}, []int{0, 0}, 0), errMalformed},
		{"several: streams not in the order of events", several([]string{"a", "b"}, []int{1, 0}, 0), errMalformed},
		{"several: a stream that is not listed", several([]string{"a", "b"}, []int{0, 1, 2}, 0), errMalformed},
		{"several: a stream far beyond the list", several([]string{"a"}, []int{0, 1 << 40}, 1, conditionStream, 1, 'x', 1), errMalformed},
		{"several: unknown condition", several([]string{"a"}, []int{0}, 1, 9, 0, 0), errMalformed},
		{"several: forged count of conditions", several([]string{"a"}, []int{0}, 0xff, 0xff, 0x7f), errMalformed},
		{"several: forged count of items", several([]string{"a"}, []int{0}, 1, conditionQuery, 0, 0xff, 0xff, 0x7f), errMalformed},
		{"nothing", nil, errMalformed},
		{"format 0", []byte{0, 0}, errUnknownFormat},
		{"format 2", []byte{2, 1, 2, 3}, errUnknownFormat},
		{"unknown kind", []byte{formatVersion, 1, 9, 2, 'x', 'y'}, errUnknownFormat},
		{"known kind, then unknown kind", append(append(bytes.Clone(whole[:1]), 3), append(bytes.Clone(whole[2:]), 9, 0)...), errUnknownFormat},
		{"unknown kind longer than the entry", []byte{formatVersion, 1, 9, 200}, errMalformed},
		{"a byte too many", append(bytes.Clone(whole), 0), errMalformed},
		{"forged count", []byte{formatVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f}, errMalformed},
		{"count over 64 bits", append([]byte{formatVersion}, bytes.Repeat([]byte{0xff}, 11)...), errMalformed},
		{"event with unknown flag", event(4, ""), errMalformed},
		{"JSON without data", event(flagJSON, ""), errMalformed},
		{"data without its flag", event(0, "x"), errMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Decode(c.data); !errors.Is(err, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
	if _, err := Decode(several([]string{"a", "b"}, []int{0, 1, 0}, 1, conditionStream, 1, 'x', 1)); err != nil {
		t.Errorf("the append over several streams that the cases above alter is not valid itself: %v", err)
	}
	if _, err := Decode(event(flagJSON|flagHasData, "1")); err != nil {
		t.Errorf("the entry that the cases above alter is not valid itself: %v", err)
	}
	t.Run("every prefix", func(t *testing.T) {
		for n := range len(whole) {
			if _, err := Decode(whole[:n]); !errors.Is(err, errMalformed) {
				t.Errorf("first %d of %d bytes: %v, want %v", n, len(whole), err, errMalformed)
			}
		}
	})
}

func TestRecordRoundTrip(t *testing.T) {
	for _, c := range commandCases {
		for _, a := range c.cmds {
			for _, e := range a.Events {
				want := record{stream: 5, version: math.MaxUint64, time: a.Time, event: e}
				got, err := decodeRecord(9, want.encode(9))
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, want)
				}
			}
		}
	}
}

func TestRecordRefusesEveryFlippedBit(t *testing.T) {
	rec := record{stream: 1, version: 2, time: testTime, event: ev("a")}
	b := rec.encode(4)
	if _, err := decodeRecord(5, b); !errors.Is(err, ErrDamaged) {
		t.Errorf("record of position 4 at position 5: %v, want %v", err, ErrDamaged)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := decodeRecord(4, b); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d flipped: %v, want %v", i, err, ErrDamaged)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range len(b) {
		if _, err := decodeRecord(4, b[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("first %d bytes: %v, want %v", n, err, ErrDamaged)
		}
	}
}

func TestRecordDoesNotShareMemory(t *testing.T) {
	rec := record{stream: 1, event: EventRecord{ID: "a", Type: "t", Data: []byte("data"), Metadata: []byte("{}")}}
	b := rec.encode(1)
	got, err := decodeRecord(1, b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if !reflect.DeepEqual(got, rec) {
		t.Errorf("after the input was overwritten: %+v, want %+v", got, rec)
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range commandCases {
		if b := Encode(c.cmds...); len(b) < 4096 {
			f.Add(b)
		}
	}
	f.Add([]byte{formatVersion, 1, 9, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		cmds, err := Decode(data)
		if err != nil {
			if !errors.Is(err, errMalformed) && !errors.Is(err, errUnknownFormat) {
				t.Errorf("unexpected kind of error: %v", err)
			}
			return
		}
		again, err := Decode(Encode(cmds...))
		if err != nil {
			t.Fatalf("%+v cannot be decoded after encoding: %v", cmds, err)
		}
		if !reflect.DeepEqual(again, cmds) {
			t.Fatalf("got %+v, want %+v", again, cmds)
		}
	})
}

func FuzzRecord(f *testing.F) {
	for i, c := range commandCases {
		for _, a := range c.cmds {
			for _, e := range a.Events {
				rec := record{stream: uint64(i), version: 0, time: a.Time, event: e}
				if b := rec.encode(1); len(b) < 4096 {
					f.Add(uint64(1), b[4:])
					stub, err := appendStub(nil, 1, b)
					if err != nil {
						f.Fatal(err)
					}
					f.Add(uint64(1), stub[4:])
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, position uint64, body []byte) {
		// Without a valid checksum nothing gets through, so we give it one; and we try the bytes as they are too.
		_, _ = decodeRecord(position, body)
		value := append(binary.BigEndian.AppendUint32(nil, checksum(position, body)), body...)
		rec, err := decodeRecord(position, value)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("unexpected kind of error: %v", err)
			}
			return
		}
		b, err := appendStub(nil, position, value)
		if err != nil {
			t.Fatal(err)
		}
		stub, err := decodeRecord(position, b)
		if err != nil || !stub.stub || stub.event.ID != rec.event.ID || stub.time != rec.time || stub.stream != rec.stream || stub.version != rec.version {
			t.Fatalf("the stub of %+v is %+v, %v", rec, stub, err)
		}
		if !stub.same(&rec.event, true) != (rec.stub && rec.sum != rec.event.sum()) {
			t.Fatalf("the stub of %+v is not of the same event: %+v", rec, stub)
		}
		if rec.stub {
			return
		}
		again, err := decodeRecord(position, rec.encode(position))
		if err != nil || !reflect.DeepEqual(again, rec) {
			t.Fatalf("got %+v, %v; want %+v", again, err, rec)
		}
	})
}

func FuzzStreamChange(f *testing.F) {
	for _, c := range []StreamChange{
		{Op: StreamDelete, Stream: "s", Expected: 4}, {Op: StreamTruncate, Stream: "a.b", Expected: -2, Before: 1 << 40, Time: testTime},
		{Op: StreamMetadata, Stream: "s", Expected: -1, MaxAge: 5, MaxCount: 7, Custom: []byte(`{}`)},
	} {
		f.Add(c.encode(nil), (&streamState{first: c.Before, maxAge: c.MaxAge, custom: c.Custom, deleted: c.Op == StreamDelete}).encode(nil))
	}
	f.Fuzz(func(t *testing.T, command, state []byte) {
		r := reader{rest: command}
		if c := decodeStreamChange(&r); r.end() == nil {
			r = reader{rest: c.encode(nil)}
			if again := decodeStreamChange(&r); r.end() != nil || !reflect.DeepEqual(again, c) {
				t.Fatalf("got %+v, %v; want %+v", again, r.end(), c)
			}
		}
		s, err := decodeStream(state)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("unexpected kind of error: %v", err)
			}
			return
		}
		if again, err := decodeStream(s.encode(nil)); err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("got %+v, %v; want %+v", again, err, s)
		}
	})
}
