package stores

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// openThree opens a store of three replicas, each with a node and a manager of its own, and returns which of them leads it once it serves.
func openThree(t *testing.T) (managers [3]*Manager, replicas [3]*Store, leads int) {
	t.Helper()
	var mu sync.Mutex // guards addrs
	addrs := map[string]string{}
	var ids []string
	var identities [3]*raftnode.Identity
	for i := range identities {
		var err error
		if identities[i], err = raftnode.OpenIdentity(t.TempDir(), fmt.Sprint("n", i+1), time.Now()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { identities[i].Close() })
		ids = append(ids, identities[i].ServerID())
	}
	for i := range replicas {
		node, err := raftnode.Open(raftnode.Config{
			Identity: identities[i], Listen: "127.0.0.1:0", ClusterID: func() string { return "c" },
			Resolve: func(id string) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				if addrs[id] == "" {
					return "", errors.New("not heard yet")
				}
				return addrs[id], nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { node.Close() })
		mu.Lock()
		addrs[ids[i]] = node.Addr()
		mu.Unlock()
		managers[i] = NewManager(Config{Node: node, Dir: identities[i].Dir(), OnFatal: func(err error) { t.Error(err) }})
		t.Cleanup(func() { managers[i].Close() })
		if replicas[i], err = managers[i].Open(Spec{Name: "orders", ID: 1, Incarnation: 1, Members: ids}); err != nil {
			t.Fatal(err)
		}
	}
	view, err := replicas[0].WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Leader != "" })
	if err != nil {
		t.Fatal(err)
	}
	for ids[leads] != view.Leader {
		leads++
	}
	if _, err := replicas[leads].WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
		t.Fatal(err)
	}
	return managers, replicas, leads
}

// marked is the data of the second of the three events that damageEvent appends.
var marked = bytes.Repeat([]byte{0xA5, 0x5A, 0xC3, 0x3C}, 16)

// damageEvent appends three events at the leader, and flips bits of the second in the replica's file, which goes on to be open.
func damageEvent(t *testing.T, leader, replica *Store) {
	t.Helper()
	for i := range 3 {
		data := []byte("sound")
		if i == 1 {
			data = marked
		}
		if _, err := leader.Append(&Append{Stream: fmt.Sprint("s", i), Expected: api.ExpectAny, Events: []api.NewEvent{{Type: "T", DataBase64: data}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := replica.machine.WaitPosition(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := replica.machine.Flush(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(replica.dir, stateFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := false
	for at := bytes.Index(raw, marked); at >= 0; at = bytes.Index(raw, marked) {
		found = true
		clear(raw[at : at+len(marked)])
		if _, err := file.WriteAt(raw[at:at+len(marked)], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if !found {
		t.Fatal("the event is not on disk")
	}
}

// A reader that meets damage is told so, and sets nothing aside: others may have the same. Who knows of a sound answer does, as damage that is met while applying does at once: the replica is closed and stays so, and the
// others go on, with a leader of their own.
func TestDamageThatAReaderMeets(t *testing.T) {
	for _, r := range []struct {
		name string
		read func(t *testing.T, s *Store) *api.Error
		told *api.Error
	}{
		{"read", func(t *testing.T, s *Store) *api.Error {
			_, err := s.ReadAll(t.Context(), api.ReadAllRequest{})
			return err
		}, api.ErrReplicaDamaged},
		{"backup", func(t *testing.T, s *Store) *api.Error {
			_, err := s.BackupEvents(t.Context(), api.BackupRequest{})
			return err
		}, api.ErrReplicaDamaged},
		{"fetch", func(t *testing.T, s *Store) *api.Error {
			_, err := fetchAll(s)
			return err
		}, api.ErrInternal},
	} {
		t.Run(r.name, func(t *testing.T) {
			managers, replicas, leads := openThree(t)
			s, m := replicas[leads], managers[leads]
			createSubscription(t, s, api.SubscriptionConfig{})
			damageEvent(t, s, s)
			if err := r.read(t, s); !errors.Is(err, r.told) {
				t.Errorf("answered %v", err)
			}
			if list := m.Failures(); len(list) != 0 {
				t.Errorf("set aside by the reader: %v", list)
			}
			s.SetAside()
			if list := m.Failures(); len(list) != 1 || !errors.Is(list[0].Err, fsm.ErrDamaged) {
				t.Errorf("failures: %v", list)
			}
			if _, err := m.Open(s.spec); !errors.Is(err, fsm.ErrDamaged) {
				t.Errorf("opened again: %v", err)
			}
			other := replicas[(leads+1)%3]
			view, err := other.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Leader != "" && l.Leader != s.spec.Members[leads] })
			if err != nil {
				t.Fatal(err)
			}
			if view.Leader == s.spec.Members[(leads+2)%3] {
				other = replicas[(leads+2)%3]
			}
			if _, err := other.WaitLeadership(t.Context(), func(l raftnode.Leadership) bool { return l.Role == raftnode.Serving }); err != nil {
				t.Fatal(err)
			}
			if page, err := other.ReadAll(t.Context(), api.ReadAllRequest{}); err != nil || len(page.Events) != 3 || !bytes.Equal(page.Events[1].DataBase64, marked) {
				t.Errorf("at another node: %+v, %v", page, err)
			}
		})
	}
}

// A read that waits at a replica which is set aside is told so, and not that the node stops.
func TestDamageEndsReadsThatWait(t *testing.T) {
	_, replicas, leads := openThree(t)
	s := replicas[(leads+1)%3]
	wait := waitingRead(t, s, func() (*api.ReadResponse, *api.Error) {
		return s.ReadAll(t.Context(), api.ReadAllRequest{WaitMS: api.MaxWait, ReadOptions: api.ReadOptions{Consistency: api.Local}})
	})
	s.setAside(fsm.ErrDamaged)
	if _, err := wait(); !errors.Is(err, api.ErrReplicaDamaged) {
		t.Errorf("answered %v", err)
	}
}

// Nobody else has what a lone replica holds, so it stays open for what is sound in it. A replica of several stays too when a reader only panicked: it may be the request.
func TestDamageThatSetsNothingAside(t *testing.T) {
	m, lone := openLone(t, Config{})
	damageEvent(t, lone, lone)
	if _, err := lone.ReadAll(t.Context(), api.ReadAllRequest{}); !errors.Is(err, api.ErrInternal) {
		t.Errorf("answered %v", err)
	}
	lone.SetAside()
	if page, err := lone.ReadStream(t.Context(), "s2", api.ReadStreamRequest{}); err != nil || len(page.Events) != 1 {
		t.Errorf("a sound stream: %+v, %v", page, err)
	}
	managers, replicas, leads := openThree(t)
	if err := replicas[leads].apiError(fmt.Errorf("read: %w: index out of range", fsm.ErrPanic)); !errors.Is(err, api.ErrReplicaDamaged) {
		t.Errorf("a panic is answered %v", err)
	}
	replicas[leads].SetAside()
	for _, m := range append(managers[:], m) {
		if f := m.Failures(); len(f) > 0 {
			t.Errorf("set aside: %v", f)
		}
	}
}
