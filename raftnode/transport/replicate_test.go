package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// lines is a raft.FSM that keeps what it was given.
type lines struct {
	mu      sync.Mutex
	got     []string
	changed chan struct{}
}

func (l *lines) Apply(e *raft.Log) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, string(e.Data))
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

func (l *lines) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }

func (l *lines) Restore(rc io.ReadCloser) error { return rc.Close() }

func (l *lines) wait(ctx context.Context, n int) ([]string, error) {
	for {
		l.mu.Lock()
		got, changed := l.got, l.changed
		l.mu.Unlock()
		if len(got) >= n {
			return got, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return got, ctx.Err()
		}
	}
}

// replicate has the group's replica on the first transport stand, applies entries there and shuts the group down. Nobody else stands: the timers are
// too long for it, so a machine under load changes nothing but the time this takes.
func replicate(t *testing.T, ts []*Transport, key string, entries int) {
	t.Helper()
	ctx := testContext(t)
	var members raft.Configuration
	for _, tr := range ts {
		id := tr.cfg.LocalID
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	elected := make(chan bool, 1)
	var leader *raft.Raft
	var fsms []*lines
	for _, tr := range ts {
		trans, err := tr.Group(key)
		if err != nil {
			t.Fatal(err)
		}
		conf := raft.DefaultConfig()
		conf.LocalID = raft.ServerID(tr.cfg.LocalID)
		conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 10*time.Minute, 10*time.Minute, 10*time.Minute
		conf.CommitTimeout = 5 * time.Millisecond
		conf.LogOutput = io.Discard
		if leader == nil {
			conf.NotifyCh = elected
		}
		store, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(conf, store, store, snaps, trans, members); err != nil {
			t.Fatal(err)
		}
		fsm := &lines{changed: make(chan struct{})}
		fsms = append(fsms, fsm)
		r, err := raft.NewRaft(conf, fsm, store, store, snaps, trans)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { r.Shutdown().Error() }()
		if leader == nil {
			leader = r
		}
	}
	first := ts[0].cfg.LocalID
	stand := &raft.TimeoutNowRequest{RPCHeader: ownHeader()}
	if err := ts[0].group([]byte(key)).TimeoutNow(raft.ServerID(first), raft.ServerAddress(first), stand, new(raft.TimeoutNowResponse)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-elected:
	case <-ctx.Done():
		t.Fatalf("group %s has no leader", key)
	}
	for i := range entries {
		if err := leader.Apply(fmt.Appendf(nil, "%s:%d", key, i), 0).Error(); err != nil {
			t.Fatalf("group %s: apply: %v", key, err)
		}
	}
	for i, fsm := range fsms {
		got, err := fsm.wait(ctx, entries)
		if err != nil {
			t.Fatalf("group %s: replica %d has %d of %d entries: %v", key, i, len(got), entries, err)
		}
		for j, line := range got {
			if want := fmt.Sprintf("%s:%d", key, j); line != want {
				t.Fatalf("group %s: replica %d: entry %d is %q, want %q", key, i, j, line, want)
			}
		}
	}
}

// Fifty groups elect and commit over the same few connections.
func TestManyGroupsShareThreeListeners(t *testing.T) {
	const groups = 50
	var b book
	ts := []*Transport{listen(t, &b, "n1~a", nil), listen(t, &b, "n2~b", nil), listen(t, &b, "n3~c", nil)}
	var wg sync.WaitGroup
	for i := range groups {
		wg.Go(func() { replicate(t, ts, fmt.Sprintf("%d-1", i+1), 40) })
	}
	wg.Wait()
	for _, tr := range ts {
		s := tr.Stats()
		if s.Connections > 8 {
			t.Errorf("%d connections for %d groups, want at most two to and two from each peer", s.Connections, groups)
		}
		if s.Frames <= s.Writes {
			t.Errorf("%d frames in %d writes: they do not share writes", s.Frames, s.Writes)
		}
		if s.Broken != 0 || s.Dropped != 0 || s.Inbound != 0 {
			t.Errorf("got %+v", s)
		}
	}
}
