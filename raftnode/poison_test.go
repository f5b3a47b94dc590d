package raftnode

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/raftnode/transport"
)

// raft stores what it is sent before it looks at it, and would panic over these at each start.
func TestEntriesThatNoLeaderSendsAreRefused(t *testing.T) {
	good := raft.EncodeConfiguration(threeMembers)
	for _, row := range []struct {
		name    string
		prev    uint64
		entries []*raft.Log
		ok      bool
	}{
		{"entries of all kinds", 4, []*raft.Log{{Index: 5}, {Index: 6, Type: raft.LogNoop}, {Index: 7, Type: raft.LogBarrier}, {Index: 8, Type: raft.LogConfiguration, Data: good}}, true},
		{"the first entry", 0, []*raft.Log{{Index: 1, Type: raft.LogConfiguration, Data: good}}, true},
		{"a gap", 4, []*raft.Log{{Index: 5}, {Index: 7}}, false},
		{"a gap at the beginning", 4, []*raft.Log{{Index: 6}}, false},
		{"an entry twice", 4, []*raft.Log{{Index: 5}, {Index: 5}}, false},
		{"indexes that begin anew", math.MaxUint64, []*raft.Log{{Index: 0}}, false},
		{"an unknown type", 4, []*raft.Log{{Index: 5, Type: 6}}, false},
		{"a deprecated type", 4, []*raft.Log{{Index: 5, Type: raft.LogAddPeerDeprecated, Data: good}}, false},
		{"the other deprecated type", 4, []*raft.Log{{Index: 5, Type: raft.LogRemovePeerDeprecated, Data: good}}, false},
		{"a configuration that cannot be read", 4, []*raft.Log{{Index: 5, Type: raft.LogConfiguration, Data: []byte("not msgpack")}}, false},
		{"an empty configuration", 4, []*raft.Log{{Index: 5, Type: raft.LogConfiguration}}, false},
		{"a configuration without members", 4, []*raft.Log{{Index: 5, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{})}}, false},
	} {
		err := checkEntries(&raft.AppendEntriesRequest{PrevLogEntry: row.prev, Entries: row.entries})
		if (err == nil) != row.ok || err != nil && !errors.Is(err, errForeign) {
			t.Errorf("%s: got %v", row.name, err)
		}
	}
}

// A member that has gone mad sends another one what no leader sends. It is refused before raft sees it, and nothing is stored.
func TestAPeerThatSendsWhatNoLeaderSends(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "a")
	mad, victim := leader.group, c.followers(leader)[0]
	term, last := mad.raft.CurrentTerm(), victim.group.raft.LastIndex()
	id := victim.node.ServerID()
	refused := func(what string, err error) {
		t.Helper()
		var remote *transport.RemoteError
		if !errors.As(err, &remote) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for what, e := range map[string]*raft.Log{
		"an entry of an unknown type": {Index: last + 1, Term: term, Type: 99},
		"a configuration":             {Index: last + 1, Term: term, Type: raft.LogConfiguration, Data: []byte("not msgpack")},
		"a gap":                       {Index: last + 2, Term: term},
	} {
		req := &raft.AppendEntriesRequest{RPCHeader: mad.header(), Term: term, PrevLogEntry: last, PrevLogTerm: term, Entries: []*raft.Log{e}}
		refused(what, mad.trans.AppendEntries(raft.ServerID(id), raft.ServerAddress(id), req, new(raft.AppendEntriesResponse)))
	}
	for what, s := range map[string]raft.InstallSnapshotRequest{
		"an empty state":            {SnapshotVersion: 1, Configuration: raft.EncodeConfiguration(threeMembers)},
		"a state and no members":    {SnapshotVersion: 1, Configuration: []byte("not msgpack"), Size: 3},
		"a state of an old version": {SnapshotVersion: 0, Size: 3},
	} {
		s.RPCHeader, s.Term, s.LastLogIndex, s.LastLogTerm = mad.header(), term, last+5, term
		refused(what, mad.trans.InstallSnapshot(raft.ServerID(id), raft.ServerAddress(id), &s, new(raft.InstallSnapshotResponse), bytes.NewReader(make([]byte, s.Size))))
	}
	if got := victim.group.raft.LastIndex(); got != last || victim.group.snapshots.current() != nil {
		t.Errorf("the last entry is %d and was %d; the marker is %v", got, last, victim.group.snapshots.current())
	}
	c.heard(t, leader, leader.mustWrite("b"))
}

// A log that holds such entries all the same damages its replica, and not the process.
func TestEntriesOverWhichRaftPanicsDamageTheReplica(t *testing.T) {
	m := newCluster(t, 1).start().leader(t)
	m.mustWrite("a")
	last := m.group.raft.LastIndex()
	for _, row := range []struct {
		name string
		bad  *raft.Log
	}{
		{"a configuration", &raft.Log{Index: last + 1, Term: 2, Type: raft.LogConfiguration, Data: []byte("not msgpack")}},
		{"a gap", &raft.Log{Index: last + 50, Term: 2}},
	} {
		m.stop()
		m.listen()
		s, err := m.node.log.Open(testGroup)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.DeleteRange(last+1, last+50), s.StoreLog(row.bad), s.Close()); err != nil {
			t.Fatal(err)
		}
		if err := m.open(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: the group opens: %v", row.name, err)
		}
	}
}
