package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// quorate runs the command line and returns what it printed and its exit code.
func quorate(t *testing.T, c *testcluster.Cluster, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, testcluster.Binary(t), args...)
	cmd.Env = append(os.Environ(), "NATS_URL="+c.Nodes[0].URL())
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCommandLine goes through the subcommands as a person and as a script would: what they print, where, and with which exit code.
func TestCommandLine(t *testing.T) {
	c := testcluster.Start(t, 1)
	exported := filepath.Join(t.TempDir(), "orders.ndjson")
	type row struct {
		args   []string
		stdin  string
		code   int
		stdout string // must be contained
		stderr string
	}
	for _, r := range []row{
		{args: []string{"store", "create", "orders", "--description", "tea"}, stdout: "store orders is created, led by n1"},
		{args: []string{"store", "create", "orders"}, code: 1, stderr: "wrong_expected_version:"},
		{args: []string{"store", "create", "a.b"}, code: 1, stderr: "bad_name:"},
		{args: []string{"store", "list"}, stdout: "tea"},
		{args: []string{"store", "update", "orders", "--description", "coffee"}, stdout: "version 1"},
		{args: []string{"store", "update", "orders", "--description", "coffee"}, stdout: "version 1; it was so already"},
		{args: []string{"store", "update", "orders", "--description", "coffee", "--expected-version", "0"}, code: 1, stderr: "wrong_expected_version:"},
		{args: []string{"store", "update", "nosuch", "--description", "x"}, code: 1, stderr: "config_not_found:"},
		{args: []string{"store", "update", "orders"}, code: 2, stderr: "nothing is to be changed"},
		{args: []string{"store", "update", "orders", "--max-streams", "100", "--max-event-bytes", "1000"}, stdout: "version 2"},
		{args: []string{"store", "update", "orders", "--max-event-bytes", "0", "--expected-version", "2"}, stdout: "version 3"},
		{args: []string{"store", "info", "orders"}, stdout: "streams      0 of 100"},
		{args: []string{"store", "list"}, stdout: "coffee"},
		{args: []string{"store", "create", "small", "--max-append-events", "10001"}, code: 1, stderr: "options.limits.max_append_events"},
		{args: []string{"append", "orders", "order-1", "Placed", `{"total":12}`, "--tag", "vip", "--expected-version", "-1"}, stdout: "orders/order-1 version 0, position 1"},
		{args: []string{"append", "orders", "order-1", "Placed", "--expected-version", "-1"}, code: 1, stderr: "wrong_expected_version:"},
		{args: []string{"append", "orders", "order-1", "Note", "-"}, stdin: "no JSON\n", stdout: "version 1"},
		{args: []string{"append", "orders", "order-1", "Paid", "--id", "p1"}, stdout: "version 2"},
		{args: []string{"append", "orders", "order-1", "Paid", "--id", "p1"}, stdout: "it was there already"},
		{args: []string{"append", "orders", "order-1", "Paid", "--metadata", "{"}, code: 2, stderr: "--metadata"},
		{args: []string{"append", "orders", "order-1"}, code: 2, stderr: "TYPE is missing"},
		{args: []string{"append", "nosuch", "s", "T"}, code: 1, stderr: "store_not_found:"},
		{args: []string{"append", "orders", "-", "--ndjson"}, stdin: `{"stream":"a","type":"A"}` + "\n" + `{"stream":"b","type":"B","data":1,"id":"b1"}` + "\n\n", stdout: "2 events in 2 streams"},
		{args: []string{"append", "orders", "-", "--ndjson"}, stdin: `{"stream":"b","type":"B","data":1,"id":"b1"}`, stdout: "1 of them were there already"},
		{args: []string{"append", "orders", "-", "--ndjson"}, stdin: `{"stream":"a","type":"A"}` + "\n" + `{"stream":"a","typ":"A"}`, code: 1, stderr: "(line 2; 0 events were appended before)"},
		{args: []string{"import", "orders"}, stdin: `{"stream":"a","type":"A","id":"a1"}` + "\n\n" + `{"stream":"a","typ":"A"}`, code: 1, stderr: "(line 3; 0 events are in the store; import again to go on)"},
		{args: []string{"export", "nosuch", exported}, code: 1, stderr: "store_not_found:"},
		{args: []string{"export", "orders", exported}, stdout: "5 events of orders written"},
		{args: []string{"read", "orders", "order-1"}, stdout: `order-1@0  Placed  {"total":12}`},
		{args: []string{"read", "orders", "order-1"}, stdout: "base64"},
		{args: []string{"read", "orders", "--follow", "--limit", "1"}, stdout: "order-1@0  Placed"},
		{args: []string{"read", "orders", "order-1", "--follow", "--limit", "1"}, stdout: "order-1@0  Placed"},
		{args: []string{"read", "orders", "--consistency", "local", "--limit", "1"}, stdout: "order-1@0  Placed"},
		{args: []string{"read", "orders", "--tag", "vip", "--json"}, stdout: `"type":"Placed"`},
		{args: []string{"read", "orders", "--backward", "--limit", "1"}, stdout: "b@0  B  1"},
		{args: []string{"read", "orders", "nosuch"}, code: 1, stderr: "stream_not_found:"},
		{args: []string{"read", "orders", "--follow", "--backward"}, code: 2, stderr: "--follow and --backward"},
		{args: []string{"store", "info", "orders"}, stdout: "events       5"},
		{args: []string{"read", "orders", "--type-prefix", "Pla"}, stdout: "order-1@0  Placed"},
		{args: []string{"read", "orders", "--stream-prefix", "b", "--type", "B"}, stdout: "b@0  B  1"},
		{args: []string{"read", "orders", "order-1", "--type-prefix", "P"}, code: 2, stderr: "leave STREAM out"},
		{args: []string{"stream", "list", "orders", "--begin", "order"}, stdout: "order-1  3 events, version 2"},
		{args: []string{"append", "orders", "c", "C", "--condition", `{"stream":"order-1","version":7}`, "--condition", `{"query":{"items":[{"types":["Placed"],"tags":["vip"]}]},"after":0}`}, code: 1, stderr: "condition_failed:"},
		{args: []string{"append", "orders", "c", "C", "--condition", `{"stram":"order-1"}`}, code: 2, stderr: "stram"},
		{args: []string{"snapshot", "put", "orders", "order-1", "1", `{"total":12}`, "--type", "Order/1"}, stdout: "snapshot of orders/order-1 at version 1 is kept"},
		{args: []string{"snapshot", "put", "orders", "order-1", "2", "-", "--keep", "1"}, stdin: "no JSON", stdout: "older ones dropped: 1"},
		{args: []string{"snapshot", "put", "orders", "order-1", "9", "1"}, code: 1, stderr: "wrong_expected_version:"},
		{args: []string{"snapshot", "get", "orders", "order-1"}, stdout: "no JSON"},
		{args: []string{"snapshot", "get", "orders", "order-1", "--at", "1"}, code: 1, stderr: "snapshot_not_found:"},
		{args: []string{"snapshot", "list", "orders", "order-1"}, stdout: "VERSION  TYPE  TIME"},
		{args: []string{"snapshot", "delete", "orders", "order-1"}, code: 2, stderr: "--up-to N"},
		{args: []string{"snapshot", "delete", "orders", "order-1", "--all"}, stdout: "snapshots dropped: 1"},
		{args: []string{"cluster", "info"}, stdout: "n1"},
		{args: []string{"stream", "metadata", "orders", "order-1", "--max-count", "2", "--max-age", "48h", "--custom", `{"a":1}`}, stdout: "first version  1"},
		{args: []string{"stream", "metadata", "orders", "order-1", "--max-age", "1500ms"}, code: 2, stderr: "whole seconds"},
		{args: []string{"stream", "info", "orders", "order-1"}, stdout: "48h0m0s"},
		{args: []string{"stream", "metadata", "orders", "order-1"}, stdout: "first version  1"},
		{args: []string{"stream", "truncate", "orders", "order-1", "1"}, stdout: "it was so already"},
		{args: []string{"append", "orders", "gone", "A"}, stdout: "version 0"},
		{args: []string{"stream", "delete", "orders", "gone", "--expected-version", "1"}, code: 1, stderr: "wrong_expected_version:"},
		{args: []string{"stream", "delete", "orders", "gone", "--expected-version", "0"}, stdout: "an append brings it back"},
		{args: []string{"stream", "delete", "orders", "gone", "--hard"}, stdout: "deleted for ever"},
		{args: []string{"append", "orders", "gone", "A"}, code: 1, stderr: "stream_deleted:"},
		{args: []string{"stream", "info", "orders", "nosuch"}, code: 1, stderr: "stream_not_found:"},
		{args: []string{"cluster", "leaders"}, stdout: "orders"},
		{args: []string{"cluster", "transfer", "orders", "--to", "n7"}, code: 1, stderr: "node_not_found:"},
		{args: []string{"health", "http://" + c.Nodes[0].HTTP}, stdout: `"ready":true`},
		{args: []string{"health", c.Nodes[0].HTTP}, stdout: `"ready":true`},
		{args: []string{"health", "http://127.0.0.1:1"}, code: 1, stderr: "refused"},
		{args: []string{"store", "create", "small", "--max-append-events", "3"}, stdout: "created"},
		{args: []string{"append", "small", "s", "--ndjson", "--expected-version", "-1"}, stdin: strings.Repeat(`{"type":"A"}`+"\n", 8), stdout: "8 events in 1 streams"},
		{args: []string{"append", "small", "s", "--ndjson", "--expected-version", "-1"}, stdin: strings.Repeat(`{"type":"A"}`+"\n", 8), code: 1, stderr: "lines 1 to 8; 0 events"},
		{args: []string{"store", "delete", "orders", "--expected-version", "0"}, code: 1, stderr: "wrong_expected_version:"},
		{args: []string{"store", "delete", "orders"}, stdout: "deleted"},
		{args: []string{"store", "info", "orders"}, code: 1, stderr: "store_not_found:"},
		{args: []string{"store", "list", "--server", "nats://127.0.0.1:1"}, code: 1, stderr: "is a node up there?"},
		{args: []string{"--help"}, stdout: "quorate dev"},
		{args: []string{"stroe"}, code: 2, stderr: "did you mean"},
		{args: []string{"server", "--expect", "12"}, code: 2, stderr: "--expect 12"},
		{args: []string{"server", "--name", "a b"}, code: 2, stderr: "--name"},
	} {
		stdout, stderr, code := quorate(t, c, r.stdin, r.args...)
		if code != r.code || !strings.Contains(stdout, r.stdout) || !strings.Contains(stderr, r.stderr) {
			t.Errorf("quorate %s: exit code %d, wanted %d\nstdout %q\n  wanted %q\nstderr %q\n  wanted %q", strings.Join(r.args, " "), code, r.code, stdout, r.stdout, stderr, r.stderr)
		}
		if r.code == 0 && stderr != "" {
			t.Errorf("quorate %s: it worked, but standard error says %q", strings.Join(r.args, " "), stderr)
		}
	}
}

// TestFromEnd: read --follow --from-end prints what comes, and nothing of what is there.
func TestFromEnd(t *testing.T) {
	c := testcluster.Start(t, 1)
	quorate(t, c, "", "store", "create", "orders")
	quorate(t, c, "", "append", "orders", "s", "Before")
	came := make(chan string)
	go func() {
		out, _, _ := quorate(t, c, "", "read", "orders", "--follow", "--from-end", "--limit", "1")
		came <- out
	}()
	st := c.Client().Store("orders")
	for { // until one comes after the reader has begun
		if _, err := st.Append(t.Context(), "s", []api.NewEvent{{Type: "After"}}, client.Any); err != nil {
			t.Fatal(err)
		}
		select {
		case out := <-came:
			if !strings.Contains(out, "After") || strings.Count(out, "\n") != 1 {
				t.Errorf("got %q", out)
			}
			return
		default:
		}
	}
}

// TestNobodyAnswers: every command that asks a cluster gives up within --timeout, also those that go on for as long as there is something to do.
func TestNobodyAnswers(t *testing.T) {
	c := testcluster.Start(t, 1)
	backup := filepath.Join(t.TempDir(), "orders.backup")
	quorate(t, c, "", "store", "create", "orders")
	if _, stderr, code := quorate(t, c, "", "backup", "orders", backup); code != 0 {
		t.Fatal(stderr)
	}
	for _, args := range [][]string{
		{"read", "orders"}, {"read", "orders", "--consistency", "local"}, {"read", "orders", "--consistency", "local", "--follow"}, {"read", "orders", "--follow"}, {"stream", "list", "orders"},
		{"export", "orders"}, {"import", "orders"}, {"append", "orders", "s", "--ndjson"}, {"backup", "orders", "-"}, {"restore", "copy", backup}, {"subscription", "info", "orders", "mail"},
	} {
		_, stderr, code := quorate(t, c, `{"stream":"s","type":"T"}`, append(args, "--prefix", "nosuch", "--timeout", "50ms")...)
		if code != 1 || !strings.Contains(stderr, "is this a Quorate cluster") {
			t.Errorf("%v: exit code %d, %s", args, code, stderr)
		}
	}
}

// TestInterruptedImport: a signal ends a command that reads its standard input; what is said then tells how to go on.
func TestInterruptedImport(t *testing.T) {
	c := testcluster.Start(t, 1)
	quorate(t, c, "", "store", "create", "orders")
	for _, args := range [][]string{{"import", "orders"}, {"append", "orders", "-", "--ndjson"}} {
		ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, testcluster.Binary(t), args...)
		cmd.Env = append(os.Environ(), "NATS_URL="+c.Nodes[0].URL())
		var errs bytes.Buffer
		cmd.Stderr = &errs
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// More than a pipe holds: when all is written, the command is reading.
		if _, err := io.WriteString(in, strings.Repeat(`{"stream":"s","type":"T"}`+"\n", 20_000)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs.String(), "events") {
			t.Errorf("%v: exit code %d, %s", args, code, &errs)
		}
	}
}

// TestMachineOutput: --json prints the API's own objects.
func TestMachineOutput(t *testing.T) {
	c := testcluster.Start(t, 1)
	quorate(t, c, "", "store", "create", "orders")
	stdout, _, _ := quorate(t, c, "", "append", "orders", "s", "T", "1", "--json")
	var res api.AppendResponse
	if err := json.Unmarshal([]byte(stdout), &res); err != nil || res.Position != 1 || res.Type != api.TypeAppend {
		t.Errorf("append --json: %v, %s", err, stdout)
	}
	stdout, _, _ = quorate(t, c, "", "cluster", "leaders", "--json")
	var leaders api.LeadersResponse
	if err := json.Unmarshal([]byte(stdout), &leaders); err != nil || len(leaders.Stores) != 2 || leaders.Nodes[0].Leads != 2 {
		t.Errorf("cluster leaders --json: %v, %s", err, stdout)
	}
}

// TestAppendUnknown: who cannot know whether his event was written is told how to find out, and that writes it once.
func TestAppendUnknown(t *testing.T) {
	c := testcluster.Start(t, 1)
	quorate(t, c, "", "store", "create", "orders")
	nc := c.Connect()
	unknown, err := api.Marshal(api.Reply{Error: api.ErrOutcomeUnknown})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("lossy.orders.write.>", func(m *nats.Msg) { // carries it out, and the answer is lost
		if _, err := nc.Request("es."+strings.TrimPrefix(m.Subject, "lossy."), m.Data, requestTimeout); err != nil {
			t.Error(err)
		}
		m.Respond(unknown)
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := quorate(t, c, "", "append", "orders", "s", "T", "1", "--prefix", "lossy", "--timeout", "300ms")
	_, hint, _ := strings.Cut(stderr, "run it again with ")
	flag, _, _ := strings.Cut(hint, ",")
	if code != 1 || !strings.HasPrefix(stderr, "outcome_unknown: ") || !strings.HasPrefix(flag, "--id ") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	again := append([]string{"append", "orders", "s", "T", "1"}, strings.Fields(flag)...)
	if stdout, stderr, _ := quorate(t, c, "", again...); !strings.Contains(stdout, "version 0, position 1 (it was there already)") {
		t.Errorf("%q: %s%s", again, stdout, stderr)
	}
	lines := `{"type":"T","data":2}` + "\n" + `{"type":"T","id":"known","data":3}` + "\n"
	if _, stderr, code := quorate(t, c, lines, "append", "orders", "s", "--ndjson", "--prefix", "lossy", "--timeout", "300ms"); code != 1 || !strings.Contains(stderr, "1 of these lines have no id") || !strings.Contains(stderr, "lines 1 to 2") {
		t.Errorf("lines: exit code %d: %s", code, stderr)
	}
}
