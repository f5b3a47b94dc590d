package raftnode

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// endless is a machine whose state takes hours to send: the transport sends 64 MiB a second.
type endless struct {
	*lines
	over *atomic.Bool // the test has failed, and is to end
}

func (m *endless) OpenSnapshot() (index, term uint64, size int64, rc io.ReadCloser, err error) {
	index, term, _, _, err = m.lines.OpenSnapshot()
	return index, term, 1 << 40, io.NopCloser(readerFunc(func(p []byte) (int, error) {
		if m.over.Load() {
			return 0, errors.New("the test is over")
		}
		return len(p), nil
	})), err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Who drops a store, or stops a node, does not wait for a snapshot, and what has arrived of it is gone.
func TestCloseWaitsForNoSnapshot(t *testing.T) {
	for _, who := range []string{"the sender", "the receiver"} {
		t.Run(who+" closes", func(t *testing.T) {
			c := newCluster(t, 3)
			var over atomic.Bool
			for _, m := range c.members {
				m.around = func(l *lines) Machine { return &endless{l, &over} }
			}
			c.start()
			leader := c.leader(t)
			c.heard(t, leader, leader.mustWrite("first"))
			away := c.followers(leader)[0]
			away.stop()
			for range 5 {
				leader.mustWrite("what the one who is away does not have")
			}
			for _, m := range c.members { // whoever leads then has no old entries to send
				if m.group != nil {
					if err := m.group.LinearizableRead(testContext(t)); err != nil {
						t.Fatal(err)
					}
					compact(t, m, 1)
				}
			}
			away.start()
			ctx, cancel := context.WithCancel(testContext(t))
			read := make(chan struct{})
			go func() { // ends with ctx; has the leader look at its follower
				away.group.LinearizableRead(ctx)
				close(read)
			}()
			dir := filepath.Join(away.dir, "group")
			eventually(t, "a state arrives", func() bool { return exists(dir, incomingPattern) })

			closing := map[string]*member{"the sender": c.leader(t), "the receiver": away}[who]
			done := make(chan error, 1)
			go func() { done <- closing.group.Close() }() // ends with over at the latest
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience / 3):
				over.Store(true)
				t.Errorf("%s waits for the snapshot", who)
			}
			cancel()
			<-read
			away.stop()
			if exists(dir, incomingPattern) || away.machine.restored() != 0 {
				t.Error("a part of a state is left behind, or was restored")
			}
			away.start() // it is not damaged
		})
	}
}
