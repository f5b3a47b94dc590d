package api

import (
	"bytes"
	"testing"
)

func FuzzEncodeAppendResponse(f *testing.F) {
	f.Add("orders", "order-42", uint64(0), uint64(3), true)
	f.Add("", "ö\"\\\n\u2028<&>\x7f\xff", uint64(1<<63), uint64(0), false)
	f.Fuzz(func(t *testing.T, store, stream string, a, b uint64, dup bool) {
		r := &AppendResponse{
			Reply: Reply{Type: TypeAppend}, Store: store, Stream: stream, FirstVersion: a, Version: b, FirstPosition: a ^ b, Position: a + b, Duplicate: dup,
		}
		want, err := marshalAny(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := r.encode(); !ok || !bytes.Equal(got, want) {
			t.Fatalf("got  %s, %v\nwant %s", got, ok, want)
		}
	})
}

// An error is encoding/json's.
func TestEncodeLeavesErrors(t *testing.T) {
	r := &AppendResponse{Reply: Reply{Type: TypeAppend, Error: ErrTimeout.With("x")}}
	want, wantErr := marshalAny(r)
	got, err := Marshal(r)
	if !bytes.Equal(got, want) || err != nil || wantErr != nil {
		t.Errorf("got  %s, %v\nwant %s, %v", got, err, want, wantErr)
	}
}
