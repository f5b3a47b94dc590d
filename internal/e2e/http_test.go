package e2e

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quorate/quorate/internal/testcluster"
)

// TestHTTP looks at what a node serves to people, supervisors and Prometheus.
func TestHTTP(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	c.CreateStore(cl, "orders")
	get := func(path string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Nodes[0].HTTP+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for path, want := range map[string][]string{
		"/":        {"Quorate", "orders", "n1", "n2", "n3", "ready"},
		"/healthz": {"ok"},
		"/readyz":  {`"ready":true`},
		"/metrics": {"quorate_ready 1", `quorate_store_has_leader{store="orders"} 1`, `quorate_member_up{member="n2"} 1`, `quorate_log_total{what="syncs"}`, `quorate_transport_total{what="writes"}`, "go_goroutines"},
	} {
		code, body := get(path)
		for _, w := range want {
			if code != http.StatusOK || !strings.Contains(body, w) {
				t.Errorf("%s: %d, without %q:\n%.2000s", path, code, w, body)
			}
		}
	}
	if code, _ := get("/nosuch"); code != http.StatusNotFound {
		t.Errorf("/nosuch: %d", code)
	}
	if code, _ := get("/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("/debug/pprof/ without --pprof: %d", code)
	}
	c.Nodes[1].Kill()
	c.Nodes[2].Kill()
	testcluster.Eventually(t, "the node says that it is not ready", func() error {
		if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "config store has no leader") {
			return io.ErrUnexpectedEOF
		}
		return nil
	})
}
