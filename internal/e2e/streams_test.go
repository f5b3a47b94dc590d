package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// streamLifecycle: streams are truncated, deleted, brought back, bounded and deleted for ever, and every kind of read agrees at every node.
func streamLifecycle(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, row := range []struct {
		name, subject, payload string
		want                   *api.Error
	}{
		{"delete what is not there", "es.orders.write.delete.life-none", ``, api.ErrStreamNotFound},
		{"truncate what is not there", "es.orders.write.truncate.life-none", `{"before":1}`, api.ErrStreamNotFound},
		{"metadata of what is not there", "es.orders.read.metadata.life-none", ``, api.ErrStreamNotFound},
		{"delete that must not exist", "es.orders.write.delete.life-none", `{"expected_version":-1}`, api.ErrBadRequest},
		{"bad version", "es.orders.write.metadata.life-none", `{"expected_version":-3}`, api.ErrBadRequest},
		{"unknown field", "es.orders.write.truncate.life-none", `{"befroe":1}`, api.ErrBadRequest},
		{"custom no object", "es.orders.write.metadata.life-none", `{"custom":[1]}`, api.ErrBadRequest},
		{"custom too large", "es.orders.write.metadata.life-none", fmt.Sprintf(`{"custom":{"a":%q}}`, strings.Repeat("x", api.MaxStreamMetadata)), api.ErrTooLarge},
		{"max_age too large", "es.orders.write.metadata.life-none", `{"max_age":99999999999}`, api.ErrBadRequest},
		{"no stream", "es.orders.write.delete", ``, api.ErrBadName},
		{"no stream to read", "es.orders.read.metadata", ``, api.ErrBadName},
	} {
		if _, failed := request[api.Reply](t, nc, row.subject, row.payload); wantError(failed, row.want) != nil {
			t.Errorf("%s: %v", row.name, wantError(failed, row.want))
		}
	}
	must := func(subject, payload string) *api.StreamStateResponse {
		t.Helper()
		r, failed := request[api.StreamStateResponse](t, nc, subject, payload)
		if failed != nil {
			t.Fatalf("%s %s: %v", subject, payload, failed)
		}
		return r
	}
	refused := func(subject, payload string, want *api.Error) *api.Error {
		t.Helper()
		_, failed := request[api.Reply](t, nc, subject, payload)
		if err := wantError(failed, want); err != nil {
			t.Errorf("%s %s: %v", subject, payload, err)
			return want
		}
		return failed
	}
	// everywhere reads at all nodes, by stream, by query and by name; ids are those of the events that must be there. A nil slice: the stream is not there.
	everywhere := func(stream string, ids ...string) {
		t.Helper()
		want := fmt.Sprint(ids)
		for _, node := range c.Nodes {
			at := node.Connect()
			read, failed := request[api.ReadResponse](t, at, "es.orders.read.stream."+stream, ``)
			back, _ := request[api.ReadResponse](t, at, "es.orders.read.stream."+stream, `{"backward":true}`)
			if (ids == nil) != errors.Is(failed, api.ErrStreamNotFound) || ids != nil && (failed != nil || idsOf(read.Events, false) != want || idsOf(back.Events, true) != want) {
				t.Errorf("%s: %s is %v %s, backward %s; want %s", node.Name, stream, failed, idsOf(read.Events, false), idsOf(back.Events, true), want)
			}
			found, failed := request[api.ReadResponse](t, at, "es.orders.read.query", fmt.Sprintf(`{"query":{"items":[{"tags":["life"],"stream_prefixes":[%q]}]}}`, stream))
			if failed != nil || idsOf(found.Events, false) != want {
				t.Errorf("%s: the query found %v %s, want %s", node.Name, failed, idsOf(found.Events, false), want)
			}
			list, failed := request[api.StreamsResponse](t, at, "es.orders.read.streams", fmt.Sprintf(`{"prefix":%q}`, stream))
			if failed != nil || (len(list.Streams) == 1) != (ids != nil) || ids != nil && list.Streams[0].Events != uint64(len(ids)) {
				t.Errorf("%s: listed are %v %+v, want %d events", node.Name, failed, list.Streams, len(ids))
			}
		}
	}
	appendTo := func(stream string, expected int, ids ...string) string {
		events := ""
		for _, id := range ids {
			events += fmt.Sprintf(`,{"id":%q,"type":"Life","tags":["life"]}`, id)
		}
		return fmt.Sprintf(`{"events":[%s],"expected_version":%d}`, events[1:], expected)
	}

	const s = "life-1"
	must("es.orders.write.append."+s, appendTo(s, -1, "l0", "l1", "l2", "l3"))
	if r := must("es.orders.write.truncate."+s, `{"before":2,"expected_version":3}`); !r.Changed || r.FirstVersion != 2 || r.Version != 3 || r.Type != api.TypeStreamState || r.Store != "orders" || r.Stream != s {
		t.Errorf("truncate: %+v", r)
	}
	if r := must("es.orders.write.truncate."+s, `{"before":2,"expected_version":3}`); r.Changed {
		t.Errorf("the same again: %+v", r)
	}
	everywhere(s, "l2", "l3")
	if e := refused("es.orders.write.truncate."+s, `{"before":5}`, api.ErrWrongVersion); e.ActualVersion == nil || *e.ActualVersion != 3 {
		t.Errorf("truncate behind the end: %+v", e)
	}
	must("es.orders.write.snapshot."+s, `{"version":3,"data":1}`)
	if r := must("es.orders.write.delete."+s, `{"expected_version":3}`); !r.Changed || !r.Deleted || r.FirstVersion != 4 {
		t.Errorf("delete: %+v", r)
	}
	everywhere(s)
	refused("es.orders.read.snapshot."+s, ``, api.ErrSnapshotNotFound)
	refused("es.orders.write.append."+s, appendTo(s, -4, "l4"), api.ErrWrongVersion)
	must("es.orders.write.append."+s, appendTo(s, 3, "l4")) // whoever read it before may go on
	everywhere(s, "l4")
	must("es.orders.write.delete."+s, `{"expected_version":4}`)
	must("es.orders.write.append."+s, appendTo(s, -1, "l5", "l6"))
	everywhere(s, "l5", "l6")
	if r, failed := request[api.AppendResponse](t, nc, "es.orders.write.append."+s, appendTo(s, -1, "l0", "l1", "l2", "l3")); failed != nil || !r.Duplicate || r.Version != 3 {
		t.Errorf("a retry of what is gone: %v %+v", failed, r)
	}
	if r := must("es.orders.write.metadata."+s, `{"max_count":2,"custom":{"owner": "me"}}`); !r.Changed || r.MaxCount != 2 || string(r.Custom) != `{"owner":"me"}` || r.FirstVersion != 5 {
		t.Errorf("metadata: %+v", r)
	}
	must("es.orders.write.append."+s, appendTo(s, 6, "l7"))
	everywhere(s, "l6", "l7")
	for _, node := range c.Nodes {
		r, failed := request[api.StreamStateResponse](t, node.Connect(), "es.orders.read.metadata."+s, ``)
		if failed != nil || r.FirstVersion != 6 || r.Version != 7 || r.MaxCount != 2 || string(r.Custom) != `{"owner":"me"}` || r.Applied == 0 {
			t.Errorf("%s: the state: %v %+v", node.Name, failed, r)
		}
	}
	if r := must("es.orders.write.delete."+s, `{"hard":true}`); !r.Tombstoned || !r.Changed {
		t.Errorf("hard delete: %+v", r)
	}
	everywhere(s)
	if e := refused("es.orders.write.append."+s, appendTo(s, -2, "l8"), api.ErrStreamDeleted); e.Code != 410 {
		t.Errorf("an append after a hard delete: %+v", e)
	}
	refused("es.orders.write.append", fmt.Sprintf(`{"events":[{"stream":"life-2","type":"A"},{"stream":%q,"type":"A"}]}`, s), api.ErrStreamDeleted)
	refused("es.orders.write.metadata."+s, `{"max_count":2}`, api.ErrStreamDeleted)

	// Events that grow too old vanish by themselves.
	const old = "life-old"
	must("es.orders.write.metadata."+old, `{"max_age":1,"expected_version":-1}`)
	must("es.orders.write.append."+old, appendTo(old, -1, "o0"))
	deadline := time.Now().Add(testcluster.Patience)
	for {
		r, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream."+old, ``)
		if failed != nil || time.Now().After(deadline) {
			t.Fatalf("an old event stays: %v %+v", failed, r)
		}
		if len(r.Events) == 0 && r.End && r.LastVersion != nil && *r.LastVersion == 0 {
			break
		}
		// The reader waits at the server: nothing else is to happen than that time passes.
		request[api.ReadResponse](t, nc, "es.orders.read.stream."+old, `{"from":1,"wait_ms":200}`)
	}
	must("es.orders.write.append."+old, appendTo(old, 0, "o1"))
}

func idsOf(events []api.Event, reversed bool) string {
	ids := []string{}
	for _, e := range events {
		if reversed {
			ids = append([]string{e.ID}, ids...)
		} else {
			ids = append(ids, e.ID)
		}
	}
	return fmt.Sprint(ids)
}
