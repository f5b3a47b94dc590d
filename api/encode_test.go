package api

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

// sameAsJSON compares with what encoding/json makes of the value.
func sameAsJSON(t *testing.T, v encoder) {
	t.Helper()
	want, err := marshalAny(v)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := v.encode(nil)
	if !ok {
		t.Fatalf("%+v was left to encoding/json", v)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if room := v.size(); len(want) > room {
		for _, c := range want { // what is escaped takes more room than was foreseen
			if c == '\\' {
				return
			}
		}
		t.Errorf("%d bytes, more than the %d foreseen: %s", len(want), room, want)
	}
}

func FuzzEncodeAppendResponse(f *testing.F) {
	f.Add("orders", "order-42", uint64(0), uint64(3), true)
	f.Add("", "ö\"\\\n\u2028<&>\x7f\xff", uint64(1<<63), uint64(0), false)
	f.Fuzz(func(t *testing.T, store, stream string, a, b uint64, dup bool) {
		sameAsJSON(t, &AppendResponse{
			Reply: Reply{Type: TypeAppend}, Store: store, Stream: stream, FirstVersion: a, Version: b, FirstPosition: a ^ b, Position: a + b, Duplicate: dup,
		})
	})
}

func FuzzEncodeReadResponse(f *testing.F) {
	f.Add("orders", "order-42", "01J", "Placed", []byte(`{"a": [1, "x  y", null]}`), []byte(`{"by":"me"}`), "red", uint64(7), int64(1_764_000_000_000_001), uint8(0xff))
	f.Add("", "", "", "", []byte(nil), []byte(nil), "", uint64(0), int64(0), uint8(0))
	f.Add("s", "<\u2029>", "\x00", "\xf0", []byte("\"\xff\""), []byte(`{}`), "\t", uint64(1<<64-1), int64(-1), uint8(0x55))
	f.Fuzz(func(t *testing.T, store, stream, id, typ string, data, metadata []byte, tag string, n uint64, micros int64, bits uint8) {
		bit := func(i int) bool { return bits>>i&1 == 1 }
		at := time.UnixMicro(micros).UTC()
		if at.Year() < 0 || at.Year() > 9999 {
			return // encoding/json refuses it, and it is left to it
		}
		e := Event{Position: n, Stream: stream, Version: n / 2, ID: id, Type: typ, Time: at}
		if raw, ok := compacted(data); ok && bit(0) {
			e.Data = raw
		} else {
			e.DataBase64 = data
		}
		if raw, ok := compacted(metadata); ok {
			e.Metadata = raw
		}
		if bit(1) {
			e.Tags = []string{tag, "x"}
		}
		r := &ReadResponse{Reply: Reply{Type: TypeRead}, Store: store, Stream: stream, Events: []Event{}, Next: n, End: bit(2), Applied: n}
		if bit(3) {
			r.Events = append(r.Events, e, e)
		}
		if bit(4) {
			r.Scanned = &n
		}
		if bit(5) {
			version := int64(n)
			r.LastVersion = &version
		}
		if bit(6) {
			r.LastPosition = n
		}
		sameAsJSON(t, r)
	})
}

// compacted is JSON as a store keeps it.
func compacted(raw []byte) ([]byte, bool) {
	var b bytes.Buffer
	err := json.Compact(&b, raw)
	return b.Bytes(), err == nil
}

// What the encoders do not know is encoding/json's, errors too.
func TestEncodeLeavesTheRest(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600))
	for _, v := range []encoder{
		&AppendResponse{Reply: Reply{Type: TypeAppend, Error: ErrTimeout.With("x")}},
		&ReadResponse{Reply: Reply{Type: TypeRead, Error: ErrTimeout.With("x")}, Events: []Event{}},
		&ReadResponse{},
		&ReadResponse{Events: []Event{{Time: at}}},
		&ReadResponse{Events: []Event{{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}}},
	} {
		want, wantErr := marshalAny(v)
		got, err := Marshal(v)
		if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) {
			t.Errorf("got  %s, %v\nwant %s, %v", got, err, want, wantErr)
		}
	}
}

func BenchmarkMarshalPage(b *testing.B) {
	r := &ReadResponse{Reply: Reply{Type: TypeRead}, Store: "orders"}
	data := append(append([]byte(`"`), bytes.Repeat([]byte("payload "), 31)...), '"')
	for i := range 1000 {
		r.Events = append(r.Events, Event{Position: uint64(i), Stream: "order-42", ID: "7NUQ2GZQYP2GQX2QZQYP2G", Type: "Placed", Time: time.UnixMicro(1_764_000_000_000_001).UTC(), Data: data})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(r); err != nil {
			b.Fatal(err)
		}
	}
}
