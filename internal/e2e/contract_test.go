package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestContract tries the API as a client in any language meets it: plain requests, at every node of one cluster.
func TestContract(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	for name, test := range map[string]func(*testing.T, *testcluster.Cluster, *nats.Conn){
		"bad input":        badInput,
		"append and read":  appendAndRead,
		"cloudevents":      cloudEvents,
		"retries":          retries,
		"store lifecycle":  storeLifecycle,
		"config versions":  configVersions,
		"live events":      liveEvents,
		"leadership":       leadership,
		"discovery":        discovery,
		"reply subjects":   replySubjects,
		"impostors":        impostors,
		"waiting reads":    waitingReads,
		"every node reads": everyNodeReads,
		"several streams":  severalStreams,
		"conditions":       conditions,
		"queries":          queries,
		"snapshots":        snapshots,
		"stream lifecycle": streamLifecycle,
		"limits":           limits,
		"service names":    serviceNames,
		"service replies":  serviceReplies,
		"subscriptions":    subscriptions,
		"pushes":           pushes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := c.Nodes[len(name)%3].Connect()
			test(t, c, nc)
		})
	}
}

func badInput(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	long := strings.Repeat("x", api.MaxStreamName+1)
	for _, row := range []struct {
		name, subject, payload string
		headers                []string
		want                   *api.Error
		says                   string // what the description must mention
	}{
		{"unknown field", "es.orders.write.append.s", `{"evnets":[]}`, nil, api.ErrBadRequest, "evnets"},
		{"wrong type", "es.orders.write.append.s", `{"events":{}}`, nil, api.ErrBadRequest, "events"},
		{"wrong type inside", "es.orders.write.append.s", `{"events":[{"type":7}]}`, nil, api.ErrBadRequest, "type"},
		{"not JSON", "es.orders.write.append.s", `{"events":`, nil, api.ErrBadRequest, "JSON"},
		{"not an object", "es.orders.write.append.s", `[1]`, nil, api.ErrBadRequest, "object"},
		{"text behind", "es.orders.write.append.s", `{} {}`, nil, api.ErrBadRequest, "more text"},
		{"no events", "es.orders.write.append.s", ``, nil, api.ErrBadRequest, "events"},
		{"no type", "es.orders.write.append.s", `{"events":[{}]}`, nil, api.ErrBadName, "events[0]"},
		{"data twice", "es.orders.write.append.s", `{"events":[{"type":"A","data":1,"data_base64":"AA=="}]}`, nil, api.ErrBadRequest, "data_base64"},
		{"metadata no object", "es.orders.write.append.s", `{"events":[{"type":"A","metadata":[1]}]}`, nil, api.ErrBadRequest, "metadata"},
		{"bad version", "es.orders.write.append.s", `{"events":[{"type":"A"}],"expected_version":-3}`, nil, api.ErrBadRequest, "expected_version"},
		{"control character in type", "es.orders.write.append.s", `{"events":[{"type":"A\u0007"}]}`, nil, api.ErrBadName, "control"},
		{"event too large", "es.orders.write.append.s", fmt.Sprintf(`{"events":[{"type":"A","data":%q}]}`, strings.Repeat("x", api.MaxEventData)), nil, api.ErrTooLarge, "bytes"},
		{"request too large", "es.orders.write.append.s", fmt.Sprintf(`{"events":[{"type":"A","data":%q}]}`, strings.Repeat("x", api.MaxAppendRequest)), nil, api.ErrTooLarge, "split"},
		{"no stream", "es.orders.write.append", `{"events":[{"type":"A"}]}`, nil, api.ErrBadName, "stream"},
		{"wildcard in stream", "es.orders.write.append.a.*", `{"events":[{"type":"A"}]}`, nil, api.ErrBadName, "wildcard"},
		{"full wildcard in stream", "es.orders.write.append.a.>", `{"events":[{"type":"A"}]}`, nil, api.ErrBadName, "wildcard"},
		{"stream too long", "es.orders.write.append." + long, `{"events":[{"type":"A"}]}`, nil, api.ErrBadName, "bytes"},
		{"control character in stream", "es.orders.write.append.a\x01b", `{"events":[{"type":"A"}]}`, nil, api.ErrBadName, "control"},
		{"unknown verb", "es.orders.write.appendix.s", ``, nil, api.ErrUnknownVerb, "append"},
		{"unknown read verb", "es.orders.read.everything", ``, nil, api.ErrUnknownVerb, "stream"},
		{"unknown store, write", "es.nosuch.write.append.s", `{"events":[{"type":"A"}]}`, nil, api.ErrStoreNotFound, "es.config.write.put.nosuch"},
		{"unknown store, read", "es.nosuch.read.stream.s", ``, nil, api.ErrStoreNotFound, "nosuch"},
		{"wildcard store, write", "es.*.write.append.s", ``, nil, api.ErrBadName, "store name"},
		{"wildcard store, read", "es.*.read.all", ``, nil, api.ErrBadName, "store name"},
		{"bad store name", "es.config.write.put.a+b", ``, nil, api.ErrBadName, "a+b"},
		{"reserved store", "es.config.write.put.config", ``, nil, api.ErrReservedName, "reserved"},
		{"reserved store", "es.config.write.put.cluster", ``, nil, api.ErrReservedName, "reserved"},
		{"long store name", "es.config.write.put." + strings.Repeat("s", 65), ``, nil, api.ErrBadName, "64"},
		{"no store name", "es.config.write.put", ``, nil, api.ErrBadName, "missing"},
		{"unknown config verb", "es.config.write.drop.x", ``, nil, api.ErrUnknownVerb, "put"},
		{"unknown config field", "es.config.write.put.x", `{"option":{}}`, nil, api.ErrBadRequest, "option"},
		{"unknown option", "es.config.write.put.x", `{"options":{"replicas":5}}`, nil, api.ErrBadRequest, "replicas"},
		{"no such record", "es.config.read.get.nosuch", ``, nil, api.ErrConfigNotFound, "nosuch"},
		{"delete nothing", "es.config.write.delete.nosuch", ``, nil, api.ErrConfigNotFound, "nosuch"},
		{"no such stream", "es.orders.read.stream.nosuch", ``, nil, api.ErrStreamNotFound, "nosuch"},
		{"limit too large", "es.orders.read.all", `{"limit":100000}`, nil, api.ErrBadRequest, "limit"},
		{"negative limit", "es.orders.read.all", `{"limit":-1}`, nil, api.ErrBadRequest, "limit"},
		{"negative from", "es.orders.read.stream.s", `{"from":-1}`, nil, api.ErrBadRequest, "from"},
		{"wait backward", "es.orders.read.all", `{"wait_ms":10,"backward":true}`, nil, api.ErrBadRequest, "wait_ms"},
		{"unknown consistency", "es.orders.read.all", `{"consistency":"eventual"}`, nil, api.ErrBadRequest, "linearizable"},
		{"name behind all", "es.orders.read.all.x", ``, nil, api.ErrBadSubject, "no name"},
		{"transfer to nobody", "es.cluster.write.transfer.orders", `{"to":"n9"}`, nil, api.ErrUnknownNode, "n9"},
		{"transfer no store", "es.cluster.write.transfer.nosuch", ``, nil, api.ErrStoreNotFound, "nosuch"},
		{"unknown cluster verb", "es.cluster.write.explode", ``, nil, api.ErrUnknownVerb, "transfer"},
		{"unknown cluster read", "es.cluster.read.weather", ``, nil, api.ErrUnknownVerb, "leaders"},
		{"header version", "es.orders.write.append.s", `1`, []string{"ce-type", "A", "Expected-Version", "soon"}, api.ErrBadRequest, "Expected-Version"},
		{"no ce-type", "es.orders.write.append.s", `1`, []string{"ce-id", "7"}, api.ErrBadRequest, "ce-type"},
		{"ce-specversion", "es.orders.write.append.s", `1`, []string{"ce-type", "A", "ce-specversion", "0.3"}, api.ErrBadRequest, "1.0"},
	} {
		_, failed := request[api.Reply](t, nc, row.subject, row.payload, row.headers...)
		if err := wantError(failed, row.want); err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if !strings.Contains(failed.Description, row.says) {
			t.Errorf("%s: the description does not mention %q: %s", row.name, row.says, failed.Description)
		}
		if failed.Code < 400 || failed.Code > 499 {
			t.Errorf("%s: code %d is not the client's fault", row.name, failed.Code)
		}
	}
	if read, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream.s", ""); failed == nil {
		t.Errorf("one of the bad requests wrote: %+v", read.Events)
	}
}

func appendAndRead(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	const stream = "rw.order-42"
	res, failed := request[api.AppendResponse](t, nc, "es.orders.write.append."+stream,
		`{"events":[{"type":"Placed","data":{"total": 12.50, "text":"<ä>"},"tags":["vip"],"metadata":{"by":"me"}},{"type":"Paid","data_base64":"AAEC"},{"type":"Empty"}],"expected_version":-1}`)
	if failed != nil {
		t.Fatal(failed)
	}
	if res.FirstVersion != 0 || res.Version != 2 || res.Position != res.FirstPosition+2 || res.Duplicate || res.Store != "orders" || res.Stream != stream {
		t.Errorf("append: %+v", res)
	}
	read, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream."+stream, "")
	if failed != nil {
		t.Fatal(failed)
	}
	if len(read.Events) != 3 || !read.End || read.Next != 3 || *read.LastVersion != 2 || read.Applied == 0 {
		t.Fatalf("read: %+v", read)
	}
	first, second, third := read.Events[0], read.Events[1], read.Events[2]
	if string(first.Data) != `{"total":12.50,"text":"<ä>"}` || string(first.Metadata) != `{"by":"me"}` || len(first.Tags) != 1 || first.DataBase64 != nil {
		t.Errorf("first event: %+v, data %s", first, first.Data)
	}
	if second.Data != nil || string(second.DataBase64) != "\x00\x01\x02" || second.Version != 1 || second.Position != first.Position+1 {
		t.Errorf("second event: %+v", second)
	}
	if third.Data != nil || third.DataBase64 != nil {
		t.Errorf("an event without data came back with some: %+v", third)
	}
	if since := time.Since(first.Time); since < -time.Minute || since > time.Minute || first.Time.Location() != time.UTC || first.ID == "" {
		t.Errorf("time %v, id %q", first.Time, first.ID)
	}
	_, failed = request[api.AppendResponse](t, nc, "es.orders.write.append."+stream, `{"events":[{"type":"X"}],"expected_version":1}`)
	if err := wantError(failed, api.ErrWrongVersion); err != nil || failed.ActualVersion == nil || *failed.ActualVersion != 2 || failed.Code != 409 {
		t.Errorf("wrong version: %v, %+v", err, failed)
	}
	_, failed = request[api.AppendResponse](t, nc, "es.orders.write.append.rw.absent", `{"events":[{"type":"X"}],"expected_version":-4}`)
	if err := wantError(failed, api.ErrWrongVersion); err != nil || *failed.ActualVersion != -1 {
		t.Errorf("must exist: %v, %+v", err, failed)
	}
	for version := int64(2); version < 5; version++ {
		if _, failed = request[api.AppendResponse](t, nc, "es.orders.write.append."+stream, fmt.Sprintf(`{"events":[{"type":"X"}],"expected_version":%d}`, version)); failed != nil {
			t.Errorf("exact version %d: %v", version, failed)
		}
	}
	back, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream."+stream, `{"backward":true,"limit":4}`)
	if failed != nil || len(back.Events) != 4 || back.Events[0].Version != 5 || back.Events[3].Version != 2 || back.End || back.Next != 1 {
		t.Errorf("backward: %v %+v", failed, back)
	}
	back, failed = request[api.ReadResponse](t, nc, "es.orders.read.stream."+stream, `{"backward":true,"from":1000}`)
	if failed != nil || len(back.Events) != 6 || !back.End {
		t.Errorf("backward from beyond the end: %v %+v", failed, back)
	}
	page, failed := request[api.ReadResponse](t, nc, "es.orders.read.all", fmt.Sprintf(`{"after":%d,"limit":1}`, first.Position-1))
	if failed != nil || len(page.Events) != 1 || page.Events[0].ID != first.ID || page.Next != first.Position {
		t.Errorf("read all: %v %+v", failed, page)
	}
	streams, failed := request[api.StreamsResponse](t, nc, "es.orders.read.streams", `{"prefix":"rw."}`)
	if failed != nil || len(streams.Streams) != 1 || streams.Streams[0] != (api.StreamInfo{Name: stream, Events: 6, Version: 5}) {
		t.Errorf("streams: %v %+v", failed, streams)
	}
	info, failed := request[api.StoreInfoResponse](t, nc, "es.orders.read.info", "")
	if failed != nil || info.Streams == 0 || info.Leader == "" || len(info.Members) != 3 || info.Incarnation != 1 {
		t.Errorf("info: %v %+v", failed, info)
	}
}

func cloudEvents(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	live, err := nc.SubscribeSync("es.orders.event.ce.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	body := "\xff\xfeno JSON"
	for _, row := range []struct {
		stream, payload string
		headers         []string
		data            string // as JSON
		bytes           string // or as bytes
	}{
		{"ce.json", `{"total": 12}`, []string{"ce-type", "OrderPlaced", "ce-id", "ce-1", "ce-source", "/shop", "ce-traceparent", "00-x", "Expected-Version", "-1", "Tags", "a, b"}, `{"total":12}`, ""},
		{"ce.bytes", body, []string{"ce-type", "OrderPlaced", "Nats-Msg-Id", "ce-2", "content-type", "application/octet-stream"}, "", body},
		{"ce.structured", `{"specversion":"1.0","id":"ce-3","type":"OrderPlaced","source":"/shop","data":{"total":12}}`, []string{"content-type", "application/cloudevents+json; charset=utf-8"}, `{"total":12}`, ""},
	} {
		res, failed := request[api.AppendResponse](t, nc, "es.orders.write.append."+row.stream, row.payload, row.headers...)
		if failed != nil {
			t.Errorf("%s: %v", row.stream, failed)
			continue
		}
		read, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream."+row.stream, "")
		if failed != nil {
			t.Fatal(failed)
		}
		e := read.Events[0]
		if e.Type != "OrderPlaced" || !strings.HasPrefix(e.ID, "ce-") || string(e.Data) != row.data || string(e.DataBase64) != row.bytes {
			t.Errorf("%s came back as %+v", row.stream, e)
		}
		m, err := live.NextMsg(requestTimeout)
		if err != nil {
			t.Fatalf("%s: live event: %v", row.stream, err)
		}
		want := map[string]string{
			"ce-specversion": "1.0", "ce-id": e.ID, "ce-type": "OrderPlaced", "ce-subject": row.stream, "ce-version": "0", "ce-position": fmt.Sprint(res.Position),
		}
		if row.stream == "ce.json" {
			want["ce-source"], want["ce-tags"], want["ce-traceparent"], want["content-type"] = "/shop", "a,b", "00-x", "application/json"
		}
		for k, v := range want {
			if got := m.Header.Get(k); got != v {
				t.Errorf("%s: live header %s is %q, wanted %q", row.stream, k, got, v)
			}
		}
		if m.Subject != "es.orders.event."+row.stream || row.bytes != "" && string(m.Data) != row.bytes {
			t.Errorf("%s: live event on %s with body %q", row.stream, m.Subject, m.Data)
		}
	}
	_, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.ce.json", `1`, "ce-type", "X", "Expected-Version", "-1")
	if err := wantError(failed, api.ErrWrongVersion); err != nil {
		t.Errorf("Expected-Version: %v", err)
	}
}

func retries(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	const payload = `{"events":[{"id":"r1","type":"A","data":1},{"id":"r2","type":"A","data":2}],"expected_version":-1}`
	first, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.retry", payload)
	if failed != nil {
		t.Fatal(failed)
	}
	if _, failed = request[api.AppendResponse](t, nc, "es.orders.write.append.retry", `{"events":[{"type":"B"}]}`); failed != nil {
		t.Fatal(failed)
	}
	again, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.retry", payload)
	if failed != nil {
		t.Fatal(failed)
	}
	if !again.Duplicate || again.Version != first.Version || again.Position != first.Position || again.FirstPosition != first.FirstPosition {
		t.Errorf("a retry answered %+v, the first try %+v", again, first)
	}
	const spaced = `{"events":[{"id":"r1","type":"A","data": 1 },{"id":"r2","type":"A","data":
2}]}`
	if again, failed = request[api.AppendResponse](t, nc, "es.orders.write.append.retry", spaced); failed != nil || !again.Duplicate {
		t.Errorf("a retry with other white space: %v %+v", failed, again)
	}
	for name, payload := range map[string]string{
		"a part of it":    `{"events":[{"id":"r2","type":"A","data":2},{"id":"r3","type":"A"}]}`,
		"other data":      `{"events":[{"id":"r1","type":"A","data":7}]}`,
		"another order":   `{"events":[{"id":"r2","type":"A","data":2},{"id":"r1","type":"A","data":1}]}`,
		"twice in itself": `{"events":[{"id":"r9","type":"A"},{"id":"r9","type":"A"}]}`,
	} {
		_, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.retry", payload)
		if err := wantError(failed, api.ErrEventIDConflict); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, failed = request[api.AppendResponse](t, nc, "es.orders.write.append.retry2", payload)
	if err := wantError(failed, api.ErrEventIDConflict); err != nil {
		t.Errorf("another stream: %v", err)
	}
}

func storeLifecycle(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	changes, err := nc.SubscribeSync("es.config.event.temp")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	put, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put.temp", "")
	if failed != nil || !put.Created || put.Incarnation != 1 || put.Version != 0 || put.Leader == "" {
		t.Fatalf("put: %v %+v", failed, put)
	}
	// Created means usable at once, at every node.
	for i, n := range c.Nodes {
		if _, failed := request[api.AppendResponse](t, n.Connect(), "es.temp.write.append.s", fmt.Sprintf(`{"events":[{"id":"e%d","type":"Old"}]}`, i)); failed != nil {
			t.Errorf("append at %s right after the store was created: %v", n.Name, failed)
		}
	}
	again, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put.temp", `{"options":{"description":"x"}}`)
	if failed != nil || again.Created || again.Version != 1 || again.Incarnation != 1 {
		t.Errorf("put again: %v %+v", failed, again)
	}
	if _, failed = request[api.ConfigPutResponse](t, nc, "es.config.write.delete.temp", ""); failed != nil {
		t.Fatal(failed)
	}
	testcluster.Eventually(t, "the store is gone at every node", func() error {
		for _, n := range c.Nodes {
			for _, subject := range []string{"es.temp.write.append.s", "es.temp.read.stream.s"} {
				_, failed := request[api.Reply](t, n.Connect(), subject, `{"consistency":"linearizable"}`)
				if failed == nil || !errors.Is(failed, api.ErrStoreNotFound) {
					return fmt.Errorf("%s at %s: %v", subject, n.Name, failed)
				}
			}
		}
		return nil
	})
	put, failed = request[api.ConfigPutResponse](t, nc, "es.config.write.put.temp", "")
	if failed != nil || !put.Created || put.Incarnation != 2 || put.Version != 3 {
		t.Fatalf("put after delete: %v %+v", failed, put)
	}
	_, failed = request[api.ReadResponse](t, nc, "es.temp.read.stream.s", "")
	if err := wantError(failed, api.ErrStreamNotFound); err != nil {
		t.Errorf("the new incarnation sees the old one's events: %v", err)
	}
	res, failed := request[api.AppendResponse](t, nc, "es.temp.write.append.s", `{"events":[{"id":"e0","type":"New"}],"expected_version":-1}`)
	if failed != nil || res.Position != 1 || res.Duplicate {
		t.Errorf("append to the new incarnation: %v %+v", failed, res)
	}
	for _, kind := range []string{"created", "updated", "deleted", "created"} {
		m, err := changes.NextMsg(requestTimeout)
		if err != nil {
			t.Fatalf("config event %s: %v", kind, err)
		}
		var e api.ConfigEvent
		if err := json.Unmarshal(m.Data, &e); err != nil || e.Kind != kind || e.Store != "temp" || e.Type != api.TypeConfigEvent {
			t.Errorf("config event: %v %+v, wanted %s", err, e, kind)
		}
	}
}

func configVersions(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	if _, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put.versions", `{"expected_version":-1}`); failed != nil {
		t.Fatal(failed)
	}
	_, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put.versions", `{"expected_version":-1}`)
	if err := wantError(failed, api.ErrWrongVersion); err != nil || *failed.ActualVersion != 0 {
		t.Errorf("put of an existing store: %v", err)
	}
	if put, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put.versions", `{"expected_version":0,"options":{"description":"mine"}}`); failed != nil || put.Version != 1 {
		t.Errorf("put at version 0: %v %+v", failed, put)
	}
	for _, n := range c.Nodes { // reads are answered by every node
		get, failed := request[api.ConfigGetResponse](t, n.Connect(), "es.config.read.get.versions", "")
		if failed != nil || get.Version != 1 || get.Options.Description != "mine" || len(get.Members) != 3 || get.Incarnation != 1 {
			t.Errorf("get at %s: %v %+v", n.Name, failed, get)
		}
		list, failed := request[api.ConfigListResponse](t, n.Connect(), "es.config.read.list", "")
		if failed != nil || len(list.Stores) < 2 {
			t.Errorf("list at %s: %v %+v", n.Name, failed, list)
		}
	}
	_, failed = request[api.ConfigPutResponse](t, nc, "es.config.write.delete.versions", `{"expected_version":0}`)
	if err := wantError(failed, api.ErrWrongVersion); err != nil {
		t.Errorf("delete at an old version: %v", err)
	}
	if _, failed = request[api.ConfigPutResponse](t, nc, "es.config.write.delete.versions", `{"expected_version":1}`); failed != nil {
		t.Error(failed)
	}
}

func liveEvents(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	cl := client.New(nc)
	c.CreateStore(cl, "live")
	sub, err := nc.SubscribeSync("es.live.event.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	const total = 120
	for i := range total {
		if i%40 == 20 { // a hand-over leaves neither a gap nor a double
			if _, err := cl.Transfer(ctx, "live", ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := cl.Store("live").Append(ctx, fmt.Sprintf("s-%d", i%3), []api.NewEvent{{Type: "T", Data: fmt.Append(nil, i)}}, client.Any); err != nil {
			t.Fatal(err)
		}
	}
	for i := range total {
		m, err := sub.NextMsg(requestTimeout)
		if err != nil {
			t.Fatalf("live event %d: %v", i, err)
		}
		if string(m.Data) != fmt.Sprint(i) || m.Header.Get("ce-position") != fmt.Sprint(i+1) || m.Header.Get("ce-version") != fmt.Sprint(i/3) {
			t.Fatalf("live event %d: body %s, headers %v", i, m.Data, m.Header)
		}
	}
}

func waitingReads(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	answers := make(chan *api.ReadResponse, 1)
	inbox := nc.NewInbox()
	if _, err := nc.Subscribe(inbox, func(m *nats.Msg) {
		var r api.ReadResponse
		json.Unmarshal(m.Data, &r)
		answers <- &r
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("es.orders.read.stream.later", inbox, []byte(`{"wait_ms":30000}`)); err != nil {
		t.Fatal(err)
	}
	if _, failed := request[api.AppendResponse](t, c.Nodes[2].Connect(), "es.orders.write.append.later", `{"events":[{"type":"A"}]}`); failed != nil {
		t.Fatal(failed)
	}
	select {
	case r := <-answers:
		if r.Error != nil || len(r.Events) != 1 {
			t.Errorf("the waiting read answered %+v", r)
		}
	case <-time.After(20 * time.Second):
		t.Error("the waiting read did not notice the event")
	}
	began := time.Now()
	r, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream.later", `{"from":1,"wait_ms":50}`)
	if failed != nil || len(r.Events) != 0 || !r.End || r.Next != 1 || time.Since(began) < 50*time.Millisecond {
		t.Errorf("a wait that ends empty: %v %+v after %v", failed, r, time.Since(began))
	}
}

// everyNodeReads: a linearizable read at any node sees what was acknowledged before it began.
func everyNodeReads(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	var conns []*nats.Conn
	for _, n := range c.Nodes {
		conns = append(conns, n.Connect())
	}
	for i, n := range c.Nodes {
		for range 8 { // the queue group would hand some of them to other nodes
			if info, failed := request[api.StoreInfoResponse](t, conns[i], "es.orders.read.info", ""); failed != nil || info.Node != n.Name {
				t.Errorf("a read asked at %s was answered by %q: %v", n.Name, info.Node, failed)
			}
		}
	}
	for i := range 60 {
		body := base64.StdEncoding.EncodeToString(fmt.Append(nil, i))
		res, failed := request[api.AppendResponse](t, conns[i%3], "es.orders.write.append.fresh", fmt.Sprintf(`{"events":[{"type":"A","data":%q}]}`, body))
		if failed != nil {
			t.Fatal(failed)
		}
		read, failed := request[api.ReadResponse](t, conns[(i+1)%3], "es.orders.read.stream.fresh", `{"backward":true,"limit":1}`)
		if failed != nil || len(read.Events) != 1 || read.Events[0].Version != res.Version {
			t.Fatalf("read %d at another node: %v, wanted version %d, got %+v", i, failed, res.Version, read)
		}
		if read, failed = request[api.ReadResponse](t, conns[(i+2)%3], "es.orders.read.stream.fresh",
			fmt.Sprintf(`{"backward":true,"limit":1,"consistency":"local","min_position":%d}`, res.Position)); failed != nil || read.Events[0].Version < res.Version {
			t.Fatalf("local read with min_position: %v %+v", failed, read)
		}
	}
}
