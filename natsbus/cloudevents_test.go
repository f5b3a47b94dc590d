package natsbus

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

func received(header nats.Header, data string) message {
	return rawMessage{&nats.Msg{Subject: "es.orders.write.append.s", Header: header, Data: []byte(data)}}
}

// TestDecodeAppend is the table of the three forms an append comes in.
func TestDecodeAppend(t *testing.T) {
	one := func(expected int64, e api.NewEvent) *stores.Append {
		return &stores.Append{Stream: "s", Expected: expected, Events: []api.NewEvent{e}}
	}
	for _, row := range []struct {
		name   string
		header nats.Header
		data   string
		want   *stores.Append
		err    *api.Error
	}{
		{"JSON", nil, `{"events":[{"type":"T","data": [1, 2]}],"expected_version":3}`, one(3, api.NewEvent{Type: "T", Data: json.RawMessage("[1, 2]")}), nil},
		{"JSON without expectation", nil, `{"events":[{"type":"T"}]}`, one(-2, api.NewEvent{Type: "T"}), nil},
		{"JSON, data null", nil, `{"events":[{"type":"T","data":null,"metadata":null}]}`, one(-2, api.NewEvent{Type: "T", Data: json.RawMessage("null")}), nil},
		{"expectation in the header", nats.Header{"Expected-Version": {"-1"}}, `{"events":[{"type":"T"}]}`, one(-1, api.NewEvent{Type: "T"}), nil},
		{"two expectations", nats.Header{"Expected-Version": {"-1"}}, `{"events":[{"type":"T"}],"expected_version":2}`, nil, api.ErrBadRequest},
		{"Nats-Msg-Id", nats.Header{"Nats-Msg-Id": {"m1"}}, `{"events":[{"type":"T"}]}`, one(-2, api.NewEvent{ID: "m1", Type: "T"}), nil},
		{"Nats-Msg-Id and an id", nats.Header{"Nats-Msg-Id": {"m1"}}, `{"events":[{"id":"i","type":"T"}]}`, one(-2, api.NewEvent{ID: "i", Type: "T"}), nil},
		{"tags in several headers", nats.Header{"ce-type": {"T"}, "ce-id": {"i"}, "Tags": {"a", "b, c"}}, `{"x":1}`,
			one(-2, api.NewEvent{ID: "i", Type: "T", Data: json.RawMessage(`{"x":1}`), Tags: []string{"a", "b", "c"}}), nil},
		{"binary", nats.Header{"ce-type": {"T"}, "ce-id": {"i"}, "ce-specversion": {"1.0"}, "ce-source": {"/s"}, "Tags": {"a, b"}}, `{"x":1}`,
			one(-2, api.NewEvent{ID: "i", Type: "T", Data: json.RawMessage(`{"x":1}`), Tags: []string{"a", "b"}, Metadata: json.RawMessage(`{"ce-source":"/s"}`)}), nil},
		{"binary, any case", nats.Header{"Ce-Type": {"T"}}, ``, one(-2, api.NewEvent{Type: "T"}), nil},
		{"binary, bytes", nats.Header{"ce-type": {"T"}}, "\xff", one(-2, api.NewEvent{Type: "T", DataBase64: []byte("\xff")}), nil},
		{"binary, JSON that is text", nats.Header{"ce-type": {"T"}, "content-type": {"text/plain"}}, "12",
			one(-2, api.NewEvent{Type: "T", DataBase64: []byte("12"), Metadata: json.RawMessage(`{"content-type":"text/plain"}`)}), nil},
		{"binary, the media type as an attribute", nats.Header{"ce-type": {"T"}, "ce-datacontenttype": {"text/plain"}}, "[1,   2]",
			one(-2, api.NewEvent{Type: "T", DataBase64: []byte("[1,   2]"), Metadata: json.RawMessage(`{"content-type":"text/plain"}`)}), nil},
		{"structured, what is null is not there", nil, `{"specversion":"1.0","type":"T","id":"i","time":null,"dataschema":null,"tags":null,"data":{"x":1},"data_base64":null}`,
			one(-2, api.NewEvent{ID: "i", Type: "T", Data: json.RawMessage(`{"x":1}`)}), nil},
		{"structured, the type is null", nil, `{"specversion":"1.0","type":null}`, nil, api.ErrBadRequest},
		{"binary without a type", nats.Header{"ce-id": {"i"}}, ``, nil, api.ErrBadRequest},
		{"structured", nats.Header{"content-type": {"application/cloudevents+json; charset=UTF-8"}},
			`{"specversion":"1.0","type":"T","id":"i","source":"/s","data":{"x":1}}`,
			one(-2, api.NewEvent{ID: "i", Type: "T", Data: json.RawMessage(`{"x":1}`), Metadata: json.RawMessage(`{"ce-source":"/s"}`)}), nil},
		{"structured, bytes", nats.Header{"content-type": {structuredMode}}, `{"specversion":"1.0","type":"T","data_base64":"/w=="}`, one(-2, api.NewEvent{Type: "T", DataBase64: []byte("\xff")}), nil},
		{"what caused it", nats.Header{"Traceparent": {"00-a-b-01"}, "Correlation-Id": {"c1"}}, `{"events":[{"type":"T"},{"type":"T","metadata": {"by":"x","correlation-id":7} }]}`,
			&stores.Append{Stream: "s", Expected: -2, Events: []api.NewEvent{
				{Type: "T", Metadata: json.RawMessage(`{"traceparent":"00-a-b-01","correlation-id":"c1"}`)},
				{Type: "T", Metadata: json.RawMessage(`{"by":"x","correlation-id":7,"traceparent":"00-a-b-01"}`)}}}, nil},
		{"binary, what caused it", nats.Header{"ce-type": {"T"}, "ce-traceparent": {"00-a-b-01"}, "traceparent": {"00-c-d-01"}, "ce-causationid": {"i0"}, "ce-tags": {"a"}}, ``,
			one(-2, api.NewEvent{Type: "T", Tags: []string{"a"}, Metadata: json.RawMessage(`{"traceparent":"00-a-b-01","causation-id":"i0"}`)}), nil},
		{"what caused it is too long", nats.Header{"tracestate": {strings.Repeat("x", api.MaxTraceHeader+1)}}, `{"events":[{"type":"T"}]}`, nil, api.ErrBadName},
		{"what caused it, no object", nats.Header{"traceparent": {"t"}}, `{"events":[{"type":"T","metadata":[1]}]}`, one(-2, api.NewEvent{Type: "T", Metadata: json.RawMessage("[1]")}), nil},
		{"structured without a header", nil, ` {"specversion":"1.0","type":"T","id":"i","correlationid":"c1","tags":"a, b","other":5}`,
			one(-2, api.NewEvent{ID: "i", Type: "T", Tags: []string{"a", "b"}, Metadata: json.RawMessage(`{"ce-other":"5","correlation-id":"c1"}`)}), nil},
		{"JSON that mentions it", nil, `{"events":[{"type":"T","data":{"specversion":"1.0"}}]}`, one(-2, api.NewEvent{Type: "T", Data: json.RawMessage(`{"specversion":"1.0"}`)}), nil},
		{"structured, text", nats.Header{"content-type": {structuredMode}}, `{"specversion":"1.0","type":"T","datacontenttype":"text/plain","data":"a \"b\""}`,
			one(-2, api.NewEvent{Type: "T", DataBase64: []byte(`a "b"`), Metadata: json.RawMessage(`{"content-type":"text/plain"}`)}), nil},
		{"structured, data twice", nats.Header{"content-type": {structuredMode}}, `{"specversion":"1.0","type":"T","data":1,"data_base64":"/w=="}`, nil, api.ErrBadRequest},
		{"structured, another version", nats.Header{"content-type": {structuredMode}}, `{"specversion":"0.3","type":"T"}`, nil, api.ErrBadRequest},
		{"structured, no type", nats.Header{"content-type": {structuredMode}}, `{"specversion":"1.0"}`, nil, api.ErrBadRequest},
		{"structured, no JSON", nats.Header{"content-type": {structuredMode}}, `x`, nil, api.ErrBadRequest},
	} {
		got, _, err := decodeAppend(received(row.header, row.data), "s")
		switch {
		case row.err != nil && !errors.Is(err, row.err):
			t.Errorf("%s: got error %v, want %s", row.name, err, row.err.Name)
		case row.err == nil && (err != nil || !reflect.DeepEqual(got, row.want)):
			t.Errorf("%s: got %+v (%v), want %+v", row.name, got, err, row.want)
		}
	}
}

// TestDecodeAppendWithoutAStream: events name their streams, and nothing that is about one stream is accepted.
func TestDecodeAppendWithoutAStream(t *testing.T) {
	n := int64(4)
	want := &stores.Append{
		Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T", Stream: "a"}},
		Conditions: []api.Condition{{Stream: "b", Version: &n}, {Query: &api.Query{Items: []api.QueryItem{{Tags: []string{"x"}}}}, After: 7}},
	}
	got, _, err := decodeAppend(received(nil, `{"events":[{"type":"T","stream":"a"}],"conditions":[{"stream":"b","version":4},{"query":{"items":[{"tags":["x"]}]},"after":7}]}`), "")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	// Another node gets the same append, with its ids.
	raw, merr := (&appendWrite{append: got}).payload()
	if merr != nil || got.Events[0].ID == "" {
		t.Fatal(merr)
	}
	if again, _, err := decodeAppend(received(nil, string(raw)), ""); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("forwarded it is %+v (%v), want %+v", again, err, got)
	}
	for _, row := range []struct {
		name   string
		header nats.Header
		data   string
		want   *api.Error
	}{
		{"expected version", nil, `{"events":[{"type":"T","stream":"a"}],"expected_version":-2}`, api.ErrBadRequest},
		{"expected version in the header", nats.Header{"Expected-Version": {"1"}}, `{"events":[{"type":"T","stream":"a"}]}`, api.ErrBadRequest},
		{"CloudEvent", nats.Header{"ce-type": {"T"}}, `1`, api.ErrBadName},
		{"structured CloudEvent", nats.Header{"content-type": {structuredMode}}, `{"specversion":"1.0","type":"T"}`, api.ErrBadName},
	} {
		if _, _, err := decodeAppend(received(row.header, row.data), ""); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %s", row.name, err, row.want.Name)
		}
	}
}

// TestLiveHeaders: what came in as a CloudEvent goes out as the same one, and metadata cannot break out of its header.
func TestLiveHeaders(t *testing.T) {
	h := cloudEventHeaders(api.Subjects{}, "orders", &api.Event{
		Position: 9, Version: 3, Stream: "s", ID: "i", Type: "T", Data: json.RawMessage("1"), Tags: []string{"a", "b"},
		Metadata: json.RawMessage(`{"ce-source":"/shop","ce-subject":"x","ce-position":"77","ce-bad":"a\r\nNats-Msg-Id: 1","other":"y","ce-n":5,"ce-Bad":"x","traceparent":"00-a-b-01","correlation-id":"c1","causation-id":"a\r\nb"}`),
	})
	want := nats.Header{
		"ce-specversion": {"1.0"}, "ce-id": {"i"}, "ce-type": {"T"}, "ce-time": {"0001-01-01T00:00:00Z"}, "ce-source": {"/shop"}, "ce-subject": {"s"},
		"ce-version": {"3"}, "ce-position": {"9"}, "ce-tags": {"a,b"}, "content-type": {"application/json"},
		"ce-traceparent": {"00-a-b-01"}, "traceparent": {"00-a-b-01"}, "ce-correlationid": {"c1"}, "correlation-id": {"c1"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("got  %v\nwant %v", h, want)
	}
}

// TestIsInbox: replies go to inboxes and nowhere else.
func TestIsInbox(t *testing.T) {
	b := &Bus{inboxes: []string{"_INBOX.", "_TEAM.in."}}
	for subject, want := range map[string]bool{
		"_INBOX.abc": true, "_INBOX.abc.1": true, "_TEAM.in.x": true, "_INBOX.": false, "_INBOX": false, "_INBOXX.a": false, "es.orders.write.append.s": false,
		"_INBOX.*": false, "_INBOX.>": false, "_INBOX.a b": false, "": false, "$SYS.x": false,
	} {
		if got := b.isInbox(subject); got != want {
			t.Errorf("%q: %v, want %v", subject, got, want)
		}
	}
}

func FuzzDecodeAppend(f *testing.F) {
	f.Add("", "", "", `{"events":[{"type":"T","data":1,"tags":["a"]}],"expected_version":-1}`)
	f.Add("T", "application/json", "-1", `{"x":1}`)
	f.Add("T", "", "", "\xff\x00")
	f.Add("", structuredMode, "", `{"specversion":"1.0","type":"T","data_base64":"AA=="}`)
	f.Fuzz(func(t *testing.T, ceType, contentType, expected, data string) {
		h := nats.Header{}
		for k, v := range map[string]string{"ce-type": ceType, "content-type": contentType, "Expected-Version": expected} {
			if v != "" {
				h.Set(k, v)
			}
		}
		a, _, err := decodeAppend(received(h, data), "s")
		if err != nil {
			if err.Code < 400 || err.Code > 499 || err.Description == "" {
				t.Fatalf("%+v", err)
			}
			return
		}
		if a.Check() != nil {
			return
		}
		// What is accepted can be forwarded: it is the same append on the other side.
		w := &appendWrite{append: a}
		raw, merr := w.payload()
		if merr != nil {
			t.Fatal(merr)
		}
		again, _, err := decodeAppend(received(nil, string(raw)), "s")
		if err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		if err := again.Check(); err != nil || len(again.Events) != len(a.Events) || again.Expected != a.Expected {
			t.Fatalf("%v: %+v became %+v", err, a, again)
		}
		for i := range a.Events {
			if again.Events[i].ID != a.Events[i].ID || again.Events[i].Type != a.Events[i].Type || string(again.Events[i].DataBase64) != string(a.Events[i].DataBase64) {
				t.Fatalf("%+v became %+v", a.Events[i], again.Events[i])
			}
		}
	})
}

// Trace headers are kept with each event of an append, and count as if they had been sent with each.
func TestTraceHeadersCount(t *testing.T) {
	header := nats.Header{"Correlation-Id": {strings.Repeat("c", 500)}}
	events := func(n int) string { return `{"events":[` + strings.Repeat(`{"type":"A"},`, n-1) + `{"type":"A"}]}` }
	a, added, err := decodeAppend(received(header, events(3)), "s")
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, e := range a.Events {
		want += len(e.Metadata)
	}
	if added != want || added < 3*500 {
		t.Errorf("%d bytes were added, %d are counted", want, added)
	}
	if _, _, err := decodeAppend(received(header, events(10_000)), "s"); !errors.Is(err, api.ErrTooLarge) {
		t.Errorf("five megabytes of headers in ten thousand events: %v", err)
	}
	if _, added, err := decodeAppend(received(nil, events(10_000)), "s"); err != nil || added != 0 {
		t.Errorf("without them: %v, %d bytes are added", err, added)
	}
}
