package client_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestDependencies keeps the server out of programs that use the client.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/quorate/quorate/client").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, dep := range deps {
		ours := strings.HasPrefix(dep, "github.com/quorate/quorate/")
		if ours && dep != "github.com/quorate/quorate/client" && dep != "github.com/quorate/quorate/api" {
			t.Errorf("client pulls in %s", dep)
		}
		for _, server := range []string{"github.com/nats-io/nats-server", "github.com/hashicorp/", "go.etcd.io/", "github.com/prometheus/"} {
			if strings.HasPrefix(dep, server) {
				t.Errorf("client pulls in %s", dep)
			}
		}
	}
	if len(deps) < 20 {
		t.Errorf("go list names only %v", deps)
	}
}

func ctxFor(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func numbered(from, n int) []api.NewEvent {
	events := make([]api.NewEvent, n)
	for i := range events {
		events[i] = client.Event("Counted", from+i)
	}
	return events
}

// TestAppend: what an append says, and which errors it has.
func TestAppend(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "append")
	events := numbered(0, 3)
	first, err := st.Append(ctx, "a", events, client.NoStream)
	if err != nil || first.Version != 2 || first.Position != 3 || first.Duplicate {
		t.Fatalf("got %+v, %v", first, err)
	}
	again, err := st.Append(ctx, "a", events, client.NoStream) // their ids were stamped: a retry by hand
	if err != nil || !again.Duplicate || again.Position != first.Position {
		t.Errorf("the same events again got %+v, %v", again, err)
	}
	_, err = st.Append(ctx, "a", numbered(3, 1), 7)
	var failure *api.Error
	if !errors.Is(err, api.ErrWrongVersion) || !errors.As(err, &failure) || failure.ActualVersion == nil || *failure.ActualVersion != 2 {
		t.Errorf("got %v, want %s with the actual version", err, api.ErrWrongVersion.Name)
	}
	if _, err = st.Append(ctx, "a", numbered(3, 1), 2, client.StreamAt("b", client.NoStream)); err != nil {
		t.Error(err)
	}
	_, err = st.Append(ctx, "a", numbered(4, 1), 3, client.StreamAt("b", client.Exists), client.NothingNew(client.Select(api.QueryItem{Types: []string{"Counted"}}), 3))
	if !errors.Is(err, api.ErrCondition) || !errors.As(err, &failure) || len(failure.Failed) != 2 {
		t.Errorf("got %v, want %s with both conditions", err, api.ErrCondition.Name)
	}
	several := []api.NewEvent{client.Event("Counted", 4), client.Event("Counted", 5)}
	several[0].Stream, several[1].Stream = "b", "c"
	res, err := st.AppendSeveral(ctx, several, client.StreamAt("a", 3))
	if err != nil || len(res.Results) != 2 || res.Position != 6 {
		t.Errorf("got %+v, %v", res, err)
	}
	if _, err := st.Append(ctx, "a b", numbered(0, 1), client.Any); !errors.Is(err, api.ErrBadName) && !errors.Is(err, nats.ErrBadSubject) {
		t.Errorf("got %v", err)
	}
}

// TestOutcomeUnknown: a write whose answer did not come is unknown, one that never left or was refused is not, and a read never is.
func TestOutcomeUnknown(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "unknown")
	nc, err := nats.Connect(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	silent, err := nc.Subscribe("silent.>", func(*nats.Msg) {}) // takes requests and answers none
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Unsubscribe()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	nobody := client.New(nc, client.WithPrefix("silent"), client.WithTryTimeout(50*time.Millisecond)).Store("s")
	soon, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = nobody.Append(soon, "a", numbered(0, 1), client.Any)
	if !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an append that nobody answered is %v", err)
	}
	if n, _, _ := silent.Pending(); n > 0 {
		t.Errorf("%d requests are pending", n)
	}
	if n, _ := silent.Delivered(); n < 2 {
		t.Errorf("it was tried %d times", n)
	}
	if _, err = nobody.Info(soon); err == nil || errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read that nobody answered is %v", err)
	}
	if _, err = st.Append(soon, "a", numbered(0, 1), client.Any); err == nil || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("an append that was never sent is %v", err)
	}
	absent := client.New(nc, client.WithPrefix("absent")).Store("s")
	for try := 0; ; try++ {
		soon, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
		_, err = absent.Append(soon, "a", numbered(0, 1), client.Any)
		cancel()
		if !errors.Is(err, client.ErrOutcomeUnknown) || try == 5 { // it is when time was up in the instant between request and answer
			break
		}
	}
	if !errors.Is(err, nats.ErrNoResponders) || errors.Is(err, client.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "absent.s.write.append.a") {
		t.Errorf("an append that reached nobody is %v", err)
	}
	closed, err := nats.Connect(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	cl := client.New(closed)
	closed.Close()
	if _, err := cl.Store(st.Name()).Info(ctx); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}

// TestGarbledAnswer: a write whose answer cannot be read may have taken effect; a read has none.
func TestGarbledAnswer(t *testing.T) {
	ctx, st := ctxFor(t), answered(t, "garbled", func(*nats.Conn, *nats.Msg) []byte { return []byte("{") }).Store("s")
	if _, err := st.Append(ctx, "a", numbered(0, 1), client.Any); !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("an append: %v", err)
	}
	if _, err := st.Info(ctx); err == nil || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("a read: %v", err)
	}
}

// TestNames: a name that NATS would deliver to nobody is refused at once, and no request is sent.
func TestNames(t *testing.T) {
	ctx := ctxFor(t)
	cl := answered(t, "names", func(_ *nats.Conn, m *nats.Msg) []byte {
		t.Errorf("a request was sent to %s", m.Subject)
		return nil
	})
	st := cl.Store("s")
	for _, name := range []string{"a..b", "a.", ".a", ".", "a b", "a.*", "a.>"} {
		if _, err := st.Append(ctx, name, numbered(0, 1), client.Any); !errors.Is(err, api.ErrBadName) {
			t.Errorf("append to %q: %v", name, err)
		}
		if _, err := st.StreamState(ctx, name); !errors.Is(err, api.ErrBadName) {
			t.Errorf("read %q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "a.b", "a b", "*"} {
		if _, err := st.Subscription(name).Delete(ctx); !errors.Is(err, api.ErrBadName) {
			t.Errorf("delete the subscription %q: %v", name, err)
		}
		if _, err := st.Subscription(name).Info(ctx); !errors.Is(err, api.ErrBadName) {
			t.Errorf("read the subscription %q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a..b", ".", "*"} {
		if _, err := cl.Store(name).Info(ctx); !errors.Is(err, api.ErrBadName) && !errors.Is(err, api.ErrBadSubject) {
			t.Errorf("read the store %q: %v", name, err)
		}
	}
}

// TestRead: pages join without a gap or a double, whatever their size, in both directions and with limits.
func TestRead(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "reading")
	const n = 57
	for i := range n {
		if _, err := st.Append(ctx, fmt.Sprintf("s-%d", i%2), numbered(i, 1), client.Any); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{0, 1, 7, n, n + 1} {
		for _, row := range []struct {
			name string
			o    client.ReadOptions
			want []uint64 // first and last position
			n    int
		}{
			{"all", client.ReadOptions{}, []uint64{1, n}, n},
			{"behind a position", client.ReadOptions{From: 40}, []uint64{41, n}, n - 40},
			{"limit", client.ReadOptions{From: 3, Limit: 20}, []uint64{4, 23}, 20},
			{"backward", client.ReadOptions{Backward: true, FromEnd: true}, []uint64{n, 1}, n},
			{"backward from a position, limit", client.ReadOptions{Backward: true, From: 30, Limit: 5}, []uint64{29, 25}, 5},
			{"local, own writes", client.ReadOptions{Consistency: api.Local, MinPosition: n}, []uint64{1, n}, n},
			{"query", client.ReadOptions{Query: &api.Query{Items: []api.QueryItem{{Types: []string{"Counted"}}}}}, []uint64{1, n}, n},
		} {
			row.o.PageSize = size
			var got []uint64
			for e, err := range st.ReadAll(ctx, row.o) {
				if err != nil {
					t.Fatalf("%s: %v", row.name, err)
				}
				if len(got) > 0 && e.Position != got[len(got)-1]+1 && e.Position != got[len(got)-1]-1 {
					t.Fatalf("%s, %d a page: position %d comes behind %d", row.name, size, e.Position, got[len(got)-1])
				}
				got = append(got, e.Position)
			}
			if len(got) != row.n || got[0] != row.want[0] || got[len(got)-1] != row.want[1] {
				t.Errorf("%s, %d a page: got %d events %v, want %d, %v", row.name, size, len(got), got, row.n, row.want)
			}
		}
	}
	read := 0
	for range st.ReadStream(ctx, "s-0", client.ReadOptions{PageSize: 2}) { // ending early is fine
		if read++; read == 5 {
			break
		}
	}
	for _, err := range st.ReadStream(ctx, "none", client.ReadOptions{}) {
		if !errors.Is(err, api.ErrStreamNotFound) {
			t.Errorf("got %v", err)
		}
	}
	for _, err := range st.ReadAll(ctx, client.ReadOptions{Follow: true, Backward: true}) {
		if !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("got %v", err)
		}
	}
	over, cancel := context.WithCancel(ctx)
	for _, err := range st.ReadAll(over, client.ReadOptions{PageSize: 1}) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			cancel = nil
			break
		}
		cancel()
	}
	if cancel != nil {
		t.Error("reading went on to the end though its context was done")
	}
}

// TestFollow: a follower begins where it is told, also at a stream that is not there yet, and gets what comes.
func TestFollow(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "following")
	if _, err := st.Append(ctx, "old", numbered(0, 5), client.Any); err != nil {
		t.Fatal(err)
	}
	follow := func(fromEnd bool, read func(client.ReadOptions) func(func(api.Event, error) bool)) <-chan string {
		out := make(chan string, 100)
		started := make(chan struct{})
		go func() { // ends with ctx, or after three events
			defer close(out)
			close(started)
			for e, err := range read(client.ReadOptions{Follow: true, FromEnd: fromEnd, Limit: 3}) {
				if err != nil {
					out <- err.Error()
					return
				}
				out <- fmt.Sprintf("%s/%d", e.Stream, e.Version)
			}
		}()
		<-started
		return out
	}
	all := func(o client.ReadOptions) func(func(api.Event, error) bool) { return st.ReadAll(ctx, o) }
	stream := func(name string) func(o client.ReadOptions) func(func(api.Event, error) bool) {
		return func(o client.ReadOptions) func(func(api.Event, error) bool) { return st.ReadStream(ctx, name, o) }
	}
	fromStart, later := follow(false, all), follow(false, stream("later"))
	want := func(name string, from <-chan string, want ...string) {
		t.Helper()
		var got []string
		for s := range from {
			got = append(got, s)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	want("from the start", fromStart, "old/0", "old/1", "old/2")
	if _, err := st.Append(ctx, "later", numbered(0, 3), client.Any); err != nil {
		t.Fatal(err)
	}
	want("a stream that came later", later, "later/0", "later/1", "later/2")
	// From the end: events are appended until the followers have seen what they want; what they see is new and dense.
	ends, streamEnds := follow(true, all), follow(true, stream("old"))
	for round := 0; len(ends) < 3 || len(streamEnds) < 3; round++ {
		if _, err := st.Append(ctx, "old", numbered(round, 1), client.Any); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []<-chan string{ends, streamEnds} {
		last := 4
		for s := range c {
			var v int
			if _, err := fmt.Sscanf(s, "old/%d", &v); err != nil || v <= 4 || last > 4 && v != last+1 {
				t.Errorf("from the end: got %s behind %d (%v)", s, last, err)
			}
			last = v
		}
	}
}

// TestTrace: what caused an append is kept with its events and goes on to what they cause.
func TestTrace(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "tracing")
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	own := client.Event("Own", 1)
	own.Metadata = []byte(`{"by":"web","correlation-id":"mine"}`)
	caused := client.WithTrace(ctx, client.Trace{Parent: parent, Correlation: "c-1"})
	if _, err := st.Append(caused, "a", []api.NewEvent{client.Event("Placed", 1), own}, client.Any); err != nil {
		t.Fatal(err)
	}
	var got []api.Event
	for e, err := range st.ReadStream(ctx, "a", client.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if tr := client.TraceOf(got[0]); tr != (client.Trace{Parent: parent, Correlation: "c-1"}) {
		t.Errorf("got %+v", tr)
	}
	if tr := client.TraceOf(got[1]); tr != (client.Trace{Parent: parent, Correlation: "mine"}) || !strings.Contains(string(got[1].Metadata), `"by":"web"`) {
		t.Errorf("got %+v, %s", tr, got[1].Metadata)
	}
	res, err := st.Append(client.CausedBy(ctx, got[0]), "b", []api.NewEvent{client.Event("Paid", 1)}, client.Any)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range st.ReadAll(ctx, client.ReadOptions{From: res.Position - 1}) {
		if tr := client.TraceOf(e); err != nil || tr != (client.Trace{Parent: parent, Correlation: "c-1", Causation: got[0].ID}) {
			t.Errorf("got %+v, %v", tr, err)
		}
	}
	// Metadata may hold what no append takes; what is done because of the event begins a conversation of its own then.
	for key, value := range map[string]string{api.HeaderCorrelation: strings.Repeat("x", 600), api.HeaderTracestate: "a\nb", api.HeaderTraceparent: "\x80"} {
		e := api.Event{ID: "e-1", Metadata: []byte(fmt.Sprintf(`{"traceparent":%q,%q:%q}`, parent, key, value))}
		want := client.Trace{Parent: parent, Correlation: "e-1", Causation: "e-1"}
		if key == api.HeaderTraceparent {
			want.Parent = ""
		}
		if got := client.TraceFrom(client.CausedBy(ctx, e)); got != want {
			t.Errorf("%s %.20q: got %+v", key, value, got)
		}
		if _, err := st.Append(client.CausedBy(ctx, e), "c", numbered(0, 1), client.Any); err != nil {
			t.Errorf("%s %.20q: %v", key, value, err)
		}
	}
}

// TestReadsAhead: while the caller works on a page, the next one is fetched; no more than that, however long it takes.
func TestReadsAhead(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "ahead")
	if _, err := st.Append(ctx, "a", numbered(0, 9), client.Any); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	before := nc.Stats().OutMsgs
	for e, err := range client.New(nc).Store(st.Name()).ReadAll(ctx, client.ReadOptions{PageSize: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Position == 1 {
			testcluster.Eventually(t, "two pages more were fetched", func() error {
				if n := nc.Stats().OutMsgs - before; n < 3 {
					return fmt.Errorf("%d requests were sent", n)
				}
				return nil
			})
		}
		if n := nc.Stats().OutMsgs - before; n > e.Position+3 {
			t.Errorf("at position %d, %d pages were asked for", e.Position, n)
		}
	}
}

// TestNothingIsLeft: loops that end early and clients whose connection is closed leave no goroutine behind.
func TestNothingIsLeft(t *testing.T) {
	ctx, st := ctxFor(t), newStore(t, "left")
	if _, err := st.Append(ctx, "a", numbered(0, 20), client.Any); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for range 10 {
		nc, err := nats.Connect(serverURL)
		if err != nil {
			t.Fatal(err)
		}
		own := client.New(nc).Store(st.Name())
		for _, o := range []client.ReadOptions{{PageSize: 2}, {PageSize: 2, Follow: true}, {Follow: true}, {PageSize: 2, Backward: true, FromEnd: true}} {
			for _, err := range own.ReadAll(ctx, o) {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
		}
		nc.Close()
	}
	testcluster.Eventually(t, "they have ended", func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}
