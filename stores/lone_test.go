package stores

import (
	"errors"
	"testing"
	"time"

	"github.com/quorate/quorate/raftnode"
)

// openLone opens a store of one replica, which serves when it returns. cfg says what the manager needs beside a node and a folder.
func openLone(t *testing.T, cfg Config) (*Manager, *Store) {
	t.Helper()
	return openLoneWith(t, cfg, func(*Manager) {})
}

// openLoneWith is openLone with a manager that is changed before it opens the store.
func openLoneWith(t *testing.T, cfg Config, change func(*Manager)) (*Manager, *Store) {
	t.Helper()
	dir := t.TempDir()
	identity, err := raftnode.OpenIdentity(dir, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { identity.Close() })
	node, err := raftnode.Open(raftnode.Config{
		Identity: identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
		Resolve: func(string) (string, error) { return "", errors.New("there is no other member") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	cfg.Node, cfg.Dir, cfg.OnFatal = node, dir, func(err error) { t.Error(err) }
	m := NewManager(cfg)
	change(m)
	t.Cleanup(func() { m.Close() })
	s, err := m.Open(Spec{Name: "orders", ID: 1, Incarnation: 1, Members: []string{identity.ServerID()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
		t.Fatal(err)
	}
	return m, s
}
