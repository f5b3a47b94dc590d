package natsbus

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// A store that is dropped, or closed for another reason, leaves nothing behind at the bus, and its last changes of leadership bring nothing back.
func TestAClosedStoreIsForgotten(t *testing.T) {
	b, err := Start(Config{Server: ServerConfig{Name: "n1", ClusterName: "c", Listen: "127.0.0.1:-1", ClusterListen: "127.0.0.1:-1", Prefix: "es", Logger: slog.New(slog.DiscardHandler)}, ServerID: "n1~a"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	dir := t.TempDir()
	identity, err := raftnode.OpenIdentity(dir, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer identity.Close()
	node, err := raftnode.Open(raftnode.Config{
		Identity: identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
		Resolve: func(string) (string, error) { return "", errors.New("there is no other member") },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	m := stores.NewManager(stores.Config{Node: node, Dir: dir, OnLeadership: b.OnLeadership, OnClosing: b.OnClosing, OnFatal: func(err error) { t.Error(err) }})
	defer m.Close()
	b.backend.Store(&Backend{Stores: m})
	known := func(name string) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.posts[name] != nil
	}
	await := func(ok func() bool, otherwise string) {
		t.Helper()
		tick, deadline := time.NewTicker(lingerFor/40), time.After(10*lingerFor)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal(otherwise)
			}
		}
	}
	open := func(name string, id uint64) *stores.Store {
		t.Helper()
		s, err := m.Open(stores.Spec{Name: name, ID: id, Incarnation: 1, Members: []string{identity.ServerID()}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
			t.Fatal(err)
		}
		await(func() bool { return b.post(name) != nil }, "a serving store gets no post")
		return s
	}
	dropped, closed := open("dropped", 1), open("closed", 2)
	if err := m.Remove(dropped); err != nil {
		t.Fatal(err)
	}
	if !known("dropped") {
		t.Error("the post of a dropped store goes before other nodes know")
	}
	await(func() bool { return !known("dropped") }, "the post of a dropped store stays for ever")
	again := open("dropped", 3)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if known("closed") || known("dropped") {
		t.Error("the posts of closed stores stay")
	}
	for _, s := range []*stores.Store{dropped, closed, again} { // told late
		b.OnLeadership(s, raftnode.Leadership{Role: raftnode.Follower})
		if known(s.Name()) {
			t.Errorf("store %s is back", s.Name())
		}
	}
}
