package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/quorate/quorate/api"
)

// parseServer returns what `quorate server` would run with.
func parseServer(t *testing.T, args ...string) (serverCmd, error) {
	t.Helper()
	var c cli
	err := parseInto(t, &c, append([]string{"server"}, args...)...)
	return c.Server, err
}

func parseInto(t *testing.T, c *cli, args ...string) error {
	t.Helper()
	parser, err := newParser(c, kong.Bind(&env{}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return err
}

// TestThreeWaysToSayIt: flags, environment and file agree.
func TestThreeWaysToSayIt(t *testing.T) {
	byFlags, err := parseServer(t, "--name", "n7", "--data", "/d", "--cluster-listen", "1.2.3.4:6", "--join", "a:1", "--join", "b:2", "--expect", "3", "--pprof", "--http", "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "q.yaml")
	text := "name: n7\ndata: /d\ncluster_listen: 1.2.3.4:6\njoin: [a:1, b:2]\nexpect: 3\npprof: true\nhttp: \"\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	byFile, err := parseServer(t, "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(byFile, byFlags) {
		t.Errorf("by file  %+v\nby flags %+v", byFile, byFlags)
	}
	for k, v := range map[string]string{"NAME": "n7", "DATA": "/d", "CLUSTER_LISTEN": "1.2.3.4:6", "JOIN": "a:1,b:2", "EXPECT": "3", "PPROF": "true", "HTTP": ""} {
		t.Setenv("QUORATE_"+k, v)
	}
	byEnv, err := parseServer(t)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(byEnv, byFlags) {
		t.Errorf("by environment %+v\nby flags       %+v", byEnv, byFlags)
	}
	// What is said nearer wins.
	if err := os.WriteFile(file, []byte("name: fromfile\nlisten: file:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := parseServer(t, "--config", file, "--expect", "5")
	if err != nil || got.Name != "n7" || got.Listen != "file:1" || got.Expect != 5 {
		t.Errorf("%v %+v", err, got)
	}
}

func TestBadFiles(t *testing.T) {
	for text, says := range map[string]string{"nmae: x": "nmae", "name: {a: b}": "section", "- a": "YAML", "name: [": "YAML", "name: n1\n---\nexpect: 3": "second document"} {
		file := filepath.Join(t.TempDir(), "q.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseServer(t, "--config", file); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestExitCodes: 2 is for usage, and what is wrong goes to standard error.
func TestExitCodes(t *testing.T) {
	for _, row := range []struct {
		args []string
		code int
	}{{[]string{"--version"}, 0}, {[]string{"--help"}, 0}, {[]string{"server", "--help"}, 0}, {nil, 2}, {[]string{"nosuch"}, 2}, {[]string{"append"}, 2},
		{[]string{"append", "orders", "-", "--ndjson", "--tag", "vip"}, 2}, {[]string{"read", "orders", "--from-end"}, 2}, {[]string{"read", "orders", "--follow", "--from-end", "--from", "3"}, 2},
		{[]string{"store", "update", "orders"}, 2}, {[]string{"dev", "--nodes", "0"}, 2}, {[]string{"server", "--data", t.TempDir(), "--listen", "foo"}, 2}, {[]string{"server", "--data", t.TempDir(), "--raft-advertise", "foo"}, 2},
		{[]string{"server", "--data", t.TempDir(), "--join", "n2"}, 2}} {
		var out, errs bytes.Buffer
		if code := run(&env{ctx: t.Context(), stdout: &out, stderr: &errs}, row.args); code != row.code {
			t.Errorf("%v: exit code %d, wanted %d\n%s%s", row.args, code, row.code, &out, &errs)
		}
		if row.code != 0 && errs.Len() == 0 {
			t.Errorf("%v: nothing on standard error", row.args)
		}
	}
}

// TestReport: the error's name and description first, as scripts look for them, and what the command knows beside it behind.
func TestReport(t *testing.T) {
	refused := fmt.Errorf("es.orders.write.append.s: %w", api.ErrBadRequest.With("unknown field")) // as package client says it
	for _, row := range []struct {
		err  error
		code int
		want string
	}{
		{refused, exitRefused, "bad_request: unknown field\n"},
		{remarkf(refused, "line %d", 8), exitRefused, "bad_request: unknown field (line 8)\n"},
		{remarkf(remarkf(refused, "line 8"), "7 events were appended before"), exitRefused, "bad_request: unknown field (line 8; 7 events were appended before)\n"},
		{fmt.Errorf("standard input: %w", context.Canceled), exitRefused, "quorate: interrupted before it was done\n"},
		{remarkf(context.Canceled, "go on with --after 7"), exitRefused, "quorate: interrupted before it was done (go on with --after 7)\n"},
		{remarkf(errors.New("no space left"), "7 events were written"), exitRefused, "quorate: no space left (7 events were written)\n"},
		{usagef("--limit -1"), exitUsage, "quorate: --limit -1\n"},
	} {
		var errs bytes.Buffer
		if code := report(&errs, row.err); code != row.code || errs.String() != row.want {
			t.Errorf("%v: exit code %d, %q; wanted %d, %q", row.err, code, &errs, row.code, row.want)
		}
	}
}

// A comma is a character like others in types, tags and names of streams. A file has lists of them.
func TestCommas(t *testing.T) {
	file := filepath.Join(t.TempDir(), "q.yaml")
	if err := os.WriteFile(file, []byte("type: [\"Moved,twice\", Left]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--type", "Moved,twice", "--type", "Left"}, {"--config", file}} {
		var c cli
		if err := parseInto(t, &c, append([]string{"read", "orders"}, args...)...); err != nil || !slices.Equal(c.Read.Type, []string{"Moved,twice", "Left"}) {
			t.Errorf("%v: %q, %v", args, c.Read.Type, err)
		}
	}
	var c cli
	err := parseInto(t, &c, "subscription", "create", "orders", "mail", "--stream-prefix", "a,b", "--tag", "c,d", "--type", "e,f")
	if got := c.Subscription.Create; err != nil || !slices.Equal(slices.Concat(got.StreamPrefix, got.Tag, got.Type), []string{"a,b", "c,d", "e,f"}) {
		t.Errorf("%v, %+v", err, got)
	}
	if err := parseInto(t, &c, "append", "orders", "s", "T", "--tag", "a,b"); err != nil || !slices.Equal(c.Append.Tag, []string{"a,b"}) {
		t.Errorf("%v, %q", err, c.Append.Tag)
	}
}

// A variable that is set and empty, as compose files have it, says nothing; the next one that means the same is asked, and the file. QUORATE_HTTP= is no HTTP.
func TestEmptyVariables(t *testing.T) {
	dir := t.TempDir()
	creds, file := filepath.Join(dir, "creds"), filepath.Join(dir, "q.yaml")
	for path, text := range map[string]string{creds: "", file: "name: n7\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"QUORATE_CONFIG", "QUORATE_CREDS", "QUORATE_TLSCA", "NATS_CA", "QUORATE_TIMEOUT", "QUORATE_JSON", "QUORATE_PREFIX", "QUORATE_EXPECT", "QUORATE_JOIN", "QUORATE_NAME", "QUORATE_HTTP"} {
		t.Setenv(name, "")
	}
	t.Setenv("NATS_CREDS", creds)
	var c cli
	if err := parseInto(t, &c, "store", "list"); err != nil || c.Store.List.Creds != creds || c.Store.List.TLSCA != "" || c.Store.List.Timeout == 0 || c.Store.List.Prefix != "es" {
		t.Errorf("%v, %+v", err, c.Store.List)
	}
	if got, err := parseServer(t, "--config", file); err != nil || got.Name != "n7" || got.Expect != 1 || got.Join != nil || got.HTTP != "" {
		t.Errorf("%v, %+v", err, got)
	}
}

// TestHealth: the node may be named as its --http has it.
func TestHealth(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	defer node.Close()
	for _, at := range []string{node.URL, node.URL + "/", strings.TrimPrefix(node.URL, "http://")} {
		var out, errs bytes.Buffer
		if code := run(&env{ctx: t.Context(), stdout: &out, stderr: &errs}, []string{"health", at}); code != exitDone || out.String() != "/readyz" {
			t.Errorf("%s: exit code %d, %s%s", at, code, &out, &errs)
		}
	}
	t.Setenv("QUORATE_HTTP", strings.TrimPrefix(node.URL, "http://")) // as in a container, whose health check has no arguments
	var out, errs bytes.Buffer
	if code := run(&env{ctx: t.Context(), stdout: &out, stderr: &errs}, []string{"health"}); code != exitDone || out.String() != "/readyz" {
		t.Errorf("by the environment: exit code %d, %s%s", code, &out, &errs)
	}
}
