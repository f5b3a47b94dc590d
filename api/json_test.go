package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestUnmarshal(t *testing.T) {
	rows := []struct {
		name    string
		payload string
		into    any
		want    string // part of the sentence; empty: accepted
	}{
		{"empty payload", "", &ReadStreamRequest{}, ""},
		{"only white space", " \r\n\t", &ReadStreamRequest{}, ""},
		{"empty object", "{}", &ReadStreamRequest{}, ""},
		{"space around", "  {\"limit\":1}\n", &ReadStreamRequest{}, ""},
		{"null field", `{"from":null}`, &ReadStreamRequest{}, ""},

		{"array", `[1]`, &AppendRequest{}, `must be a JSON object or empty; it begins with '['`},
		{"text", `"x"`, &AppendRequest{}, `it begins with '"'`},
		{"null", `null`, &AppendRequest{}, `it begins with 'n'`},
		{"unknown field", `{"event":[]}`, &AppendRequest{}, `unknown field "event"; subjects.md lists the fields`},
		{"unknown field inside", `{"events":[{"type":"T","dta":1}]}`, &AppendRequest{}, `unknown field "dta"`},
		{"text for a number", `{"expected_version":"1"}`, &AppendRequest{}, `field "expected_version" cannot be a JSON string; it needs a whole number`},
		{"fraction", `{"expected_version":1.5}`, &AppendRequest{}, `field "expected_version" cannot be a JSON number 1.5; it needs a whole number`},
		{"too large a number", `{"expected_version":9223372036854775808}`, &AppendRequest{}, `needs a whole number`},
		{"negative position", `{"from":-1}`, &ReadStreamRequest{}, `field "from" cannot be a JSON number -1; it needs a whole number from 0`},
		{"number for a bool", `{"backward":1}`, &ReadStreamRequest{}, `field "backward" cannot be a JSON number; it needs true or false`},
		{"object for an array", `{"events":{}}`, &AppendRequest{}, `field "events" cannot be a JSON object; it needs an array`},
		{"number for a text", `{"events":[{"type":7}]}`, &AppendRequest{}, `type" cannot be a JSON number; it needs a text`},
		{"number for base64", `{"events":[{"data_base64":7}]}`, &AppendRequest{}, `data_base64" cannot be a JSON number; it needs base64 text`},
		{"array for an object", `{"options":[]}`, &ConfigPutRequest{}, `field "options" cannot be a JSON array; it needs an object`},
		{"not base64", `{"events":[{"data_base64":"%"}]}`, &AppendRequest{}, "base64"},
		{"cut off", `{"limit":`, &ReadStreamRequest{}, "not valid JSON"},
		{"cut off in a text", `{"consistency":"lo`, &ReadStreamRequest{}, "not valid JSON"},
		{"syntax", `{limit:1}`, &ReadStreamRequest{}, "not valid JSON"},
		{"trailing object", `{}{}`, &ReadStreamRequest{}, "more text behind the JSON object"},
		{"trailing bracket", `{} }`, &ReadStreamRequest{}, "more text behind the JSON object"},
		{"trailing word", `{} x`, &ReadStreamRequest{}, "more text behind the JSON object"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			err := Unmarshal([]byte(r.payload), r.into)
			if r.want == "" {
				if err != nil {
					t.Fatalf("got %v, want it accepted", err)
				}
				return
			}
			if err == nil || !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Description, r.want) {
				t.Fatalf("got %v, want bad_request that says %q", err, r.want)
			}
			if strings.Contains(err.Description, "json: ") || strings.Contains(err.Description, "Go struct") {
				t.Fatalf("%q speaks of Go, not of the request", err.Description)
			}
		})
	}
}

// Found by a test: the sentence said "ReadOptions.consistency", a name that no request has. The options every read takes are embedded in Go; to a
// client they are ordinary fields of the request.
func TestUnmarshalNamesEmbeddedFieldsAsTheClientDoes(t *testing.T) {
	err := Unmarshal([]byte(`{"consistency":7}`), &ReadStreamRequest{})
	if want := `field "consistency" cannot be a JSON number; it needs a text`; err == nil || err.Description != want {
		t.Fatalf("got %v, want %q", err, want)
	}
}

func TestEventDataComesBackByteForByte(t *testing.T) {
	data := `{"html":"<b>&</b>","n":1.10,"dup":1,"dup":2}`
	var in AppendRequest
	if err := Unmarshal([]byte(`{"events":[{"type":"T","data":`+data+`}]}`), &in); err != nil {
		t.Fatal(err)
	}
	raw, err := Marshal(Event{Type: "T", Data: in.Events[0].Data})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), data) || strings.HasSuffix(string(raw), "\n") {
		t.Fatalf("got %s, want it to hold %s and no newline at the end", raw, data)
	}
	var out Event
	if err := json.Unmarshal(raw, &out); err != nil || string(out.Body()) != data {
		t.Fatalf("got %s, %v, want %s", out.Body(), err, data)
	}
	if got := (&Event{DataBase64: []byte("b")}).Body(); string(got) != "b" {
		t.Fatalf("got %q, want the bytes of data_base64", got)
	}
}

// Whatever arrives, it is decoded or refused as a bad request with a sentence; what is decoded can be sent on and decoded again.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{"events":[{"type":"T","data":{"a":1},"tags":["x"],"metadata":{}}],"expected_version":-1}`, `{"events":[{"type":"T","data_base64":"aGk="}]}`,
		``, `{}`, `{"a":1}`, `[`, `{} {}`, `{"expected_version":1e3}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var a AppendRequest
		if err := Unmarshal(payload, &a); err != nil {
			if !errors.Is(err, ErrBadRequest) || err.Description == "" {
				t.Fatalf("got %v, want bad_request with a sentence", err)
			}
			return
		}
		for i := range a.Events {
			a.Events[i].Check(i)
		}
		raw, err := Marshal(a)
		if err != nil {
			t.Fatalf("what was accepted cannot be sent on: %v", err)
		}
		var b AppendRequest
		if err := Unmarshal(raw, &b); err != nil {
			t.Fatalf("%s is refused on the way back: %v", raw, err)
		}
	})
}
