package natsbus

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// alone is a bus without peers, and without a backend.
func alone(t *testing.T) *Bus {
	t.Helper()
	b, err := Start(Config{Server: ServerConfig{Name: "n1", ClusterName: "c", Listen: "127.0.0.1:-1", ClusterListen: "127.0.0.1:-1", Prefix: "es", Logger: slog.New(slog.DiscardHandler)}, ServerID: "n1~a"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

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

// encoded is a write that needs no request to be forwarded.
type encoded struct{ write }

func (encoded) payload() ([]byte, error) { return []byte(`{}`), nil }

// A write whose first try has an unknown outcome is not refused as never written by a later one: not by this node, nor by the next leader, unless that has looked for it.
func TestAnUnknownOutcomeIsRemembered(t *testing.T) {
	b := alone(t)
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
		w       write
		passes  bool // it tells what became of the first try
	}{
		{api.ErrOverloaded, &appendWrite{}, false}, {api.ErrRateLimited, &appendWrite{}, false}, {api.ErrDiskBehind, &appendWrite{}, false}, {api.ErrFeature, &appendWrite{}, false},
		{api.ErrWrongVersion, &appendWrite{}, true}, {api.ErrEventIDConflict, &appendWrite{}, true}, {api.ErrStoreFull, &appendWrite{}, true}, // its ids were looked for first
		{api.ErrOverloaded, &change{}, false}, {api.ErrStreamNotFound, &change{}, true},
		{api.ErrWrongVersion, &change{}, false}, // a delete that took effect, and somebody has appended since
		{api.ErrStoreFull, &change{}, false},    // a snapshot that was kept, and filled the store
	} {
		refusal := row.refusal.With("nothing was written")
		raw, err := api.Marshal(api.Reply{Type: api.TypeAppend, Error: refusal})
		if err != nil {
			t.Fatal(err)
		}
		next = raw
		for _, first := range []*api.Error{nil, unknown} {
			want := refusal.Name
			if first != nil && !row.passes {
				want = unknown.Name
			}
			for name, try := range map[string]func(r *request){
				"here":  func(r *request) { r.settle(row.w, nil, refusal) },
				"there": func(r *request) { b.forward(r, encoded{row.w}, "n2~b") },
			} {
				m := &answered{}
				r := &request{bus: b, message: m, subject: api.Subject{Store: "orders", Class: api.ClassWrite, Verb: "append", Name: "a"}}
				if first != nil {
					r.doubt(first)
				}
				try(r)
				if m.failed == nil || m.failed.Name != want {
					t.Errorf("%T %s, after %v it is %s: answered %s, want %s", row.w, name, first, refusal.Name, m.data, want)
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

// An error that repeats what was sent fits into an answer all the same.
func TestALongDescriptionIsCut(t *testing.T) {
	m := &answered{}
	r := &request{message: m, subject: api.Subject{Store: "orders", Class: api.ClassWrite, Verb: "append", Name: "a"}}
	r.fail(api.ErrBadRequest.With("unknown field %q", strings.Repeat("ü", api.MaxPayload/2)))
	if m.failed == nil || !errors.Is(m.failed, api.ErrBadRequest) || len(m.data) > 2*maxDescription || !utf8.Valid(m.data) {
		t.Errorf("answered with %d bytes, %.80q…", len(m.data), m.data)
	}
}

// What clients are told to begin their inboxes with is taken with and without the dot behind it, and is never what the cluster itself listens on.
func TestInboxes(t *testing.T) {
	for _, row := range []struct {
		more []string
		want string
	}{
		{nil, "_INBOX."}, {[]string{"ACME"}, "_INBOX. ACME."}, {[]string{"ACME.", "_R.x"}, "_INBOX. ACME. _R.x."},
		{[]string{""}, ""}, {[]string{"."}, ""}, {[]string{"a..b"}, ""}, {[]string{"a.>"}, ""}, {[]string{"*"}, ""}, {[]string{"a b"}, ""}, {[]string{"es"}, ""}, {[]string{"es.orders"}, ""}, {[]string{"$SYS"}, ""}, {[]string{"essex"}, "_INBOX. essex."},
	} {
		got, err := inboxes(row.more, "es")
		if (err != nil) != (row.want == "") || strings.Join(got, " ") != row.want {
			t.Errorf("%q: %q, %v; want %q", row.more, got, err, row.want)
		}
	}
	for inbox, taken := range map[string]bool{"acme": false, "acme.": false, "acme.es": false, "acme.es.orders": false, "acme.reply": true, "ac": true, "acme.e": true} {
		if _, err := inboxes([]string{inbox}, "acme.es"); (err == nil) != taken {
			t.Errorf("under the prefix acme.es: %q: %v", inbox, err)
		}
	}
}
