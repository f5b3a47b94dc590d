package cluster

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorate/quorate/raftnode"
)

const patience = 20 * time.Second // of waits that end much sooner when all is well

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// bus carries hellos in memory, in order, to everyone who is plugged in.
type bus struct {
	mu    sync.Mutex // guards plugs
	plugs map[*plug]bool
}

// plug is one node's Peers. Hellos wait in a queue, so that a sender never waits for a listener.
type plug struct {
	bus   *bus
	queue chan []byte
	gone  chan struct{}
}

func (b *bus) plug() *plug {
	p := &plug{bus: b, queue: make(chan []byte, 1024), gone: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.plugs == nil {
		b.plugs = map[*plug]bool{}
	}
	b.plugs[p] = true
	return p
}

func (p *plug) pull() {
	p.bus.mu.Lock()
	defer p.bus.mu.Unlock()
	if p.bus.plugs[p] {
		delete(p.bus.plugs, p)
		close(p.gone)
	}
}

func (p *plug) SendHello(hello []byte) error {
	p.bus.mu.Lock()
	defer p.bus.mu.Unlock()
	if !p.bus.plugs[p] {
		return errors.New("not connected")
	}
	for other := range p.bus.plugs {
		if other != p {
			select {
			case other.queue <- hello:
			default: // lost, as on a slow connection
			}
		}
	}
	return nil
}

func (p *plug) OnHello(fn func([]byte)) error {
	go func() { // ends when the plug is pulled
		for {
			select {
			case raw := <-p.queue:
				fn(raw)
			case <-p.gone:
				return
			}
		}
	}()
	return nil
}

// station is a node as far as its directory is concerned.
type station struct {
	*Directory
	cfg     Config
	plug    *plug
	members chan string // "+name" and "-name"
}

func newStation(t testing.TB, serverID string, expect int) *station {
	s := &station{members: make(chan string, 64)}
	s.cfg = Config{
		Dir: t.TempDir(), Name: raftnode.ServerName(serverID), ServerID: serverID, Raft: serverID + ":7000", Expect: expect,
		OnMember: func(name string, up bool) {
			if up {
				s.members <- "+" + name
			} else {
				s.members <- "-" + name
			}
		},
	}
	return s
}

func (s *station) start(t testing.TB, b *bus) {
	t.Helper()
	var err error
	if s.Directory, err = Load(s.cfg); err != nil {
		t.Fatal(err)
	}
	s.plug = b.plug()
	if err := s.Directory.Start(s.plug); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
}

func (s *station) stop() {
	if s.plug != nil {
		s.Directory.Close()
		s.plug.pull()
		s.plug = nil
	}
}

func (s *station) waitFormed(t testing.TB) {
	t.Helper()
	if err := s.WaitFormed(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

var threeIDs = []string{"a~1", "b~1", "c~1"}

func formThree(t *testing.T) (*bus, []*station) {
	t.Helper()
	var b bus
	var stations []*station
	for _, id := range threeIDs {
		s := newStation(t, id, 3)
		stations = append(stations, s)
		s.start(t, &b)
	}
	for _, s := range stations {
		s.waitFormed(t)
	}
	return &b, stations
}

func TestThreeDirectoriesFormAndKeepTheirCluster(t *testing.T) {
	b, stations := formThree(t)
	id := stations[0].ClusterID()
	if want := planOf(threeIDs).Cluster; id != want {
		t.Fatalf("cluster %s, want %s", id, want)
	}
	for range 2 {
		for _, s := range stations {
			if s.ClusterID() != id || !slices.Equal(s.Members(), threeIDs) || s.Reason() != "" {
				t.Fatalf("%s: cluster %s of %v, waits for %q", s.cfg.Name, s.ClusterID(), s.Members(), s.Reason())
			}
		}
		for _, s := range stations {
			s.stop()
		}
		for i, s := range stations {
			s.start(t, b)
			if !s.IsFormed() {
				t.Fatalf("node %d has forgotten its cluster", i)
			}
		}
	}
}

func TestANodeThatComesBackAloneKnowsItsCluster(t *testing.T) {
	_, stations := formThree(t)
	for _, s := range stations {
		s.stop()
	}
	d, err := Load(stations[1].cfg)
	if err != nil {
		t.Fatal(err)
	}
	if d.ClusterID() != planOf(threeIDs).Cluster || !slices.Equal(d.Members(), threeIDs) {
		t.Fatalf("got %s of %v", d.ClusterID(), d.Members())
	}
}

func TestAWipedDiskDoesNotJoin(t *testing.T) {
	b, stations := formThree(t)
	stations[2].stop()
	wiped := newStation(t, "c~2", 3)
	wiped.start(t, b)
	eventually(t, "the wiped disk says why it waits", func() bool { return strings.Contains(wiped.Reason(), "does not join by itself") })
	eventually(t, "the others list it apart", func() bool {
		_, unlisted := stations[0].Nodes()
		return len(unlisted) == 1 && unlisted[0].ServerID == "c~2"
	})
	if wiped.IsFormed() || wiped.ClusterID() != "" {
		t.Error("the wiped disk belongs to a cluster")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := wiped.WaitFormed(ctx); err == nil || !strings.Contains(err.Error(), "is formed already") || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the reason", err)
	}
	if _, err := os.Stat(filepath.Join(wiped.cfg.Dir, clusterFile)); err == nil {
		t.Error("the wiped disk has written a cluster.json")
	}
	if !slices.Equal(stations[0].Members(), threeIDs) {
		t.Errorf("members are %v now", stations[0].Members())
	}
}

func TestMembersComeAndGo(t *testing.T) {
	b, stations := formThree(t)
	a, c := stations[0], stations[2]
	up := func(want bool) func() bool {
		return func() bool {
			members, _ := a.Nodes()
			return len(members) == 3 && members[2].Name == "c" && members[2].Up == want
		}
	}
	eventually(t, "c is up", up(true))
	if addr, err := a.Resolve("c~1"); err != nil || addr != "c~1:7000" {
		t.Errorf("got %q, %v", addr, err)
	}
	if _, err := a.Resolve("d~1"); err == nil {
		t.Error("a node nobody heard of has an address")
	}
	if addr, err := a.Resolve("a~1"); err != nil || addr != "a~1:7000" {
		t.Errorf("itself: got %q, %v", addr, err)
	}
	c.stop() // says goodbye
	eventually(t, "c is down", up(false))
	c.cfg.Raft = "elsewhere:1"
	c.start(t, b)
	eventually(t, "c is up again, elsewhere", func() bool {
		addr, err := a.Resolve("c~1")
		return up(true)() && err == nil && addr == "elsewhere:1"
	})
	for _, want := range []string{"-c", "+c"} {
		for got := ""; got != want; {
			select {
			case got = <-a.members: // others may have been seen to come after formation
			case <-testContext(t).Done():
				t.Fatalf("a was not told %s", want)
			}
		}
	}
}

// formedAt is the directory of a node of a formed cluster, which takes now for the time, and its station.
func formedAt(t *testing.T, now *time.Time) (*station, *Directory) {
	t.Helper()
	s := newStation(t, "a~1", 3)
	s.cfg.Now = func() time.Time { return *now }
	d, err := Load(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.disk = disk{Format: 1, State: Formed, Plan: planOf(threeIDs)}
	return s, d
}

func TestSilenceIsDown(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	s, d := formedAt(t, &now)
	if !d.hear(hello("b~1")) {
		t.Error("the first hello is no news")
	}
	if d.hear(hello("b~1")) {
		t.Error("the same hello is news")
	}
	now = now.Add(downAfter)
	d.age()
	if got := len(s.members); got != 1 {
		t.Fatalf("%d changes, want only that b came", got)
	}
	now = now.Add(1)
	d.age()
	d.age()
	d.hear(hello("x~1")) // no member: nobody is told
	if first, second := <-s.members, <-s.members; first != "+b" || second != "-b" || len(s.members) != 0 {
		t.Fatalf("got %s, %s and %d more", first, second, len(s.members))
	}
}

func TestClusterFilesThatAreRefused(t *testing.T) {
	p := planOf(threeIDs)
	valid := `{"format":1,"state":"formed","plan":{"cluster":"` + p.Cluster + `","members":["a~1","b~1","c~1"]}}`
	others := planOf([]string{"b~1", "c~1", "d~1"})
	rows := []struct{ name, text, want string }{
		{"valid", valid, ""},
		{"empty", "", "is damaged"},
		{"cut off", valid[:40], "is damaged"},
		{"zeros", strings.Repeat("\x00", 64), "is damaged"},
		{"text behind", valid + valid, "is damaged"},
		{"of a newer program", strings.Replace(valid, `"format":1`, `"format":2`, 1), "format 2"},
		{"unknown state", strings.Replace(valid, "formed", "married", 1), `state "married"`},
		{"blank is no state of a file", strings.Replace(valid, "formed", "blank", 1), `state "blank"`},
		{"another node's", strings.NewReplacer(p.Cluster, others.Cluster, `"a~1","b~1","c~1"`, `"b~1","c~1","d~1"`).Replace(valid), "another node's"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s := newStation(t, "a~1", 3)
			if err := os.WriteFile(filepath.Join(s.cfg.Dir, clusterFile), []byte(r.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(s.cfg)
			if (err == nil) != (r.want == "") || err != nil && !strings.Contains(err.Error(), r.want) {
				t.Fatalf("got %v, want %q", err, r.want)
			}
		})
	}
}

// Found by a test: the cluster's id is a digest of its members, and Load did not compare them. One flipped bit in either, and the node is in a
// cluster of its own, or counts a member that does not exist.
func TestAClusterFileWhoseIDIsNotItsMembersIsDamaged(t *testing.T) {
	s := newStation(t, "a~1", 3)
	text := `{"format":1,"state":"formed","plan":{"cluster":"0000000000000000","members":["a~1","b~1","c~1"]}}`
	if err := os.WriteFile(filepath.Join(s.cfg.Dir, clusterFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := Load(s.cfg); err == nil {
		t.Fatalf("got cluster %s of %v, want it refused", d.ClusterID(), d.Members())
	}
}

// TestNodesSayWhatTheyCanApply: each knows the others' highest kind of command, as they last said it; from who says nothing of it, it is 0.
func TestNodesSayWhatTheyCanApply(t *testing.T) {
	b, stations := formThree(t)
	a, c := stations[0], stations[2]
	says := func(want int) func() bool {
		return func() bool {
			kind, heard := a.Commands("c~1")
			return heard && kind == want
		}
	}
	eventually(t, "c has been heard", says(0))
	for _, kind := range []int{2, 3, 0} {
		c.stop()
		c.cfg.Commands = kind
		c.start(t, b)
		eventually(t, "c says what it can apply", says(kind))
	}
	if kind, heard := a.Commands("d~1"); kind != 0 || heard {
		t.Errorf("a node nobody heard of can apply %d (%v)", kind, heard)
	}
	c.stop()
	c.cfg.Commands = 7
	c.start(t, b)
	if kind, heard := c.Commands("c~1"); kind != 7 || !heard {
		t.Errorf("itself: %d, %v", kind, heard)
	}
}

func TestHellosAreSlowerWhenAllMembersAreHeard(t *testing.T) {
	members := []string{"n1:a", "n2:b", "n3:c"}
	d := &Directory{cfg: Config{ServerID: "n1:a", Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, seen: make(map[string]seen), formed: make(chan struct{})}
	if got := d.pace(); got != helloForming {
		t.Errorf("while the cluster forms: %v", got)
	}
	d.disk.Plan.Members = members
	close(d.formed)
	hello := func(id string) Hello { return Hello{ServerID: id, State: Formed} }
	if !d.hear(hello("n2:b")) {
		t.Error("the first hello of a node needs no answer")
	}
	if got := d.pace(); got != helloMissing {
		t.Errorf("while n3 is not heard: %v", got)
	}
	d.hear(hello("n3:c"))
	if got := d.pace(); got != helloFormed {
		t.Errorf("when all are heard: %v", got)
	}
	if d.hear(hello("n3:c")) {
		t.Error("a hello that says nothing new is to be answered")
	}
	d.setUp("n3:c", false)
	if got := d.pace(); got != helloMissing {
		t.Errorf("while n3 is down: %v", got)
	}
	if !d.hear(hello("n3:c")) {
		t.Error("a node that is back waits for our hello")
	}
}

// deaf is peers that cannot be heard.
type deaf struct{}

func (deaf) SendHello([]byte) error     { return nil }
func (deaf) OnHello(func([]byte)) error { return errors.New("the connection is closed") }

// A directory that could not start is closed all the same.
func TestCloseBehindAFailedStart(t *testing.T) {
	d, err := Load(newStation(t, "a~1", 3).cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(deaf{}); err == nil {
		t.Fatal("it has started")
	}
	closed := make(chan struct{})
	go func() { // ends when it is closed
		d.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(patience / 4):
		t.Error("Close waits for what never ran")
	}
}
