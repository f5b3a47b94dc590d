package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestContexts: who named or selected a context is connected as it says, or not at all. Nobody listens on ports 1 and 2.
func TestContexts(t *testing.T) {
	for _, row := range []struct {
		name                     string
		server, context, selects string
		want                     []string // in the error
	}{
		{"selected", "", "", "production", []string{"context production:"}},
		{"selected, and not there", "", "", "nosuch", []string{"nosuch"}},
		{"selected, with a file that is not there", "", "", "creds", []string{"creds", "no such file"}},
		{"named", "", "staging", "production", []string{"context staging:"}},
		{"named, and not there", "", "nosuch", "production", []string{"nosuch"}},
		{"a server is said", "nats://127.0.0.1:2", "", "production", []string{"nats://127.0.0.1:2:"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("XDG_CONFIG_HOME", dir)
			contexts := filepath.Join(dir, "nats", "context")
			if err := os.MkdirAll(contexts, 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range map[string]string{
				filepath.Join(dir, "nats", "context.txt"):  row.selects + "\n",
				filepath.Join(contexts, "production.json"): `{"url":"nats://127.0.0.1:1"}`,
				filepath.Join(contexts, "staging.json"):    `{"url":"nats://127.0.0.1:2"}`,
				filepath.Join(contexts, "creds.json"):      `{"url":"nats://127.0.0.1:1","creds":"/nonexistent/creds"}`,
			} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f := &clientFlags{Server: row.server, Context: row.context}
			_, done, err := f.connect(&env{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard})
			if err == nil {
				done()
				t.Fatal("it is connected to a cluster that nobody meant")
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want it to say %s", err, want)
				}
			}
		})
	}
}

// TestNoContext: who selected none means the node on this machine.
func TestNoContext(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	if name, err := selectedContext(); name != "" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
}

// TestPatiently: the limit is for what is waited for, not for what is done with it.
func TestPatiently(t *testing.T) {
	const limit = 15 * time.Second
	read := func(pause time.Duration, items int) func(ctx context.Context, answered func()) iter.Seq2[int, error] {
		return func(ctx context.Context, answered func()) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				for i := range items {
					select {
					case <-time.After(pause):
					case <-ctx.Done():
						yield(0, ctx.Err())
						return
					}
					if !yield(i, nil) {
						return
					}
				}
			}
		}
	}
	t.Run("a slow reader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			for _, err := range patiently(&env{ctx: t.Context()}, limit, read(limit-1, 5)) {
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour) // of the bubble's clock
				n++
			}
			if n != 5 {
				t.Errorf("%d items", n)
			}
		})
	})
	t.Run("answers without items", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			empty := func(ctx context.Context, answered func()) iter.Seq2[int, error] {
				return func(yield func(int, error) bool) {
					for range 5 {
						time.Sleep(limit - 1)
						answered()
					}
					yield(1, ctx.Err())
					answered() // of what was fetched ahead; nobody waits for it
				}
			}
			for _, err := range patiently(&env{ctx: t.Context()}, limit, empty) {
				if err != nil {
					t.Error(err)
				}
				n++
			}
			if n != 1 {
				t.Errorf("%d items", n)
			}
		})
	})
	t.Run("nothing comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			for _, err := range patiently(&env{ctx: t.Context()}, limit, read(time.Hour, 1)) {
				if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no answer within 15s") {
					t.Error(err)
				}
			}
			if took := time.Since(began); took != limit {
				t.Errorf("it took %v", took)
			}
		})
	})
	t.Run("interrupted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for _, err := range patiently(&env{ctx: ctx}, limit, read(time.Hour, 1)) {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	})
}
