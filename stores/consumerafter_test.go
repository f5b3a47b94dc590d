package stores

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// laterEntry is an entry that is proposed when the test says so: it waits for a disk or for followers.
type laterEntry struct {
	goOn    <-chan struct{}
	propose func() (proposal, error)
}

func (e *laterEntry) Wait() (any, error) {
	<-e.goOn
	p, err := e.propose()
	if err != nil {
		return nil, err
	}
	return p.Wait()
}

// ackUnderWay has the acknowledgement of an event on its way when the delivery that took it ends in the middle of the term, as it does when a round of the read index takes too long, and the
// next consumer of the subscription wait for it. answer is the acknowledgement's, told is what the next consumer makes of a request, and goOn has the acknowledgement's entry proposed.
func ackUnderWay(t *testing.T) (s *Store, answer, told <-chan *api.Error, goOn func()) {
	t.Helper()
	_, s = openLone(t, Config{})
	if err := appendTo(s, "a", "", 1); err != nil {
		t.Fatal(err)
	}
	createSubscription(t, s, api.SubscriptionConfig{})
	if first, err := fetchAll(s); err != nil || len(first.Events) != 1 {
		t.Fatal(first, err)
	}
	x, on, proposed, waits := &s.subscriptions, make(chan struct{}), make(chan struct{}), make(chan struct{})
	goOn = sync.OnceFunc(func() { close(on) })
	t.Cleanup(goOn) // before the store is closed, which waits for it
	toldProposed, toldWaits := sync.OnceFunc(func() { close(proposed) }), sync.OnceFunc(func() { close(waits) })
	s.door = newDoor(s, func(entry []byte) (proposal, error) {
		toldProposed()
		return &laterEntry{on, func() (proposal, error) { return s.group.Propose(entry) }}, nil
	})
	answers, next := make(chan *api.Error, 1), make(chan *api.Error, 1)
	if err := s.AckSubscription("mail", api.SubscriptionAckRequest{Positions: []uint64{1}}, func(_ any, err *api.Error) { answers <- err }); err != nil {
		t.Fatal(err)
	}
	<-proposed
	x.mu.Lock()
	x.waits = toldWaits
	x.mu.Unlock()
	old, _ := x.find("mail")
	ended := make(chan struct{})
	old.take(message{do: func(*delivery, time.Time) *api.Error { return old.gone() }, fail: func(*api.Error) { close(ended) }})
	<-ended
	tell := message{do: func(d *delivery, _ time.Time) *api.Error { next <- nil; return nil }, fail: func(err *api.Error) { next <- err }}
	if err := x.tell("mail", tell); err != nil { // anybody who needs the subscription: another ack, or one that pushes and begins anew
		t.Fatal(err)
	}
	select {
	case <-waits:
	case err := <-next:
		t.Fatalf("the next consumer does not wait: %v", err)
	}
	return s, answers, next, goOn
}

// A consumer does not look for its subscription before it is known what became of the change of the consumer before it: what that acknowledges would be delivered again.
func TestAConsumerWaitsForTheChangeOfTheOneBefore(t *testing.T) {
	s, answer, told, goOn := ackUnderWay(t)
	goOn()
	if err := <-answer; err != nil {
		t.Fatalf("the ack: %v", err)
	}
	if err := <-told; err != nil {
		t.Errorf("the next consumer: %v", err)
	}
	if again, err := fetchAll(s); err != nil || len(again.Events) > 0 {
		t.Errorf("delivered after the ack was committed and answered: %+v, %v", again, err)
	}
}

// It does not wait longer than the term lasts, and a consumer whose term is over gives nothing to the store.
func TestAConsumerWaitsNoLongerThanTheTerm(t *testing.T) {
	s, answer, told, goOn := ackUnderWay(t)
	x := &s.subscriptions
	c, _ := x.find("mail")
	x.leads(raftnode.Leadership{})
	if err := <-told; !errors.Is(err, api.ErrNotLeader) {
		t.Errorf("the next consumer: %v", err)
	}
	if x.proposes(c, nil) {
		t.Error("it gives changes to the store that the consumers of the next term do not know of")
	}
	goOn()
	if err := <-answer; err != nil {
		t.Errorf("the ack: %v", err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.underway) > 0 {
		t.Errorf("under way: %v", x.underway)
	}
}
