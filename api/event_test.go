package api

import (
	"errors"
	"testing"
)

// What is JSON to encoding/json, and is no text, would make every page it is on something else than JSON. Whichever way a request is decoded, it is refused.
func TestJSONIsText(t *testing.T) {
	for _, r := range []struct {
		name, data, metadata string
		want                 *Error
	}{
		{"text", `"ü"`, `{"by":"ü"}`, nil},
		{"an escape", `"\ud800"`, `{}`, nil},
		{"data", "\"\xff\"", `{}`, ErrBadRequest},
		{"metadata", `1`, "{\"by\":\"\xfe\"}", ErrBadRequest},
		{"a name in metadata", `1`, "{\"\xfe\":1}", ErrBadRequest},
	} {
		for _, more := range []string{"", `,"tags":null`} { // the second is left to encoding/json
			var a AppendRequest
			if err := Unmarshal([]byte(`{"events":[{"type":"T","data":`+r.data+`,"metadata":`+r.metadata+more+`}]}`), &a); err != nil {
				t.Fatal(r.name, err)
			}
			err := a.Events[0].Check(0)
			if (err != nil || r.want != nil) && !errors.Is(err, r.want) {
				t.Errorf("%s: %v", r.name, err)
			}
			if err := a.Events[0].CheckKept(0); err != nil {
				t.Errorf("%s, in a backup: %v", r.name, err)
			}
			s := SnapshotPutRequest{Data: a.Events[0].Data, Metadata: a.Events[0].Metadata}
			if err := s.Check(); (err != nil || r.want != nil) && !errors.Is(err, r.want) {
				t.Errorf("%s of a snapshot: %v", r.name, err)
			}
		}
	}
	bytes := NewEvent{Type: "T", DataBase64: []byte{0xff}}
	if err := bytes.Check(0); err != nil {
		t.Errorf("bytes that do not say that they are JSON: %v", err)
	}
}
