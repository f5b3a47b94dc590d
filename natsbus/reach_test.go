package natsbus

import (
	"log/slog"
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
