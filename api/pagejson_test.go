package api

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

func somePage() *ReadResponse {
	scanned, version := uint64(9), int64(3)
	at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	return &ReadResponse{
		Reply: Reply{Type: TypeRead}, Store: "orders", Stream: "s", Next: 7, End: true, Scanned: &scanned, LastVersion: &version, LastPosition: 12, Applied: 13,
		Snapshot: &Snapshot{Version: 2, Type: "T", Time: at, Data: json.RawMessage(`{"events":[],"x":"\"events\":[]"}`)},
		Events: []Event{
			{Position: 1, Stream: "s", ID: "a", Type: "T", Time: at, Data: json.RawMessage(`{"total":12,"deep":[{"a":"]}"},[]]}`), Metadata: json.RawMessage(`{"by":"\\\""}`), Tags: []string{"x", "y:ü"}},
			{Position: 18446744073709551, Stream: "s", Version: 1, ID: `b"\`, Type: "T<&>", Time: at.Add(time.Hour), Tags: []string{"x"}},
			{Position: 3, Stream: "other", Version: 0, ID: "c\u2028", Type: "", Time: time.Time{}, DataBase64: []byte{0, 255}, Data: nil},
			{Position: 4, Stream: "other", Version: 10, ID: "d", Type: "U", Time: at, Data: json.RawMessage(`null`)},
			{Position: 5, Stream: "other", Version: 11, ID: "e", Type: "U", Time: at, Data: json.RawMessage(`-1.5e3`)},
			{Position: 6, Stream: "other", Version: 12, ID: "f", Type: "U", Time: at, Data: json.RawMessage(`"text, \" and [ {"`)},
		},
	}
}

// byHand reports whether a page is read without encoding/json, and reads it.
func byHand(data []byte, page *ReadResponse) bool {
	var rest ReadResponse
	ok := readPage(data, &rest, func(s *pageScanner) bool { _, ok := readEvents(s, (*pageScanner).readEvent); return ok })
	return ok && UnmarshalReply(data, page) == nil
}

// TestPages: a page is written as encoding/json writes it, and read back as encoding/json reads it, without its help.
func TestPages(t *testing.T) {
	one := *somePage()
	one.Events, one.Snapshot, one.Scanned, one.LastVersion = one.Events[:1], nil, nil, nil
	none := *somePage()
	none.Events = []Event{}
	for name, page := range map[string]*ReadResponse{"full": somePage(), "one event": &one, "no events": &none, "an error": {Reply: Reply{Type: TypeRead, Error: ErrNoLeader}, Events: []Event{}}} {
		got, err := Marshal(page)
		if err != nil {
			t.Fatal(err)
		}
		want, err := marshalAny(page)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
		var back, plain ReadResponse
		if !byHand(got, &back) {
			t.Errorf("%s: was left to encoding/json: %s", name, got)
		}
		if err := json.Unmarshal(got, &plain); err != nil || !reflect.DeepEqual(back, plain) {
			t.Errorf("%s: got\n%+v\nwant\n%+v (%v)", name, back, plain, err)
		}
	}
	// What a subscription delivers, the same.
	for _, events := range [][]DeliveredEvent{{}, {{somePage().Events[0], 1}}, {{somePage().Events[0], 1}, {somePage().Events[1], 12}, {somePage().Events[2], 0}}} {
		fetch := &SubscriptionFetchResponse{Reply: Reply{Type: TypeRead}, Store: "orders", Subscription: `"events":[]`, Events: events, Lag: 4}
		got, err := Marshal(fetch)
		want, werr := marshalAny(fetch)
		if err != nil || werr != nil || string(got) != string(want) {
			t.Errorf("got\n%s (%v)\nwant\n%s", got, err, want)
		}
		var back, plain SubscriptionFetchResponse
		if err := UnmarshalReply(got, &back); err != nil || json.Unmarshal(got, &plain) != nil || !reflect.DeepEqual(back, plain) {
			t.Errorf("got\n%+v (%v)\nwant\n%+v", back, err, plain)
		}
	}
	// Data stays as it was sent.
	spaced := &ReadResponse{Events: []Event{{Data: json.RawMessage("[1, 2,\n 3]"), Metadata: json.RawMessage(`{ }`)}}}
	raw, err := Marshal(spaced)
	var back ReadResponse
	if err != nil || UnmarshalReply(raw, &back) != nil || string(back.Events[0].Data) != "[1, 2,\n 3]" || string(back.Events[0].Metadata) != "{ }" {
		t.Errorf("got %s (%v)", raw, err)
	}
	// A field that is added to Event has to be added to appendEvent and event.
	if n, d := reflect.TypeOf(Event{}).NumField(), reflect.TypeOf(DeliveredEvent{}).NumField(); n != 10 || d != 2 {
		t.Errorf("Event has %d fields and DeliveredEvent %d, pagejson.go knows 10 and 2", n, d)
	}
}

// TestOddPages: what does not look as we write it is read all the same.
func TestOddPages(t *testing.T) {
	for _, text := range []string{
		`{ "events": [ {"position": 1} ] }`, `{"events":[{"Position":1}]}`, `{"events":[{"position":1,"new":{"a":[1]}}],"newer":true}`, `{"events":null}`, `{}`,
		`{"events":[{"position":1,"position":2}]}`, `{"events":[{"id":null,"tags":null}]}`, `{"events":[{"tags":[]}],"events":[{"position":3}]}`, `{"events":[{"data_base64":""}]}`,
	} {
		var got, want ReadResponse
		err := UnmarshalReply([]byte(text), &got)
		if werr := json.Unmarshal([]byte(text), &want); err != nil || werr != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v (%v), want %+v (%v)", text, got, err, want, werr)
		}
	}
	for _, text := range []string{``, `{`, `{"events":[`, `{"events":[{}`, `{"events":[{"position":-1}]}`, `{"events":[{"position":1.5}]}`, `{"events":[]}x`, `[]`, `{"next":x,"events":[]}`, `{"events":[{"time":"x"}]}`} {
		var got ReadResponse
		if err := UnmarshalReply([]byte(text), &got); err == nil {
			t.Errorf("%s is taken: %+v", text, got)
		}
	}
}

// FuzzPages: whatever encoding/json takes is read the same.
func FuzzPages(f *testing.F) {
	raw, err := Marshal(somePage())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"events":[{"position":1,"data":{"a":[1,"]"]},"tags":["a"],"time":"2026-01-02T03:04:05Z"}],"next":1,"end":true}`))
	f.Add([]byte(`{"events":[{"position":1,"attempt":2},{"position":3,"attempt":1}],"lag":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, want ReadResponse
		var delivered, plain SubscriptionFetchResponse
		if json.Unmarshal(data, &plain) == nil {
			if err := UnmarshalReply(data, &delivered); err != nil || !reflect.DeepEqual(delivered, plain) {
				t.Fatalf("%s: got\n%+v (%v)\nwant\n%+v", data, delivered, err, plain)
			}
		}
		if json.Unmarshal(data, &want) != nil {
			_ = UnmarshalReply(data, &got) // must not panic
			return
		}
		if err := UnmarshalReply(data, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: got\n%+v (%v)\nwant\n%+v", data, got, err, want)
		}
	})
}

func BenchmarkPages(b *testing.B) {
	page := &ReadResponse{Reply: Reply{Type: TypeRead}}
	body := json.RawMessage(`{"total":12,"note":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`)
	for i := range 1000 {
		page.Events = append(page.Events, Event{Position: uint64(i), Stream: "order-42", Version: uint64(i), ID: "wXkz1N4cU7T3dYkY1a2b3c", Type: "OrderPlaced", Time: time.Now().UTC(), Data: body})
	}
	raw, _ := Marshal(page)
	for name, fn := range map[string]func(){
		"write":         func() { _, _ = Marshal(page) },
		"write, stdlib": func() { _, _ = marshalAny(page) },
		"read":          func() { var r ReadResponse; _ = UnmarshalReply(raw, &r) },
		"read, stdlib":  func() { var r ReadResponse; _ = json.Unmarshal(raw, &r) },
	} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				fn()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/event")
		})
	}
}
