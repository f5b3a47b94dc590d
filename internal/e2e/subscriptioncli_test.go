package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestSubscriptionCommands goes through quorate subscription as a person and as a script would.
func TestSubscriptionCommands(t *testing.T) {
	c := testcluster.Start(t, 1)
	quorate(t, c, "", "store", "create", "orders")
	quorate(t, c, "", "append", "orders", "o-1", "Placed", "1")
	quorate(t, c, "", "append", "orders", "o-2", "Paid", "2")
	quorate(t, c, "", "append", "orders", "o-3", "Placed", "3")
	for _, r := range []struct {
		args           []string
		code           int
		stdout, stderr string // must be contained
	}{
		{args: []string{"create", "orders", "mail", "--type", "Placed", "--max-attempts", "2", "--description", "letters"}, stdout: "subscription mail is created; it begins behind position 0, and 3 follow"},
		{args: []string{"create", "orders", "mail", "--type", "Placed", "--max-attempts", "2", "--description", "letters"}, stdout: "was there already"},
		{args: []string{"create", "orders", "mail"}, code: 1, stderr: "subscription_exists:"},
		{args: []string{"create", "orders", "x", "--type", "T", "--query", "{}"}, code: 2, stderr: "--query"},
		{args: []string{"create", "orders", "x", "--query", "{]"}, code: 2, stderr: "--query"},
		{args: []string{"create", "orders", "x", "--query", `{"items":[]}`}, code: 1, stderr: "bad_request:"},
		{args: []string{"list", "orders"}, stdout: "letters"},
		{args: []string{"fetch", "orders", "mail", "--limit", "1", "--json"}, stdout: `"position":1,`},
		{args: []string{"info", "orders", "mail"}, stdout: "in flight        1 of 1000"},
		{args: []string{"nack", "orders", "mail", "1"}, stdout: "1 not processed; the cursor is at 0"},
		{args: []string{"fetch", "orders", "mail", "--limit", "1"}, stdout: "attempt 2:"},
		{args: []string{"nack", "orders", "mail", "1", "--reason", "no paper"}, stdout: "1 not processed; the cursor is at 2"},
		{args: []string{"parked", "orders", "mail"}, stdout: "no paper"},
		{args: []string{"replay", "orders", "mail"}, stdout: "1 are delivered again"},
		{args: []string{"fetch", "orders", "mail", "--ack"}, stdout: "o-3@0  Placed  3"},
		{args: []string{"fetch", "orders", "mail", "--wait", "10ms"}},
		{args: []string{"fetch", "orders", "mail", "--wait", "2m"}, code: 2, stderr: "--wait"},
		{args: []string{"ack", "orders", "mail"}, code: 2, stderr: "--up-to"},
		{args: []string{"ack", "orders", "mail", "1", "3"}, stdout: "0 acknowledged; the cursor is at 3"},
		{args: []string{"info", "orders", "mail"}, stdout: "acknowledged     2"},
		{args: []string{"info", "orders", "none"}, code: 1, stderr: "subscription_not_found:"},
		{args: []string{"info", "nosuch", "mail"}, code: 1, stderr: "store_not_found:"},
		{args: []string{"delete", "orders", "mail"}, stdout: "subscription mail is deleted"},
		{args: []string{"delete", "orders", "mail"}, stdout: "was not there"},
	} {
		stdout, stderr, code := quorate(t, c, "", append([]string{"subscription"}, r.args...)...)
		if code != r.code || !strings.Contains(stdout, r.stdout) || !strings.Contains(stderr, r.stderr) {
			t.Errorf("quorate subscription %s: exit code %d, wanted %d\nstdout %q\n  wanted %q\nstderr %q\n  wanted %q", strings.Join(r.args, " "), code, r.code, stdout, r.stdout, stderr, r.stderr)
		}
	}
	stdout, _, _ := quorate(t, c, "", "subscription", "create", "orders", "all", "--json")
	var res api.SubscriptionCreateResponse
	if err := json.Unmarshal([]byte(stdout), &res); err != nil || !res.Created || res.Lag != 3 || res.Type != api.TypeSubscriptionCreate {
		t.Errorf("create --json: %v, %s", err, stdout)
	}
}

// TestSubscriptionUnknown: the leader dies after it has deleted a subscription, nobody can tell any more, and somebody creates one of that name. A second try would delete that one, so
// it is not made, and the command says that the outcome is unknown, as of any write that was not answered.
func TestSubscriptionUnknown(t *testing.T) {
	c := testcluster.Start(t, 1)
	quorate(t, c, "", "store", "create", "orders")
	quorate(t, c, "", "subscription", "create", "orders", "mail")
	nc := c.Connect()
	pass := func(m *nats.Msg) *nats.Msg {
		res, err := nc.RequestMsg(&nats.Msg{Subject: "es." + strings.TrimPrefix(m.Subject, "lossy."), Data: m.Data, Header: m.Header}, requestTimeout)
		if err != nil {
			t.Error(err)
			return nil
		}
		return &nats.Msg{Data: res.Data, Header: res.Header}
	}
	unknown, err := api.Marshal(api.Reply{Error: api.ErrOutcomeUnknown})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards sent
	sent := map[string]int{}
	acked := make(chan struct{})
	ackedOnce := sync.OnceFunc(func() { close(acked) })
	for subject, answer := range map[string]func(m *nats.Msg){
		"lossy.orders.read.>": func(m *nats.Msg) { m.RespondMsg(pass(m)) },
		"lossy.orders.write.>": func(m *nats.Msg) {
			mu.Lock()
			sent[m.Subject]++
			mu.Unlock()
			switch m.Subject {
			case "lossy.orders.write.subscription.ack.mail":
				ackedOnce() // and no answer
				return
			case "lossy.orders.write.subscription.delete.mail":
				pass(m)
				pass(&nats.Msg{Subject: "lossy.orders.write.subscription.create.mail", Data: []byte(`{"description":"of somebody else"}`)})
			}
			m.Respond(unknown)
		},
	} {
		if _, err := nc.Subscribe(subject, answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"delete", "replay"} {
		stdout, stderr, code := quorate(t, c, "", "subscription", verb, "orders", "mail", "--prefix", "lossy")
		mu.Lock()
		n := sent["lossy.orders.write.subscription."+verb+".mail"]
		mu.Unlock()
		if n != 1 || code != 1 || !strings.HasPrefix(stderr, "outcome_unknown: ") {
			t.Errorf("%s: sent %d times, exit code %d, %s%s", verb, n, code, stdout, stderr)
		}
	}
	if list, _, _ := quorate(t, c, "", "subscription", "list", "orders"); !strings.Contains(list, "of somebody else") {
		t.Errorf("there are\n%s", list)
	}
	var errs bytes.Buffer
	cmd := exec.Command(testcluster.Binary(t), "subscription", "ack", "orders", "mail", "1", "--prefix", "lossy")
	cmd.Env, cmd.Stderr = append(os.Environ(), "NATS_URL="+c.Nodes[0].URL()), &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-acked:
	case <-time.After(testcluster.Patience):
		t.Error("no ack was sent")
	}
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.HasPrefix(errs.String(), "outcome_unknown: ") {
		t.Errorf("ack: exit code %d, %s", code, &errs)
	}
}
