package natsbus

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores"
)

// lone is a bus of a node that leads all of its stores: open opens one, and returns when it serves and has its post.
func lone(t *testing.T) (b *Bus, m *stores.Manager, open func(name string, id uint64) *stores.Store) {
	t.Helper()
	b = alone(t)
	dir := t.TempDir()
	identity, err := raftnode.OpenIdentity(dir, "n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { identity.Close() })
	b.cfg.ServerID = identity.ServerID()
	node, err := raftnode.Open(raftnode.Config{
		Identity: identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
		Resolve: func(string) (string, error) { return "", errors.New("there is no other member") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	m = stores.NewManager(stores.Config{Node: node, Dir: dir, OnLeadership: b.OnLeadership, OnClosing: b.OnClosing, OnFatal: func(err error) { t.Error(err) }})
	t.Cleanup(func() { m.Close(); m.CloseConfig() })
	b.backend.Store(&Backend{Stores: m})
	return b, m, func(name string, id uint64) *stores.Store {
		t.Helper()
		s, err := m.Open(stores.Spec{Name: name, ID: id, Incarnation: 1, Members: []string{identity.ServerID()}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { p := b.post(name); return p != nil && p.serves() }, "a serving store gets no post")
		return s
	}
}

func await(t *testing.T, ok func() bool, otherwise string) {
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

// A store that is dropped, or closed for another reason, leaves nothing behind at the bus, and its last changes of leadership bring nothing back.
func TestAClosedStoreIsForgotten(t *testing.T) {
	b, m, open := lone(t)
	known := func(name string) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.posts[name] != nil
	}
	dropped, closed := open("dropped", 1), open("closed", 2)
	if err := m.Remove(dropped); err != nil {
		t.Fatal(err)
	}
	if !known("dropped") {
		t.Error("the post of a dropped store goes before other nodes know")
	}
	await(t, func() bool { return !known("dropped") }, "the post of a dropped store stays for ever")
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

// A request came when no post was in reach, and one is while it is looked into: of a store that was created a moment ago, or of a node that stands in. It is answered.
func TestAPostThatAppearsMeanwhile(t *testing.T) {
	b, _, open := lone(t)
	open(api.ConfigStore, 1)
	await(t, func() bool { return b.reaches(api.ConfigStore) }, "the post is not in reach")
	m := &answered{}
	b.answerUnclaimed(&request{bus: b, message: m, subject: api.Subject{Store: api.ConfigStore, Class: api.ClassWrite, Verb: "put", Name: "orders"}})
	if m.failed == nil || m.failed.Name != api.ErrOutcomeUnknown.Name {
		t.Errorf("answered %q", m.data)
	}
}

// A fetch gets no event once nobody listens to its reply subject, as when its process has ended: the next consumer gets it, and at its first attempt.
func TestFetchOfWhoHasGone(t *testing.T) {
	b, _, open := lone(t)
	open("orders", 1)
	nc, err := nats.Connect("", nats.InProcessServer(b.embedded.server))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	request := func(verb, payload string) string {
		t.Helper()
		m, err := nc.Request(b.subjects.Write("orders", verb, "w"), []byte(payload), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return string(m.Data)
	}
	request("subscription.create", ``)
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	if err == nil {
		err = nc.PublishRequest(b.subjects.Write("orders", "subscription.fetch", "w"), inbox.Subject, []byte(`{"wait_ms":60000}`))
	}
	if err != nil {
		t.Fatal(err)
	}
	request("subscription.ack", `{"positions":[7]}`) // comes to the subscription behind the fetch, which therefore waits
	if m, err := inbox.NextMsg(time.Millisecond); err == nil {
		t.Fatalf("the fetch does not wait: %s", m.Data)
	}
	if err := inbox.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	request("append", `{"events":[{"type":"T"}]}`)
	if got := request("subscription.fetch", `{"wait_ms":5000}`); !strings.Contains(got, `"attempt":1`) {
		t.Errorf("the next consumer gets %s", got)
	}
}
