package e2e

import (
	"encoding/json"
	"strings"
	"testing"

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
