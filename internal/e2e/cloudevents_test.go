package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	cenats "github.com/cloudevents/sdk-go/protocol/nats/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/extensions"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestCloudEventsSDK: events that CloudEvents' own SDK sends are stored and come back to it whole: structured over its NATS binding, binary as its headers, live and read.
func TestCloudEventsSDK(t *testing.T) {
	c := testcluster.Start(t, 3)
	nc := c.Connect()
	cl := client.New(nc)
	c.CreateStore(cl, "ce")
	live, err := nc.SubscribeSync("es.ce.event.>")
	if err != nil {
		t.Fatal(err)
	}
	received := receiver(t, nc, "es.ce.cloudevent.>") // the SDK's own
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, contentType, data string }{
		{"json", cloudevents.ApplicationJSON, `{"total":12,"note":"ü & <b>"}`},
		{"text", "text/plain", `a "text", not JSON`},
		{"bytes", "application/octet-stream", "\x00\xff\xfe"},
		{"none", "", ""},
	} {
		for mode, send := range map[string]func(*nats.Conn, string, event.Event) error{"structured": sendStructured, "binary": sendBinary} {
			stream := row.name + "." + mode
			sent := sdkEvent(t, stream, row.contentType, row.data)
			if err := send(nc, "es.ce.write.append."+stream, sent); err != nil {
				t.Fatalf("%s: %v", stream, err)
			}
			m, err := live.NextMsg(requestTimeout)
			if err != nil {
				t.Fatalf("%s: live: %v", stream, err)
			}
			got, err := parseBinary(m)
			if err != nil {
				t.Errorf("%s: the SDK does not take the live event: %v\n%v", stream, err, m.Header)
				continue
			}
			same(t, stream+", live", sent, *got, stream, row.data)

			select {
			case got := <-received:
				same(t, stream+", live and structured", sent, got, stream, row.data)
			case <-time.After(requestTimeout):
				t.Fatalf("%s: the SDK received nothing", stream)
			}

			for e, err := range cl.Store("ce").ReadStream(context.Background(), stream, client.ReadOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				if tr := client.TraceOf(e); tr.Parent != traceparent || tr.Correlation != "c-7" {
					t.Errorf("%s: kept of what caused it: %+v", stream, tr)
				}
				raw, err := cl.Store("ce").CloudEvent(e)
				if err != nil {
					t.Fatal(err)
				}
				var structured event.Event
				if err := structured.UnmarshalJSON(raw); err != nil {
					t.Errorf("%s: the SDK does not take %s: %v", stream, raw, err)
					continue
				}
				same(t, stream+", read", sent, structured, stream, row.data)
			}
		}
	}
}

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func sdkEvent(t *testing.T, id, contentType, data string) event.Event {
	t.Helper()
	e := cloudevents.NewEvent()
	e.SetID(id)
	e.SetType("com.example.placed")
	e.SetSource("/shop/till 4")
	e.SetTime(time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC))
	e.SetDataSchema("https://example.com/placed.json")
	e.SetExtension("region", "eu-ö")
	e.SetExtension("attempt", 3)
	e.SetExtension("test", true)
	e.SetExtension("correlationid", "c-7")
	extensions.DistributedTracingExtension{TraceParent: traceparent, TraceState: "a=b"}.AddTracingAttributes(&e)
	if contentType != "" {
		if err := e.SetData(contentType, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	return e
}

// sendStructured sends with the SDK's NATS protocol binding. It publishes and waits for no reply, as the SDK does.
func sendStructured(nc *nats.Conn, subject string, e event.Event) error {
	sender, err := cenats.NewSenderFromConn(nc, subject)
	if err != nil {
		return err
	}
	ce, err := cloudevents.NewClient(sender)
	if err != nil {
		return err
	}
	if res := ce.Send(context.Background(), e); cloudevents.IsUndelivered(res) {
		return res
	}
	return nil
}

// receiver has the SDK receive events with its NATS protocol binding. It returns once the subscription is made.
func receiver(t *testing.T, nc *nats.Conn, subject string) <-chan event.Event {
	t.Helper()
	subscribed := make(chan struct{})
	consumer, err := cenats.NewConsumerFromConn(nc, subject, cenats.WithQueueSubscriber("sdk"))
	if err != nil {
		t.Fatal(err)
	}
	consumer.Subscriber = announced{consumer.Subscriber, subscribed}
	ce, err := cloudevents.NewClient(consumer)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan event.Event, 16)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends with the test
		defer close(ended)
		if err := ce.StartReceiver(ctx, func(e event.Event) { received <- e }); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	<-subscribed
	return received
}

// announced is a Subscriber of the SDK that says when it has subscribed.
type announced struct {
	cenats.Subscriber
	subscribed chan struct{}
}

func (a announced) Subscribe(nc *nats.Conn, subject string, cb nats.MsgHandler) (*nats.Subscription, error) {
	defer close(a.subscribed)
	return a.Subscriber.Subscribe(nc, subject, cb)
}

// sendBinary has the SDK write an HTTP request in binary mode, whose headers are those of NATS, and sends it as a request.
func sendBinary(nc *nats.Conn, subject string, e event.Event) error {
	req, err := http.NewRequest(http.MethodPost, "http://unused", nil)
	if err != nil {
		return err
	}
	if err := cehttp.WriteRequest(binding.WithForceBinary(context.Background()), (*binding.EventMessage)(&e), req); err != nil {
		return err
	}
	m := &nats.Msg{Subject: subject, Header: nats.Header(req.Header)}
	if req.Body != nil {
		if m.Data, err = io.ReadAll(req.Body); err != nil {
			return err
		}
	}
	reply, err := nc.RequestMsg(m, requestTimeout)
	if err == nil && reply.Header.Get(api.HeaderError) != "" {
		err = errors.New(reply.Header.Get(api.HeaderError))
	}
	return err
}

// parseBinary has the SDK read a live event, whose headers are as HTTP's.
func parseBinary(m *nats.Msg) (*event.Event, error) {
	req, err := http.NewRequest(http.MethodPost, "http://unused", nil)
	if err != nil {
		return nil, err
	}
	for k, v := range m.Header {
		for _, value := range v {
			req.Header.Add(k, value)
		}
	}
	message := cehttp.NewMessage(req.Header, io.NopCloser(bytes.NewReader(m.Data)))
	if message.ReadEncoding() != binding.EncodingBinary {
		return nil, fmt.Errorf("it is %v, wanted binary mode", message.ReadEncoding())
	}
	e, err := binding.ToEvent(context.Background(), message)
	if err == nil {
		err = e.Validate()
	}
	return e, err
}

// same compares what was sent with what came back: everything but the subject, which is the stream. Binary mode carries extensions as texts.
func same(t *testing.T, name string, sent, got event.Event, stream, data string) {
	t.Helper()
	if got.ID() != sent.ID() || got.Type() != sent.Type() || got.Source() != sent.Source() || !got.Time().Equal(sent.Time()) || got.DataSchema() != sent.DataSchema() ||
		got.SpecVersion() != sent.SpecVersion() || got.Subject() != stream {
		t.Errorf("%s: got\n%v\nwant\n%v", name, got, sent)
	}
	if sent.DataContentType() != "" && got.DataContentType() != sent.DataContentType() || string(got.Data()) != data {
		t.Errorf("%s: got %q of %s, want %q of %s", name, got.Data(), got.DataContentType(), data, sent.DataContentType())
	}
	for k, v := range sent.Extensions() {
		if fmt.Sprint(got.Extensions()[k]) != fmt.Sprint(v) {
			t.Errorf("%s: extension %s is %v, want %v", name, k, got.Extensions()[k], v)
		}
	}
	if got.Extensions()["version"] == nil || got.Extensions()["position"] == nil {
		t.Errorf("%s: extensions are %v", name, got.Extensions())
	}
}
