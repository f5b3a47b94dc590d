package natsbus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// Where a name was dropped and created again, the old store answers no question about the new one, and the new one answers.
func TestAnOldStoreDoesNotStandForANewOne(t *testing.T) {
	b, m, open := lone(t)
	first := open("orders", 1)
	long, end := context.WithTimeout(t.Context(), 10*lingerFor)
	defer end()
	for incarnation, want := range map[uint64]bool{1: true, 2: false} {
		if got := b.holds(storeQuestion{"orders", incarnation}); got != want {
			t.Errorf("the post of incarnation 1 stands for incarnation %d: %v", incarnation, got)
		}
	}
	if leader, err := b.awaitServing(long, about(first)); err != nil || leader != b.cfg.ServerID {
		t.Errorf("incarnation 1 is led by %q, %v", leader, err)
	}
	ctx, cancel := context.WithTimeout(long, 3*askAgain)
	defer cancel()
	if _, err := b.awaitServing(ctx, storeQuestion{"orders", 2}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("incarnation 2 is said to serve before it is there: %v", err)
	}
	serves := make(chan error, 1)
	go func() { // ends when incarnation 2 serves, or the time is over
		_, err := b.awaitServing(long, storeQuestion{"orders", 2})
		serves <- err
	}()
	if err := m.Remove(first); err != nil {
		t.Fatal(err)
	}
	if b.holds(about(first)) {
		t.Error("the post of a dropped store stands for it")
	}
	second, err := m.Open(stores.Spec{Name: "orders", ID: 1, Incarnation: 2, Members: first.Members()})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-serves; err != nil {
		t.Errorf("incarnation 2 does not serve: %v", err)
	}
	if s, ok := m.Get("orders"); !ok || s != second || !b.holds(about(second)) {
		t.Errorf("%v serves, and holds its post: %v", s, b.holds(about(second)))
	}
}

// A write that came to the post of a store that was dropped is not written to a later store of the name: another node may have answered it as one for a store that does not exist.
func TestAWriteToADroppedStoreIsNotForTheNext(t *testing.T) {
	b, m, open := lone(t)
	old := open(api.ConfigStore, 1) // known to exist without a configuration
	p := b.post(old.Name())
	if err := m.Remove(old); err != nil {
		t.Fatal(err)
	}
	open(old.Name(), 2)
	if b.post(old.Name()) == p {
		t.Fatal("the old post is still there")
	}
	m1 := &answered{}
	p.handle(&request{bus: b, message: m1, subject: api.Subject{Store: old.Name(), Class: api.ClassWrite, Verb: "put", Name: "orders"}})
	if err := b.work.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m1.failed == nil || m1.failed.Name != api.ErrNotReady.Name {
		t.Errorf("answered %q", m1.data)
	}
}

// A node is asked again while it says that it takes longer, and no more when it says why it cannot, or there is nobody.
func TestAskUntil(t *testing.T) {
	b := alone(t)
	for name, answers := range map[string][]string{"ready": {"yes"}, "slow": {"later", "later", "yes"}, "damaged": {"later", "the disk is broken"}} {
		var asked atomic.Int64
		if _, err := b.peers.Subscribe(name, func(m *nats.Msg) { m.Respond([]byte(answers[asked.Add(1)-1])) }); err != nil {
			t.Fatal(err)
		}
		last := answers[len(answers)-1]
		if err := b.askUntil(t.Context(), name, nil); (err == nil) != (last == answerYes) || err != nil && err.Error() != last {
			t.Errorf("%s: %v", name, err)
		}
		if n := int(asked.Load()); n != len(answers) {
			t.Errorf("%s: it was asked %d times", name, n)
		}
	}
	if err := b.askUntil(t.Context(), "nobody", nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("nobody: %v", err)
	}
}

// Whoever is asked says that it takes longer while the one who asks still listens.
func TestAnswering(t *testing.T) {
	b := alone(t)
	for want, fn := range map[string]func(context.Context, storeQuestion) error{
		answerYes: func(_ context.Context, q storeQuestion) error {
			if q != (storeQuestion{"orders", 2}) {
				return fmt.Errorf("asked about %+v", q)
			}
			return nil
		},
		answerLater: func(ctx context.Context, _ storeQuestion) error { <-ctx.Done(); return ctx.Err() },
		"damaged":   func(context.Context, storeQuestion) error { return errors.New("damaged") },
	} {
		sub, err := b.peers.Subscribe("question", b.inBackground(answering(b, fn)))
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.peers.Request("question", []byte(`{"store":"orders","incarnation":2}`), silentFor)
		if err != nil || string(m.Data) != want {
			t.Errorf("want %q: %v, %v", want, m, err)
		}
		sub.Unsubscribe()
	}
	if laterAfter+time.Second/2 > silentFor {
		t.Error("who takes longer counts as silent")
	}
}
