package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// limits: a store's limits are checked when they are put, hold at every node, are told by read.info, and are gone when the record drops them.
func limits(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	for _, row := range []struct{ payload, says string }{
		{`{"options":{"limits":{"max_event_bytes":-1}}}`, "max_event_bytes"},
		{`{"options":{"limits":{"max_append_events":10001}}}`, "10000"},
		{`{"options":{"limits":{"max_streams":"many"}}}`, "max_streams"},
		{`{"options":{"limits":{"max_stream":1}}}`, "max_stream"},
	} {
		_, failed := request[api.Reply](t, nc, "es.config.write.put.limited", row.payload)
		if err := wantError(failed, api.ErrBadRequest); err != nil || !strings.Contains(failed.Description, row.says) {
			t.Errorf("%s: %v %+v", row.payload, err, failed)
		}
	}
	if _, failed := request[api.Reply](t, nc, "es.config.write.put.limited", `{"options":{"limits":{"max_event_bytes":5,"max_streams":1}}}`); failed != nil {
		t.Fatal(failed)
	}
	for _, node := range c.Nodes {
		at := node.Connect()
		_, failed := request[api.Reply](t, at, "es.limited.write.append.a", `{"events":[{"type":"T","data":123456}]}`)
		if err := wantError(failed, api.ErrTooLarge); err != nil {
			t.Errorf("%s: %v", node.Name, err)
		}
		if _, failed := request[api.Reply](t, at, "es.limited.write.append.a", `{"events":[{"type":"T","data":12345}]}`); failed != nil {
			t.Errorf("%s: %v", node.Name, failed)
		}
		_, failed = request[api.Reply](t, at, "es.limited.write.append", `{"events":[{"stream":"a","type":"T"},{"stream":"b","type":"T"}]}`)
		if err := wantError(failed, api.ErrStoreFull); err != nil {
			t.Errorf("%s: %v", node.Name, err)
		}
	}
	info, failed := request[api.StoreInfoResponse](t, nc, "es.limited.read.info", ``)
	if failed != nil || info.Limits != (api.Limits{MaxEventBytes: 5, MaxStreams: 1}) || info.Bytes <= 0 || info.Bytes > info.DiskBytes+1<<20 || info.Streams != 1 || info.Events != 3 {
		t.Errorf("info: %v %+v", failed, info)
	}
	if _, failed := request[api.Reply](t, nc, "es.config.write.put.limited", `{"options":{"limits":{"max_appends_per_second":1}}}`); failed != nil {
		t.Fatal(failed)
	}
	limited := false
	testcluster.Eventually(t, "the new limits hold at the leader", func() error {
		_, failed := request[api.Reply](t, nc, "es.limited.write.append.c", `{"events":[{"type":"T","data":123456}]}`)
		if limited = failed != nil && failed.ErrCode == api.ErrRateLimited.ErrCode && failed.RetryAfterMS > 0; limited {
			return nil
		}
		return fmt.Errorf("the answer is %v", failed)
	})
	if _, failed := request[api.Reply](t, nc, "es.config.write.put.limited", `{"options":{}}`); failed != nil {
		t.Fatal(failed)
	}
	testcluster.Eventually(t, "no limit holds any more", func() error {
		for range 5 {
			if _, failed := request[api.Reply](t, nc, "es.limited.write.append.c", `{"events":[{"type":"T","data":123456}]}`); failed != nil {
				return failed
			}
		}
		return nil
	})
}

// TestNoisyStore: while one store has as many requests waiting as a node takes, and thousands of appends under way, every append and read of another store succeeds at the same nodes.
func TestNoisyStore(t *testing.T) {
	const (
		waiting = 6000 // more than a node lets one store have
		appends = 4000 // more than a leader takes at once
		quiet   = 150
	)
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "noisy")
	c.CreateStore(cl, "quiet")
	var mu sync.Mutex
	refused := map[string]int{}
	for _, node := range c.Nodes {
		nc := node.Connect()
		inbox := nc.NewInbox()
		if _, err := nc.Subscribe(inbox, func(m *nats.Msg) {
			var reply api.Reply
			if json.Unmarshal(m.Data, &reply) == nil && reply.Error != nil {
				mu.Lock()
				refused[reply.Error.Name]++
				mu.Unlock()
			}
		}); err != nil {
			t.Fatal(err)
		}
		for range waiting {
			if err := nc.PublishRequest("es.noisy.read.all", inbox, []byte(`{"after":1000000000,"wait_ms":60000}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	testcluster.Eventually(t, "every node refuses more requests of the noisy store", func() error {
		mu.Lock()
		defer mu.Unlock()
		if n := refused[api.ErrOverloaded.Name]; n < 3*(waiting-4200) {
			return fmt.Errorf("%d are refused", n)
		}
		return nil
	})
	flood := c.Connect()
	body := strings.Repeat("x", 2000)
	for i := range appends {
		if err := flood.PublishRequest("es.noisy.write.append.s", flood.NewInbox(), []byte(fmt.Sprintf(`{"events":[{"type":"T","data":"%s%d"}]}`, body, i))); err != nil {
			t.Fatal(err)
		}
	}
	failures := 0
	for i := range quiet {
		nc := c.Nodes[i%3].Connect()
		if _, failed := request[api.Reply](t, nc, "es.quiet.write.append.s", `{"events":[{"type":"T"}]}`); failed != nil {
			failures++
			t.Logf("append %d: %v", i, failed)
		}
		if read, failed := request[api.ReadResponse](t, nc, "es.quiet.read.all", `{"backward":true,"limit":1}`); failed != nil || read.LastPosition != uint64(i+1-failures) {
			failures++
			t.Logf("read %d: %v %+v", i, failed, read)
		}
		nc.Close()
	}
	if failures > 0 {
		t.Errorf("%d of %d requests of the quiet store failed", failures, 2*quiet)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	last, err := cl.Store("noisy").Append(ctx, "s", []api.NewEvent{{Type: "Last"}}, client.Any) // its reads are refused still
	if err != nil || last.Position < 1000 {
		t.Errorf("the noisy store was not noisy: %+v, %v", last, err)
	}
}
