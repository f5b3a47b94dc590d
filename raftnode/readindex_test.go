package raftnode

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Found by a test: askLeader looked at its context only while it waited for a leader. With a leader in view that does not answer it asks again and again without a pause
// once the context is done, and Close waits for it for ever.
func TestAReadRoundEndsWithItsContext(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.leader(t)
	f := c.followers(leader)[0]
	if _, err := f.group.WaitLeadership(testContext(t), func(l Leadership) bool { return l.Leader == leader.node.ServerID() }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got := make(chan error, 1)
	go func() {
		_, err := f.group.askLeader(ctx)
		got <- err
	}()
	timeout := time.NewTimer(5 * time.Second)
	defer timeout.Stop()
	select {
	case err := <-got:
		if !errors.Is(err, ErrNoLeader) && !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	case <-timeout.C:
		t.Fatal("the round goes on 5 s after its context was done")
	}
}

// The leader hangs while a follower asks it for a read index. The read goes on with the next leader; once it ended with the round, after three seconds, though another one served long before.
func TestAReadWhoseLeaderHangsAsksTheNextOne(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "a")
	reader := c.followers(leader)[0]
	if err := reader.group.LinearizableRead(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c.isolate(leader, true)
	ctx, cancel := context.WithTimeout(t.Context(), readRoundTimeout)
	defer cancel()
	if _, err := reader.group.askLeader(ctx); err != nil {
		t.Error(err)
	}
	c.isolate(leader, false)
}
