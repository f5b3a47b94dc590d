package natsbus

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// The server says something when a route is lost: that is what makes a node look often.
func TestTheServerSaysThatARouteIsLost(t *testing.T) {
	start := func(name string, routes ...string) *embedded {
		e, err := startServer(ServerConfig{
			Name: name, ClusterName: "c", Listen: "127.0.0.1:-1", ClusterListen: "127.0.0.1:-1", Routes: routes, Prefix: "es",
			Logger: slog.New(slog.DiscardHandler), inboxes: []string{"_INBOX."},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.shutdown)
		return e
	}
	deadline := time.After(20 * time.Second)
	await := func(e *embedded, routes int) { // every change of the routes is said, before it is seen
		t.Helper()
		tick := time.NewTicker(reachEvery)
		defer tick.Stop()
		for said := false; !said || e.server.NumRoutes() != routes; {
			select {
			case <-e.said:
				said = true
			case <-tick.C:
			case <-deadline:
				t.Fatalf("said: %v, routes: %d, want %d", said, e.server.NumRoutes(), routes)
			}
		}
	}
	a := start("a")
	b := start("b", a.server.ClusterAddr().String())
	await(a, 1)
	for a.server.NumRoutes() != 1 || len(a.said) > 0 { // what belongs to the start
		select {
		case <-a.said:
		case <-deadline:
			t.Fatal("the servers do not settle")
		}
	}
	b.shutdown()
	await(a, 0)
}

// A port that is in use is said at once, and which it is.
func TestAPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const free = "127.0.0.1:-1"
	for _, row := range []struct{ listen, cluster string }{{taken.Addr().String(), free}, {free, taken.Addr().String()}} {
		began := time.Now()
		e, err := startServer(ServerConfig{
			Name: "a", ClusterName: "c", Listen: row.listen, ClusterListen: row.cluster, Prefix: "es", Logger: slog.New(slog.DiscardHandler), inboxes: []string{"_INBOX."},
		})
		if err == nil {
			e.shutdown()
		}
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "in use") || took > startTimeout/2 {
			t.Errorf("%+v: %v after %v", row, err, took)
		}
	}
}
