package raftnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// single returns a stopped group of one member with some entries.
func single(t *testing.T, snapshot bool) *member {
	t.Helper()
	c := newCluster(t, 1).start()
	m := c.leader(t)
	for i := range 10 {
		m.mustWrite(fmt.Sprint(i))
	}
	if snapshot {
		compact(t, m, 3)
	}
	m.stop()
	return m
}

// compact takes a snapshot and keeps so many entries behind it.
func compact(t *testing.T, m *member, trailing uint64) {
	t.Helper()
	err := m.group.raft.ReloadConfig(raft.ReloadableConfig{
		TrailingLogs: trailing, SnapshotInterval: snapshotInterval, SnapshotThreshold: snapshotThreshold,
		HeartbeatTimeout: m.timing.Heartbeat, ElectionTimeout: m.timing.Election,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.group.raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
}

func TestARestartAfterCompaction(t *testing.T) {
	m := single(t, true)
	m.start()
	if err := m.group.LinearizableRead(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := m.machine.all(); len(got) != 10 || got[9] != "9" {
		t.Fatalf("got %v", got)
	}
	m.cluster.leader(t).mustWrite("10")
}

func TestDisksWhosePartsContradictEachOther(t *testing.T) {
	group := func(m *member, name string) string { return filepath.Join(m.dir, "group", name) }
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	rows := []struct {
		name     string
		snapshot bool
		harm     func(t *testing.T, m *member)
		want     string // part of the error; empty: opens
	}{
		{"nothing happened", true, func(t *testing.T, m *member) {}, ""},
		{"state lost, whole log there", false, func(t *testing.T, m *member) { remove(t, group(m, "state")) }, ""},
		{"log lost", false, func(t *testing.T, m *member) { m.removeLog() }, "the log was lost"},
		{"state lost behind a snapshot", true, func(t *testing.T, m *member) { remove(t, group(m, "state")) }, "the state file was lost or is older"},
		{"marker lost", true, func(t *testing.T, m *member) { remove(t, group(m, markerFile)) }, "there is no snapshot marker"},
		{"marker from an old backup", true, func(t *testing.T, m *member) {
			raw, err := os.ReadFile(group(m, markerFile))
			if err != nil {
				t.Fatal(err)
			}
			var mk marker
			if err := json.Unmarshal(raw, &mk); err != nil {
				t.Fatal(err)
			}
			mk.Index, mk.Machine = 2, 2
			if err := WriteJSON(group(m, markerFile), mk); err != nil {
				t.Fatal(err)
			}
		}, "the log begins at entry"},
		{"marker damaged", true, func(t *testing.T, m *member) {
			if err := os.WriteFile(group(m, markerFile), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "snapshot.json"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			m := single(t, r.snapshot)
			r.harm(t, m)
			if m.node == nil {
				m.listen()
			}
			err := m.open()
			if r.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if err := m.group.LinearizableRead(testContext(t)); err != nil {
					t.Fatal(err)
				}
				if got := m.machine.all(); len(got) != 10 {
					t.Fatalf("got %v", got)
				}
				return
			}
			m.group = nil
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), r.want) {
				t.Fatalf("got %v, want ErrDamaged that says %q", err, r.want)
			}
			if err := m.open(); !errors.Is(err, ErrDamaged) { // a refusal holds nothing open
				t.Fatalf("the second time: %v", err)
			}
			m.group = nil
		})
	}
}

func (m *member) removeLog() {
	m.t.Helper()
	m.listen()
	if err := m.node.RemoveLog(testGroup); err != nil {
		m.t.Fatal(err)
	}
}

// Found by a test: with the log and the vote lost and a snapshot marker there, the replica opened with the marker as its whole log, and votes anew in terms it
// has voted in. Entries behind the marker that it has acknowledged are gone.
func TestALostLogBehindASnapshotIsDamage(t *testing.T) {
	m := single(t, true)
	m.removeLog()
	if err := m.open(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged: votes and acknowledged entries are lost", err)
	}
	m.group = nil
}

func TestALostLogFileIsNotABlankDisk(t *testing.T) {
	m := single(t, false)
	if err := os.Remove(filepath.Join(m.dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	m.identify()
	_, err := Open(Config{Identity: m.identity, Listen: "127.0.0.1:0", ClusterID: func() string { return "c1" }, HasData: true})
	if err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Fatalf("got %v, want the missing log named", err)
	}
}
