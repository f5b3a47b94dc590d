package natsbus

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// answered is a message that keeps what it is answered.
type answered struct {
	data   []byte
	failed *api.Error
}

func (*answered) Subject() string     { return "es.orders.write.append.a" }
func (*answered) Reply() string       { return "_INBOX.x" }
func (*answered) Header() nats.Header { return nil }
func (*answered) Data() []byte        { return nil }
func (m *answered) Respond(data []byte, _ nats.Header, failed *api.Error) error {
	m.data, m.failed = data, failed
	return nil
}

// A write whose first try has an unknown outcome is not refused as never written by a later one: not by this node, nor by the next leader, unless that has looked for it.
func TestAnUnknownOutcomeIsRemembered(t *testing.T) {
	b, err := Start(Config{Server: ServerConfig{Name: "n1", ClusterName: "c", Listen: "127.0.0.1:-1", ClusterListen: "127.0.0.1:-1", Prefix: "es", Logger: slog.New(slog.DiscardHandler)}, ServerID: "n1~a"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var next []byte // the next leader's answer
	if _, err := b.peers.Subscribe(nodeSubject("n2~b", subjectWrite), func(m *nats.Msg) { m.Respond(next) }); err != nil {
		t.Fatal(err)
	}
	if err := b.peers.Flush(); err != nil {
		t.Fatal(err)
	}
	unknown := api.ErrOutcomeUnknown.With("the first try")
	for _, row := range []struct {
		refusal *api.Error
		passes  bool // it tells what became of the first try
	}{
		{api.ErrOverloaded, false}, {api.ErrRateLimited, false}, {api.ErrDiskBehind, false}, {api.ErrFeature, false}, {api.ErrWrongVersion, true}, {api.ErrEventIDConflict, true},
	} {
		refusal := row.refusal.With("nothing was written")
		if next, err = api.Marshal(api.Reply{Type: api.TypeAppend, Error: refusal}); err != nil {
			t.Fatal(err)
		}
		for _, first := range []*api.Error{nil, unknown} {
			want := refusal.Name
			if first != nil && !row.passes {
				want = unknown.Name
			}
			for name, try := range map[string]func(r *request){
				"here":  func(r *request) { r.settle(nil, refusal) },
				"there": func(r *request) { b.forward(r, &change{raw: []byte(`{}`)}, "n2~b") },
			} {
				m := &answered{}
				r := &request{bus: b, message: m, subject: api.Subject{Store: "orders", Class: api.ClassWrite, Verb: "append", Name: "a"}}
				if first != nil {
					r.doubt(first)
				}
				try(r)
				if m.failed == nil || m.failed.Name != want {
					t.Errorf("%s, after %v it is %s: answered %s, want %s", name, first, refusal.Name, m.data, want)
				}
			}
		}
	}
	m := &answered{}
	r := &request{bus: b, message: m, subject: api.Subject{Store: "orders", Class: api.ClassWrite, Verb: "append", Name: "a"}}
	r.doubt(api.ErrNotLeader.With("nothing was written"))
	r.giveUp(api.ErrNoLeader.With("nothing was written"))
	if m.failed == nil || m.failed.Name != api.ErrNoLeader.Name {
		t.Errorf("after a try that surely wrote nothing: %s", m.data)
	}
	long := &change{raw: []byte(strings.Repeat("x", api.MaxPayload))} // and a header
	m = &answered{}
	r = &request{bus: b, message: m, subject: api.Subject{Store: "orders", Class: api.ClassWrite, Verb: "append", Name: "a"}}
	if done, _ := b.forward(r, long, "n2~b"); !done || m.failed == nil || m.failed.Name != api.ErrTooLarge.Name {
		t.Errorf("what is too long to be sent on: %v, %s", done, m.data)
	}
}
