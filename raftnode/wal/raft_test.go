package wal_test

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/quorate/quorate/raftnode/wal"
	"github.com/quorate/quorate/raftnode/wal/waltest"
)

// counter counts what is applied.
type counter struct{ applied atomic.Uint64 }

func (c *counter) Apply(*raft.Log) any                 { return c.applied.Add(1) }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }
func (c *counter) Restore(r io.ReadCloser) error       { return r.Close() }

type nothing struct{}

func (nothing) Persist(s raft.SnapshotSink) error { return s.Close() }
func (nothing) Release()                          {}

// hashicorp/raft itself runs on a store, is stopped, and goes on from it.
func TestRaftOnStore(t *testing.T) {
	id := wal.GroupID{Store: 1, Incarnation: 1}
	snaps := raft.NewInmemSnapshotStore()
	const rounds, each = 3, 40
	var lastTerm, lastIndex uint64
	cfg := config(t.TempDir())
	for round := range rounds {
		cfg.MustExist = round > 0
		l := openLog(t, cfg)
		s, err := l.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		_, trans := raft.NewInmemTransport("a")
		rc := raft.DefaultConfig()
		rc.LocalID, rc.Logger = "a", hclog.NewNullLogger()
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
		rc.TrailingLogs = 5
		notify := make(chan bool, 10)
		rc.NotifyCh = notify
		if round == 0 {
			if err := raft.BootstrapCluster(rc, s, s, snaps, trans, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}); err != nil {
				t.Fatal(err)
			}
			lastIndex = 1 // the configuration
		}
		fsm := &counter{}
		r, err := raft.NewRaft(rc, fsm, s, s, snaps, trans)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.LastIndex(); got != lastIndex {
			t.Errorf("round %d: raft found last index %d, want %d", round, got, lastIndex)
		}
		select {
		case <-notify:
		case <-time.After(20 * time.Second):
			t.Fatal("no leader")
		}
		if r.CurrentTerm() <= lastTerm {
			t.Errorf("round %d: term %d after term %d", round, r.CurrentTerm(), lastTerm)
		}
		for range each {
			if err := r.Apply([]byte("x"), time.Minute).Error(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		if first, _ := s.FirstIndex(); first != r.LastIndex()-4 {
			t.Errorf("round %d: log begins at %d of %d after a snapshot with 5 trailing entries", round, first, r.LastIndex())
		}
		lastTerm, lastIndex = r.CurrentTerm(), r.LastIndex()
		if err := r.Shutdown().Error(); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
	}
}

// BenchmarkStoreLogs writes one entry of 256 bytes at a time in 64 groups.
func BenchmarkStoreLogs(b *testing.B) {
	l, err := wal.OpenBolt(config(b.TempDir()))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var group atomic.Uint64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		s, err := l.Open(wal.GroupID{Store: group.Add(1), Incarnation: 1})
		if err != nil {
			b.Error(err)
			return
		}
		for index := uint64(1); pb.Next(); index++ {
			e := waltest.Entries(index, 1, 1)
			e[0].Data = make([]byte, 256)
			if err := s.StoreLogs(e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	st := l.Stats()
	b.ReportMetric(float64(st.Requests)/float64(st.Syncs), "writes/sync")
}
