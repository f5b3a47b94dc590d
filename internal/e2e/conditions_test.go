package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

func severalStreams(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	const payload = `{"events":[{"id":"sv-1","stream":"sv.a","type":"A"},{"id":"sv-2","stream":"sv.b","type":"B"},{"id":"sv-3","stream":"sv.a","type":"A"}],"conditions":[{"stream":"sv.a","version":-1}]}`
	res, failed := request[api.AppendSeveralResponse](t, nc, "es.orders.write.append", payload)
	if failed != nil {
		t.Fatal(failed)
	}
	p := res.FirstPosition
	want := []api.StreamResult{{Stream: "sv.a", FirstVersion: 0, Version: 1, FirstPosition: p, Position: p + 2}, {Stream: "sv.b", FirstPosition: p + 1, Position: p + 1}}
	if res.Store != "orders" || res.Position != p+2 || res.Duplicate || !reflect.DeepEqual(res.Results, want) {
		t.Errorf("got %+v, want %+v", res, want)
	}
	// A retry is answered as the first time, though the condition does not hold any more, at whatever node.
	for _, n := range c.Nodes {
		again, failed := request[api.AppendSeveralResponse](t, n.Connect(), "es.orders.write.append", payload)
		if failed != nil || !again.Duplicate || again.FirstPosition != p || again.Position != res.Position || !reflect.DeepEqual(again.Results, want) {
			t.Errorf("a retry at %s got %+v, %v; want %+v and duplicate", n.Name, again, failed, res)
		}
	}
	for name, payload := range map[string]string{
		"partly known":       `{"events":[{"id":"sv-1","stream":"sv.a","type":"A"},{"id":"sv-9","stream":"sv.b","type":"B"}]}`,
		"in another stream":  `{"events":[{"id":"sv-1","stream":"sv.a","type":"A"},{"id":"sv-2","stream":"sv.a","type":"B"}]}`,
		"in another order":   `{"events":[{"id":"sv-2","stream":"sv.b","type":"B"},{"id":"sv-1","stream":"sv.a","type":"A"}]}`,
		"with a gap between": `{"events":[{"id":"sv-1","stream":"sv.a","type":"A"},{"id":"sv-3","stream":"sv.a","type":"A"},{"id":"sv-2","stream":"sv.b","type":"B"}]}`,
	} {
		if _, failed := request[api.Reply](t, nc, "es.orders.write.append", payload); !errors.Is(failed, api.ErrEventIDConflict) {
			t.Errorf("%s: got %v, want %s", name, failed, api.ErrEventIDConflict.Name)
		}
	}
	// One stream is several streams too, of which there is one.
	one, failed := request[api.AppendSeveralResponse](t, nc, "es.orders.write.append", `{"events":[{"stream":"sv.c","type":"C"}]}`)
	if failed != nil || !reflect.DeepEqual(one.Results, []api.StreamResult{{Stream: "sv.c", FirstPosition: one.Position, Position: one.Position}}) {
		t.Errorf("got %+v, %v", one, failed)
	}
}

func conditions(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	ok := func(subject, payload string) uint64 {
		t.Helper()
		res, failed := request[api.AppendResponse](t, nc, subject, payload)
		if failed != nil {
			t.Fatal(failed)
		}
		return res.Position
	}
	first := ok("es.orders.write.append.cd.a", `{"events":[{"type":"Opened","tags":["cd:1","cd:x"]}],"conditions":[{"stream":"cd.a","version":-1}]}`)
	second := ok("es.orders.write.append.cd.b", `{"events":[{"type":"Opened","tags":["cd:2","cd:x"]}],"conditions":[{"stream":"cd.a","version":0},{"stream":"cd.a","version":-4}]}`)

	n := func(v int64) *int64 { return &v }
	u := func(v uint64) *uint64 { return &v }
	query := `{"items":[{"types":["Opened"],"tags":["cd:x"]}]}`
	for _, row := range []struct {
		name, subject, payload string
		want                   *api.Error
		failed                 []api.FailedCondition
	}{
		{"every failed condition is told", "es.orders.write.append.cd.c", fmt.Sprintf(
			`{"events":[{"type":"T"}],"conditions":[{"stream":"cd.a","version":5},{"stream":"cd.b","version":0},{"stream":"cd.none","version":-4},{"query":%s},{"query":%s,"after":%d}]}`, query, query, first),
			api.ErrCondition, []api.FailedCondition{
				{Index: 0, Stream: "cd.a", ExpectedVersion: n(5), ActualVersion: n(0)}, {Index: 2, Stream: "cd.none", ExpectedVersion: n(-4), ActualVersion: n(-1)},
				{Index: 3, Position: second, After: u(0)}, {Index: 4, Position: second, After: u(first)},
			}},
		{"with the expected version", "es.orders.write.append.cd.a", `{"events":[{"type":"T"}],"expected_version":-1,"conditions":[{"stream":"cd.b","version":-1}]}`,
			api.ErrCondition, []api.FailedCondition{{Index: -1, Stream: "cd.a", ExpectedVersion: n(-1), ActualVersion: n(0)}, {Index: 0, Stream: "cd.b", ExpectedVersion: n(-1), ActualVersion: n(0)}}},
		{"only the expected version", "es.orders.write.append.cd.a", `{"events":[{"type":"T"}],"expected_version":-1,"conditions":[{"stream":"cd.b","version":0}]}`, api.ErrWrongVersion, nil},
		{"over several streams", "es.orders.write.append", `{"events":[{"stream":"cd.c","type":"T"},{"stream":"cd.d","type":"T"}],"conditions":[{"stream":"cd.d","version":0}]}`,
			api.ErrCondition, []api.FailedCondition{{Index: 0, Stream: "cd.d", ExpectedVersion: n(0), ActualVersion: n(-1)}}},
	} {
		_, failed := request[api.Reply](t, nc, row.subject, row.payload)
		if err := wantError(failed, row.want); err != nil || failed.Code != 409 {
			t.Errorf("%s: %v", row.name, err)
		} else if !reflect.DeepEqual(failed.Failed, row.failed) {
			t.Errorf("%s: got %+v, want %+v", row.name, failed.Failed, row.failed)
		}
	}
	for _, stream := range []string{"cd.c", "cd.d"} {
		if _, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream."+stream, ``); !errors.Is(failed, api.ErrStreamNotFound) {
			t.Errorf("a refused append wrote to %s: %v", stream, failed)
		}
	}
	ok("es.orders.write.append.cd.c", fmt.Sprintf(`{"events":[{"type":"T"}],"conditions":[{"query":%s,"after":%d}]}`, query, second))

	for _, row := range []struct {
		name, subject, payload string
		want                   *api.Error
		says                   string
	}{
		{"expected version of nothing", "es.orders.write.append", `{"events":[{"stream":"cd.e","type":"T"}],"expected_version":-2}`, api.ErrBadRequest, "conditions"},
		{"another stream", "es.orders.write.append.cd.e", `{"events":[{"stream":"cd.f","type":"T"}]}`, api.ErrBadRequest, "cd.f"},
		{"bad stream", "es.orders.write.append", `{"events":[{"stream":"a b","type":"T"}]}`, api.ErrBadName, "events[0]"},
		{"no stream", "es.orders.write.append", `{"events":[{"type":"T","stream":"cd.e"},{"type":"T"}]}`, api.ErrBadName, "events[1]"},
		{"empty condition", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{}]}`, api.ErrBadRequest, "conditions[0]"},
		{"both kinds", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"stream":"x","version":1,"query":{"items":[{"tags":["x"]}]}}]}`, api.ErrBadRequest, "one of them"},
		{"any version", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"stream":"x","version":-2}]}`, api.ErrBadRequest, "always holds"},
		{"no version", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"stream":"x"}]}`, api.ErrBadRequest, "version"},
		{"after of a stream", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"stream":"x","version":1,"after":3}]}`, api.ErrBadRequest, "after"},
		{"empty items", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"query":{"items":[]}}]}`, api.ErrBadRequest, "items is empty"},
		{"empty item", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"query":{"items":[{}]}}]}`, api.ErrBadRequest, "items[0]"},
		{"only stream prefixes", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"query":{"items":[{"stream_prefixes":["a"]}]}}]}`, api.ErrBadRequest, "every event"},
		{"comma in a tag", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"query":{"items":[{"tags":["a,b"]}]}}]}`, api.ErrBadName, "comma"},
		{"too many conditions", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[` + strings.Repeat(`{"stream":"x","version":-1},`, api.MaxConditions) + `{"stream":"x","version":-1}]}`, api.ErrTooLarge, "129"},
		{"unknown field", "es.orders.write.append.cd.e", `{"events":[{"type":"T"}],"conditions":[{"strem":"x"}]}`, api.ErrBadRequest, "strem"},
		{"CloudEvent without a stream", "es.orders.write.append", `{}`, api.ErrBadRequest, "events"},
		{"empty query", "es.orders.read.query", `{"query":{}}`, api.ErrBadRequest, "items is empty"},
		{"name behind query", "es.orders.read.query.x", ``, api.ErrBadSubject, "no name"},
		{"too many items", "es.orders.read.query", `{"query":{"items":[` + strings.Repeat(`{"tags":["a"]},`, api.MaxQueryItems) + `{"tags":["a"]}]}}`, api.ErrTooLarge, "33"},
	} {
		_, failed := request[api.Reply](t, nc, row.subject, row.payload)
		if err := wantError(failed, row.want); err != nil {
			t.Errorf("%s: %v", row.name, err)
		} else if !strings.Contains(failed.Description, row.says) {
			t.Errorf("%s: the description does not mention %q: %s", row.name, row.says, failed.Description)
		}
	}
}

func queries(t *testing.T, c *testcluster.Cluster, nc *nats.Conn) {
	ids := func(nc *nats.Conn, verb, payload string) (string, *api.ReadResponse) {
		t.Helper()
		res, failed := request[api.ReadResponse](t, nc, "es.orders.read."+verb, payload)
		if failed != nil {
			t.Fatalf("%s: %v", payload, failed)
		}
		var ids []string
		for _, e := range res.Events {
			ids = append(ids, e.ID)
		}
		return strings.Join(ids, " "), res
	}
	_, failed := request[api.AppendSeveralResponse](t, nc, "es.orders.write.append", `{"events":[
		{"id":"q1","stream":"qu.a","type":"qu.placed","tags":["qu:1","vip"]},{"id":"q2","stream":"qu.b","type":"qu.paid","tags":["qu:1"]},
		{"id":"q3","stream":"qu.a","type":"qu.paid","tags":["qu:2","vip"]},{"id":"q4","stream":"qv","type":"other","tags":["qu:1","vip"]}]}`)
	if failed != nil {
		t.Fatal(failed)
	}
	for _, node := range c.Nodes {
		nc := node.Connect()
		for _, row := range []struct{ payload, want string }{
			{`{"query":{"items":[{"tags":["qu:1"]}]}}`, "q1 q2 q4"},
			{`{"query":{"items":[{"tags":["qu:1","vip"]}]}}`, "q1 q4"},
			{`{"query":{"items":[{"types":["qu.paid"]}]}}`, "q2 q3"},
			{`{"query":{"items":[{"types":["qu.paid","qu.placed"],"tags":["vip"]}]}}`, "q1 q3"},
			{`{"query":{"items":[{"type_prefixes":["qu."]}]}}`, "q1 q2 q3"},
			{`{"query":{"items":[{"stream_prefixes":["qu."],"tags":["qu:1"]}]}}`, "q1 q2"},
			{`{"query":{"items":[{"tags":["qu:2"]},{"types":["other"],"tags":["vip"]}]}}`, "q3 q4"},
			{`{"query":{"items":[{"tags":["qu:1"]}]},"backward":true}`, "q4 q2 q1"},
			{`{"query":{"items":[{"tags":["qu:1"]}]},"backward":true,"limit":2}`, "q4 q2"},
			{`{"query":{"items":[{"tags":["qu:3"]}]}}`, ""},
		} {
			for _, verb := range []string{"query", "all"} {
				if got, res := ids(nc, verb, row.payload); got != row.want || res.Scanned == nil {
					t.Errorf("%s %s at %s: got %q (scanned %v), want %q", verb, row.payload, node.Name, got, res.Scanned, row.want)
				}
			}
		}
	}
	// Page after page, on from what was scanned.
	var got []string
	after := uint64(0)
	for end := false; !end; {
		page, res := ids(nc, "query", fmt.Sprintf(`{"query":{"items":[{"tags":["qu:1"]}]},"limit":1,"after":%d}`, after))
		if page != "" {
			got = append(got, page)
		}
		after, end = *res.Scanned, res.End
	}
	if fmt.Sprint(got) != "[q1 q2 q4]" {
		t.Errorf("page after page: %s", got)
	}
	// A query without a query is everything.
	_, all := ids(nc, "all", `{"limit":1}`) // which need not be position 1: other tests of this cluster delete streams
	if _, res := ids(nc, "query", `{"limit":1}`); len(res.Events) != 1 || len(all.Events) != 1 || res.Events[0].Position != all.Events[0].Position {
		t.Errorf("everything: %+v, of %+v", res, all)
	}
	// It waits for a match, and other events do not end the wait.
	answer := make(chan string, 1)
	wait := c.Nodes[2].Connect()
	go func() { // ends with the answer
		got, _ := ids(wait, "query", fmt.Sprintf(`{"query":{"items":[{"tags":["qu:9"]}]},"after":%d,"wait_ms":30000}`, after))
		answer <- got
	}()
	for i := range 20 {
		tag := "qu:8"
		if i == 19 {
			tag = "qu:9"
		}
		if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.qw", fmt.Sprintf(`{"events":[{"id":"qw%d","type":"W","tags":[%q]}]}`, i, tag)); failed != nil {
			t.Fatal(failed)
		}
	}
	if got := <-answer; got != "qw19" {
		t.Errorf("the waiting query got %q, want qw19", got)
	}
}

// TestBoundaryHolds: twenty clients race for user names that must be unique and for the places of courses, at all nodes, while the store's leader moves. What was decided by
// a query holds when it is written, or nothing is written.
func TestBoundaryHolds(t *testing.T) {
	const racers, names, courses, places, rounds, enough = 20, 15, 3, 7, 12, 3
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "campus")
	done := make(chan struct{})
	var moves sync.WaitGroup
	var moved atomic.Int64
	moves.Add(1)
	go func() { // ends when done is closed
		defer moves.Done()
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			from := c.Leader(cl, "campus")
			if _, err := cl.Transfer(context.Background(), "campus", ""); err == nil {
				testcluster.Eventually(t, "the leader has moved", func() error {
					if now := c.Leader(cl, "campus"); now.Term == from.Term {
						return fmt.Errorf("term %d", now.Term)
					}
					return nil
				})
				moved.Add(1)
			}
		}
	}()
	var written, refused atomic.Int64
	var wg sync.WaitGroup
	for r := range racers {
		nc := c.Nodes[r%3].Connect()
		rnd := rand.New(rand.NewPCG(7, uint64(r)))
		wg.Add(1)
		go func() { // ends after its rounds
			defer wg.Done()
			for round := 0; round < rounds || moved.Load() < enough && round < 100*rounds; round++ { // also until the leader has moved
				tag, limit, typ := fmt.Sprintf("name:%d", rnd.IntN(names)), 1, "Registered"
				if rnd.IntN(2) == 0 {
					tag, limit, typ = fmt.Sprintf("course:%d", rnd.IntN(courses)), places, "Enrolled"
				}
				id := fmt.Sprintf("r%d-%d", r, round)
				query := fmt.Sprintf(`{"items":[{"types":[%q],"tags":[%q]}]}`, typ, tag)
				for {
					seen, after, err := decide(nc, query)
					if err != nil {
						continue // nobody could answer just then
					}
					if seen >= limit {
						refused.Add(1)
						break
					}
					payload := fmt.Sprintf(`{"events":[{"id":%q,"stream":"user-%d","type":%q,"tags":[%q]},{"id":"%s-log","stream":"log","type":"Logged"}],"conditions":[{"query":%s,"after":%d}]}`,
						id, r, typ, tag, id, query, after)
					ok, lost := attempt(t, nc, payload)
					if ok {
						written.Add(1)
						break
					}
					if lost { // somebody was faster: decide anew
						refused.Add(1)
					}
				}
			}
		}()
	}
	wg.Wait()
	close(done)
	moves.Wait()
	counts, total := map[string]int{}, 0
	for e, err := range cl.Store("campus").ReadAll(context.Background(), client.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		total++
		if len(e.Tags) > 0 {
			counts[e.Tags[0]]++
		}
	}
	if int64(total) != 2*written.Load() {
		t.Errorf("%d events, want two for each of %d acknowledged appends", total, written.Load())
	}
	for tag, n := range counts {
		if limit := map[bool]int{true: 1, false: places}[strings.HasPrefix(tag, "name:")]; n > limit {
			t.Errorf("%s was given %d times, at most %d are allowed", tag, n, limit)
		}
	}
	if moved.Load() < enough {
		t.Errorf("the leader moved %d times only", moved.Load())
	}
	if len(counts) < names || refused.Load() < racers {
		t.Errorf("the race was none: %d names and courses taken, %d refused", len(counts), refused.Load())
	}
	c.WaitSame("campus")
}

// call sends one request; its error is the reply's, or that there was none.
func call(nc *nats.Conn, subject, payload string, into any) error {
	m, err := nc.Request(subject, []byte(payload), requestTimeout)
	if err != nil {
		return err
	}
	var head api.Reply
	if err := json.Unmarshal(m.Data, &head); err != nil {
		return err
	}
	if head.Error != nil {
		return head.Error
	}
	return json.Unmarshal(m.Data, into)
}

// decide counts what the query matches now, and says up to which position that holds.
func decide(nc *nats.Conn, query string) (seen int, after uint64, err error) {
	for {
		var res api.ReadResponse
		if err := call(nc, "es.campus.read.query", fmt.Sprintf(`{"query":%s,"after":%d}`, query, after), &res); err != nil {
			return 0, 0, err
		}
		seen, after = seen+len(res.Events), *res.Scanned
		if res.End {
			return seen, after, nil
		}
	}
}

// attempt sends the append until its outcome is known. lost: its condition does not hold.
func attempt(t *testing.T, nc *nats.Conn, payload string) (ok, lost bool) {
	for {
		var res api.AppendSeveralResponse
		err := call(nc, "es.campus.write.append", payload, &res)
		var failed *api.Error
		switch {
		case err == nil:
			return true, false
		case !errors.As(err, &failed), failed.Retryable(): // no answer, or one that asks to try again; the ids make that safe
		case errors.Is(failed, api.ErrCondition):
			return false, true
		default:
			t.Errorf("%s: %v", payload, failed)
			return false, false
		}
	}
}
