package client_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/stores/fsm"
)

// backedUp is a node that is backed up: its events, and the sets of keys that it gives one after the other.
type backedUp struct {
	t *testing.T

	mu     sync.Mutex // guards what follows
	events []api.BackupEvent
	sets   []func() (keys string, position, applied uint64)
	asked  int // for sets
	at     uint64
}

func (n *backedUp) answer(_ *nats.Conn, m *nats.Msg) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch verb := m.Subject[strings.LastIndex(m.Subject, ".read.")+len(".read."):]; verb {
	case "get.s":
		return reply(n.t, &api.ConfigGetResponse{StoreRecord: &api.StoreRecord{Store: "s", Incarnation: 1}})
	case "info":
		return reply(n.t, &api.ClusterInfoResponse{Cluster: "c"})
	case "backup":
		var r api.BackupRequest
		if err := api.Unmarshal(m.Data, &r); err != nil {
			n.t.Error(err)
		}
		last := uint64(len(n.events))
		var page api.BackupEvents
		for i := r.After; i < last && (r.UpTo == 0 || i < r.UpTo); i++ {
			page.Add(&n.events[i])
		}
		return reply(n.t, &api.BackupResponse{Incarnation: 1, Page: page.Encode(), Events: page.Count(), Next: r.After + uint64(page.Count()), End: true, LastPosition: last, Applied: n.at})
	case "backup_keys":
		set := n.sets[min(n.asked, len(n.sets)-1)]
		n.asked++
		value, position, applied := set()
		var page api.BackupKeys
		page.Add([]byte("k"), []byte(value))
		return reply(n.t, &api.BackupKeysResponse{Incarnation: 1, Pages: 1, Page: page.Encode(), Keys: 1, Position: position, Applied: applied})
	}
	n.t.Errorf("a request to %s", m.Subject)
	return nil
}

// append appends an event and returns its position.
func (n *backedUp) append(body string) uint64 {
	n.at++
	n.events = append(n.events, api.BackupEvent{Position: uint64(len(n.events) + 1), Stream: "a", Version: uint64(len(n.events)), Body: []byte(body)})
	return uint64(len(n.events))
}

// TestBackupIsOneState: keys that are older than what the events beside them say are not put into a backup.
func TestBackupIsOneState(t *testing.T) {
	const whole, scavenged = "\x00whole", "\x04stub"
	for _, row := range []struct {
		name string
		sets func(n *backedUp) []func() (string, uint64, uint64)
		want string // the key's value; empty: the backup fails
		keys int    // sets that are asked for
	}{
		{"nothing happens", func(n *backedUp) []func() (string, uint64, uint64) {
			return []func() (string, uint64, uint64){func() (string, uint64, uint64) { return "first", 2, n.at }}
		}, "first", 1},
		{"events came before the keys", func(n *backedUp) []func() (string, uint64, uint64) {
			return []func() (string, uint64, uint64){func() (string, uint64, uint64) { return "first", n.append(whole), n.at }}
		}, "first", 1},
		{"and were scavenged after them", func(n *backedUp) []func() (string, uint64, uint64) {
			return []func() (string, uint64, uint64){
				func() (string, uint64, uint64) {
					position, applied := n.append(whole), n.at
					n.events[position-1].Body = []byte(scavenged)
					n.at++ // the delete
					return "first", position, applied
				},
				func() (string, uint64, uint64) { return "second", 3, n.at },
			}
		}, "second", 2},
		{"and were scavenged before them", func(n *backedUp) []func() (string, uint64, uint64) {
			return []func() (string, uint64, uint64){func() (string, uint64, uint64) { return "first", n.append(scavenged), n.at }}
		}, "first", 1},
		{"the keys are of a node that is behind", func(n *backedUp) []func() (string, uint64, uint64) {
			n.events[1].Body = []byte(whole)
			return []func() (string, uint64, uint64){
				func() (string, uint64, uint64) { return "first", 1, n.at - 1 },
				func() (string, uint64, uint64) { return "second", 2, n.at },
			}
		}, "second", 2},
		{"it never ends", func(n *backedUp) []func() (string, uint64, uint64) {
			return []func() (string, uint64, uint64){func() (string, uint64, uint64) {
				position, applied := n.append(scavenged), n.at
				n.at++
				return "more", position, applied
			}}
		}, "", 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := &backedUp{t: t}
			n.append(whole)
			n.append(scavenged) // long ago
			n.sets = row.sets(n)
			cl := answered(t, "backed-up-"+fmt.Sprint(len(row.name)), n.answer)
			var file bytes.Buffer
			sum, err := cl.Store("s").Backup(ctxFor(t), &file, client.BackupOptions{})
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.asked != row.keys {
				t.Errorf("%d sets of keys were asked for, want %d", n.asked, row.keys)
			}
			if row.want == "" {
				if err == nil || !strings.Contains(err.Error(), "10 times in a row") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var d api.Digester
			if want := d.Key(api.Digest{}, &api.BackupKey{Key: []byte("k"), Value: []byte(row.want)}); sum.KeysDigest != want || sum.Keys != 1 || sum.Position != uint64(len(n.events)) {
				t.Errorf("got %+v, want the keys %q and %d events", sum, row.want, len(n.events))
			}
			if _, err := client.OpenBackup(bytes.NewReader(file.Bytes()), int64(file.Len())); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestScavengedIsSeen: an event that the state machine has scavenged is known on a page of a backup, and one that it has not is not.
func TestScavengedIsSeen(t *testing.T) {
	machine, err := fsm.Open(fsm.Config{Path: filepath.Join(t.TempDir(), "state.db"), Store: 1, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	event := func(id string) fsm.EventRecord {
		return fsm.EventRecord{ID: id, Type: "t", JSON: true, Data: []byte("1")}
	}
	for i, data := range [][]byte{
		fsm.Encode(fsm.Append{Stream: "a", Expected: api.ExpectAny, Events: []fsm.EventRecord{event("1"), event("2")}}),
		fsm.EncodeBodies([]fsm.Body{fsm.ChangeBody(&fsm.StreamChange{Op: fsm.StreamTruncate, Stream: "a", Expected: api.ExpectAny, Before: 1})}),
	} {
		machine.Apply(&raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: data})
	}
	for more := true; more; {
		did, err := machine.Scavenge()
		if err != nil {
			t.Fatal(err)
		}
		more = did.More
	}
	page, err := machine.BackupEvents(0, 2, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	events, err := api.DecodeBackupEvents(page.Page)
	if err != nil || len(events) != 2 || !events[0].Scavenged() || events[1].Scavenged() {
		t.Errorf("%+v, %v", events, err)
	}
}
