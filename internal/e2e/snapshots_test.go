package e2e

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// snapshots: an aggregate's snapshots are kept, found at a version, replaced, thinned out and dropped; a read gives the newest and what lies behind it.
func snapshots(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, row := range []struct {
		name, subject, payload string
		want                   *api.Error
	}{
		{"stream that is not there", "es.orders.write.snapshot.snap-none", `{"version":0,"data":1}`, api.ErrStreamNotFound},
		{"no data", "es.orders.write.snapshot.snap", `{"version":0}`, api.ErrBadRequest},
		{"no stream", "es.orders.write.snapshot", `{"version":0,"data":1}`, api.ErrBadName},
		{"unknown field", "es.orders.write.snapshot.snap", `{"versoin":0,"data":1}`, api.ErrBadRequest},
		{"keep out of range", "es.orders.write.snapshot.snap", `{"version":0,"data":1,"keep":-1}`, api.ErrBadRequest},
		{"drop in two ways", "es.orders.write.snapshot_delete.snap", `{"version":0,"up_to":1}`, api.ErrBadRequest},
		{"none there", "es.orders.read.snapshot.snap", ``, api.ErrSnapshotNotFound},
		{"snapshot_at alone", "es.orders.read.stream.snap", `{"snapshot_at":1}`, api.ErrBadRequest},
		{"backward", "es.orders.read.stream.snap", `{"snapshot":true,"backward":true}`, api.ErrBadRequest},
	} {
		if _, failed := request[api.Reply](t, nc, row.subject, row.payload); wantError(failed, row.want) != nil {
			t.Errorf("%s: %v", row.name, wantError(failed, row.want))
		}
	}
	must := func(subject, payload string) {
		t.Helper()
		if _, failed := request[api.Reply](t, nc, subject, payload); failed != nil {
			t.Fatalf("%s %s: %v", subject, payload, failed)
		}
	}
	must("es.orders.write.append.snap", `{"events":[{"type":"A"},{"type":"B"},{"type":"C"},{"type":"D"}]}`)
	_, failed := request[api.Reply](t, nc, "es.orders.write.snapshot.snap", `{"version":4,"data":1}`)
	if err := wantError(failed, api.ErrWrongVersion); err != nil || failed.ActualVersion == nil || *failed.ActualVersion != 3 {
		t.Errorf("a version that is not there yet: %v %+v", err, failed)
	}
	must("es.orders.write.snapshot.snap", `{"version":0,"data":{"n":0}}`)
	must("es.orders.write.snapshot.snap", `{"version":1,"data":{"n": 1},"type":"Total/1","metadata":{"by":"test"}}`)
	must("es.orders.write.snapshot.snap", `{"version":2,"data_base64":"AAH/"}`)
	for _, node := range c.Nodes { // any node can answer
		at := node.Connect()
		read, failed := request[api.ReadResponse](t, at, "es.orders.read.stream.snap", `{"snapshot":true}`)
		if failed != nil || read.Snapshot == nil || read.Snapshot.Version != 2 || string(read.Snapshot.DataBase64) != "\x00\x01\xff" || len(read.Events) != 1 || read.Events[0].Version != 3 {
			t.Errorf("%s: the aggregate: %v %+v", node.Name, failed, read)
		}
		one, failed := request[api.SnapshotResponse](t, at, "es.orders.read.snapshot.snap", `{"at":1}`)
		if failed != nil || one.Snapshot.Version != 1 || string(one.Snapshot.Data) != `{"n":1}` || one.Snapshot.Type != "Total/1" || string(one.Snapshot.Metadata) != `{"by":"test"}` || one.Snapshot.Time.IsZero() {
			t.Errorf("%s: the snapshot at version 1: %v %+v", node.Name, failed, one)
		}
	}
	read, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream.snap", `{"snapshot":true,"snapshot_at":1,"limit":1}`)
	if failed != nil || read.Snapshot.Version != 1 || len(read.Events) != 1 || read.Events[0].Version != 2 || read.End {
		t.Errorf("the aggregate at version 1: %v %+v", failed, read)
	}
	put, failed := request[api.SnapshotPutResponse](t, nc, "es.orders.write.snapshot.snap", `{"version":2,"data":2,"keep":2}`)
	if failed != nil || !put.Replaced || put.Dropped != 1 || put.Type != api.TypeSnapshotPut || put.Store != "orders" {
		t.Errorf("replace and keep two: %v %+v", failed, put)
	}
	list, failed := request[api.SnapshotsResponse](t, nc, "es.orders.read.snapshots.snap", ``)
	if failed != nil || len(list.Snapshots) != 2 || list.Snapshots[0].Version != 2 || list.Snapshots[1].Version != 1 {
		t.Errorf("list: %v %+v", failed, list)
	}
	dropped, failed := request[api.SnapshotDeleteResponse](t, nc, "es.orders.write.snapshot_delete.snap", ``)
	if failed != nil || dropped.Deleted != 2 {
		t.Errorf("drop all: %v %+v", failed, dropped)
	}
	if read, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream.snap", `{"snapshot":true}`); failed != nil || read.Snapshot != nil || len(read.Events) != 4 {
		t.Errorf("without a snapshot: %v %+v", failed, read)
	}
}
