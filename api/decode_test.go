package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

var appendSeeds = []string{
	``, `{}`, ` { } `, `null`, `{"events":[]}`, `{"events":null}`, `{"events":[{}]}`, `{"events":[null]}`, `{"events":[{"type":"T","data": [1, 2]}],"expected_version":3}`,
	`{"expected_version": -1 , "events" : [ { "id" : "i" , "type" : "T" , "data" : {"a":[1,2.5e-3,"x \" \u00e9"]} , "metadata" : { } , "tags" : ["a" , "b"] } ] } `,
	`{"events":[{"type":"T","data":null,"metadata":null,"tags":null}]}`, `{"events":[{"type":"T","tags":[]},{"type":"U","stream":"s","data_base64":"/w=="}]}`,
	`{"events":[{"type":"T","type":"U"}]}`, `{"events":[{"Type":"T"}]}`, `{"events":[{"type":"T\n"}]}`, `{"events":[{"type":"T\\n\ud800"}]}`, "{\"events\":[{\"type\":\"\xff\"}]}",
	`{"events":[{"type":"ö"}],"events":[]}`, `{"expected_version":1.0}`, `{"expected_version":01}`, `{"expected_version":-}`, `{"expected_version":9223372036854775808}`, `{"expected_version":null}`,
	`{"events":[{"type":"T","data_base64":"%"}]}`, `{"events":[{"type":"T","data_base64":""}]}`, `{"events":[{"type":"T","dta":1}]}`, `{"events":[{"type":7}]}`, `{"events":[{"data":tru}]}`,
	`{"events":[{"type":"T"}],"conditions":[{"stream":"a","version":3},{"query":{"items":[{"types":["A"]}]},"after":7}]}`, `{"conditions":[]}`, `{"conditions":null}`, `{"conditions":[{"x":1}]}`,
	`{"conditions":[],"conditions":[{"stream":"a"}]}`, `{} x`, `{}{}`, `{"events":[{"data":"\u12g4"}]}`, `{"events":[{"type":"T",}]}`, `{"events":[{"type":"T"},]}`, `{,}`, `{"a"}`, `[1]`,
}

// Whatever the request's own decoder accepts, encoding/json decodes to the same; what it does not accept is encoding/json's.
func FuzzDecodeAppendRequest(f *testing.F) {
	for _, s := range appendSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var want, got AppendRequest
		wantErr := unmarshalAny(payload, &want)
		before := bytes.Clone(payload)
		gotErr := Unmarshal(payload, &got)
		if !reflect.DeepEqual(got, want) && gotErr == nil || !reflect.DeepEqual(gotErr, wantErr) {
			t.Fatalf("%q\ngot  %+v, %v\nwant %+v, %v", payload, got, gotErr, want, wantErr)
		}
		if !bytes.Equal(payload, before) {
			t.Fatalf("the payload was changed: %q", before)
		}
	})
}

// What clients send does not need encoding/json.
func TestDecodeAppendRequestAlone(t *testing.T) {
	for _, payload := range []string{
		`{"events":[{"type":"T","data": [1, 2]}],"expected_version":3}`,
		`{"events": [{"id": "i", "type": "Tö", "data": {"a": "x\ny"}, "metadata": {}, "tags": ["a"], "stream": "s"}]}`,
		`{"events":[{"type":"T","data_base64":"/w=="}],"conditions":[{"stream":"a","version":3}]}`,
	} {
		var r AppendRequest
		if !r.decode([]byte(payload)) {
			t.Errorf("%s was left to encoding/json", payload)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range appendSeeds {
		f.Add([]byte(s))
	}
	f.Add(bytes.Repeat([]byte("["), maxScanDepth+1))
	f.Add(append(bytes.Repeat([]byte("["), maxScanDepth+1), bytes.Repeat([]byte("]"), maxScanDepth+1)...))
	f.Add([]byte(" -0.1E+7 "))
	f.Fuzz(func(t *testing.T, raw []byte) {
		want := json.Valid(raw)
		if got := ValidJSON(raw); got != want {
			t.Fatalf("%q: got %v, want %v", raw, got, want)
		}
		if !want {
			return
		}
		var b bytes.Buffer
		json.Compact(&b, raw)
		if got := CompactJSON(raw); !bytes.Equal(got, b.Bytes()) {
			t.Fatalf("%q: got %q, want %q", raw, got, b.Bytes())
		}
	})
}

func BenchmarkDecodeAppendRequest(b *testing.B) {
	payload := []byte(`{"events":[{"id":"7NUQ2GZQYP2GQX2QZQYP2G","type":"Placed","data":"` + string(bytes.Repeat([]byte("payload "), 31)) + `"}],"expected_version":-2}`)
	for _, way := range []struct {
		name   string
		decode func([]byte, any) *Error
	}{{"own", unmarshal}, {"encoding", unmarshalAny}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var r AppendRequest
				if err := way.decode(payload, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
