package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/quorate/quorate/raftnode"
)

func hello(id string, change ...func(*Hello)) Hello {
	h := Hello{Name: raftnode.ServerName(id), ServerID: id, Expect: 3, State: Blank}
	for _, c := range change {
		c(&h)
	}
	return h
}

func in(state State, p Plan) func(*Hello) { return func(h *Hello) { h.State, h.Plan = state, p } }
func expects(n int) func(*Hello)          { return func(h *Hello) { h.Expect = n } }

func TestNext(t *testing.T) {
	p := planOf([]string{"a~1", "b~1", "c~1"})
	swapped := planOf([]string{"a~1", "b~1", "c~2"})
	rows := []struct {
		name   string
		self   Hello
		others []Hello
		state  State  // to move to
		plan   Plan   //
		wait   string // or part of the reason to wait
	}{
		{"alone", hello("a~1"), nil, "", Plan{}, "sees 1 of 3 nodes: a"},
		{"one is missing", hello("b~1"), []Hello{hello("a~1")}, "", Plan{}, "sees 2 of 3 nodes: a, b"},
		{"too many", hello("a~1"), []Hello{hello("b~1"), hello("c~1"), hello("d~1")}, "", Plan{}, "sees 4 nodes (a, b, c, d) where --expect says 3"},
		{"two of one name", hello("a~1"), []Hello{hello("b~1"), hello("b~2")}, "", Plan{}, "two nodes are named b (b~"},
		{"another has our name", hello("a~1"), []Hello{hello("a~2"), hello("c~1")}, "", Plan{}, "two nodes are named a"},
		{"another expects more", hello("a~1"), []Hello{hello("b~1", expects(5)), hello("c~1")}, "", Plan{}, "b expects 5 nodes and a expects 3"},
		{"another uses another prefix", hello("a~1", uses("es")), []Hello{hello("b~1"), hello("c~1", uses("events"))}, "", Plan{}, "c uses --prefix events and a uses es"},

		{"the coordinator prepares first", hello("a~1"), []Hello{hello("b~1"), hello("c~1")}, Prepared, p, ""},
		{"the order of hellos does not matter", hello("a~1"), []Hello{hello("c~1"), hello("b~1")}, Prepared, p, ""},
		{"the others wait for it", hello("b~1"), []Hello{hello("a~1"), hello("c~1")}, "", Plan{}, "waits for the coordinator a"},
		{"another's promise is not the coordinator's", hello("c~1"), []Hello{hello("a~1"), hello("b~1", in(Prepared, p))}, "", Plan{}, "waits for the coordinator a"},
		{"the others follow", hello("c~1"), []Hello{hello("a~1", in(Prepared, p)), hello("b~1")}, Prepared, p, ""},
		{"not a plan of other disks", hello("c~1"), []Hello{hello("a~1", in(Prepared, swapped)), hello("b~1")}, "", Plan{}, "waits for the coordinator a"},
		{"one that has promised waits", hello("b~1", in(Prepared, p)), []Hello{hello("a~1", in(Prepared, p)), hello("c~1", in(Prepared, p))}, "", Plan{}, "waits for the coordinator a"},
		{"the coordinator waits for promises", hello("a~1", in(Prepared, p)), []Hello{hello("b~1", in(Prepared, p)), hello("c~1")}, "", Plan{}, "waits for the promise of c"},
		{"a promise of another plan is none", hello("a~1", in(Prepared, p)), []Hello{hello("b~1", in(Prepared, p)), hello("c~1", in(Prepared, swapped))}, "", Plan{}, "waits for the promise of c"},
		{"all promises: the coordinator forms", hello("a~1", in(Prepared, p)), []Hello{hello("b~1", in(Prepared, p)), hello("c~1", in(Prepared, p))}, Formed, p, ""},
		{"not while one is away", hello("a~1", in(Prepared, p)), []Hello{hello("b~1", in(Prepared, p))}, "", Plan{}, "sees 2 of 3"},
		{"the others form behind it", hello("b~1", in(Prepared, p)), []Hello{hello("a~1", in(Formed, p)), hello("c~1", in(Prepared, p))}, Formed, p, ""},
		{"one formed peer is enough", hello("b~1", in(Prepared, p)), []Hello{hello("c~1", in(Formed, p))}, Formed, p, ""},

		{"a disk was swapped: the coordinator promises anew", hello("a~1", in(Prepared, p)), []Hello{hello("b~1", in(Prepared, p)), hello("c~2")}, Prepared, swapped, ""},
		{"and the others follow", hello("b~1", in(Prepared, p)), []Hello{hello("a~1", in(Prepared, swapped)), hello("c~2")}, Prepared, swapped, ""},
		{"both disks are seen for a moment", hello("a~1", in(Prepared, p)), []Hello{hello("b~1"), hello("c~1", in(Prepared, p)), hello("c~2")}, "", Plan{}, "two nodes are named c"},

		{"formed stays formed", hello("a~1", in(Formed, p)), nil, Formed, p, ""},
		{"whatever it sees", hello("a~1", in(Formed, p)), []Hello{hello("a~2"), hello("c~2", in(Formed, swapped)), hello("d~1", expects(9))}, Formed, p, ""},
		{"a blank disk does not join a formed cluster", hello("c~2"), []Hello{hello("a~1", in(Formed, p)), hello("b~1", in(Formed, p))}, "", Plan{}, "of a, b, c; the disk of this node (c~2) is new to it"},
		{"nor one that promised another plan", hello("c~2", in(Prepared, swapped)), []Hello{hello("a~1", in(Formed, p))}, "", Plan{}, "is formed already"},

		{"nor one that promised another plan since, for one disk that it hears", hello("b~1", in(Prepared, swapped)), []Hello{hello("a~1", in(Formed, p)), hello("c~2", in(Prepared, swapped))}, "", Plan{}, "which may be formed too"},
		{"a majority without it cannot be outvoted by that other plan", hello("b~1", in(Prepared, swapped)), []Hello{hello("a~1", in(Formed, p)), hello("c~1", in(Formed, p))}, Formed, p, ""},
		{"its own promise goes before", hello("b~1", in(Prepared, swapped)), []Hello{hello("a~1", in(Formed, p)), hello("c~2", in(Formed, swapped))}, Formed, swapped, ""},

		{"one node alone prepares", hello("a~1", expects(1)), nil, Prepared, planOf([]string{"a~1"}), ""},
		{"and forms", hello("a~1", expects(1), in(Prepared, planOf([]string{"a~1"}))), nil, Formed, planOf([]string{"a~1"}), ""},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := next(r.self, r.others)
			if got.state != r.state || !got.plan.equal(r.plan) || (got.wait == "") != (r.wait == "") || !strings.Contains(got.wait, r.wait) {
				t.Fatalf("got %+v\nwant state %q, plan %v, wait %q", got, r.state, r.plan, r.wait)
			}
		})
	}
}

// The coordinator's disk has formed the cluster and is lost before anybody hears of it; a new disk in its place forms another one with the same others. One of those has promised and is away. When it comes
// back it hears the old disk, which somebody has put in again. Once two clusters had a majority of their members then.
func TestTwoClustersAreNotFormed(t *testing.T) {
	a1, a2, b, c := hello("a~1"), hello("a~2"), hello("b~1"), hello("c~1")
	move := func(self *Hello, others ...Hello) {
		if s := next(*self, others); s.wait == "" {
			self.State, self.Plan = s.state, s.plan
		}
	}
	move(&a1, b, c)
	move(&b, a1, c)
	move(&c, a1, b)
	move(&a1, b, c) // formed, and gone
	move(&a2, b, c)
	move(&b, a2, c)
	move(&c, a2, b) // and away
	move(&a2, b, c)
	move(&b, a2)
	if a1.State != Formed || a2.State != Formed || b.State != Formed || !b.Plan.equal(a2.Plan) {
		t.Fatalf("the story is another one: %+v, %+v, %+v", a1, a2, b)
	}
	if move(&c, a1); c.State != Prepared {
		t.Errorf("c is %s in %v when it hears %s", c.State, c.Plan, a1.ServerID)
	}
	if move(&c, a1, a2, b); c.State != Formed || !c.Plan.equal(a2.Plan) {
		t.Errorf("c is %s in %v when it hears all", c.State, c.Plan)
	}
}

func TestPlanOf(t *testing.T) {
	ids := []string{"c~1", "a~1", "b~1"}
	p := planOf(ids)
	if !slices.Equal(p.Members, []string{"a~1", "b~1", "c~1"}) || len(p.Cluster) != 16 {
		t.Errorf("got %+v", p)
	}
	if ids[0] != "c~1" {
		t.Error("the caller's list was sorted")
	}
	if q := planOf([]string{"a~1", "b~1", "c~2"}); q.Cluster == p.Cluster {
		t.Error("other disks have the same cluster id")
	}
}

// world is n nodes with their disks and what each has last heard of the others.
type world struct {
	t      *rapid.T
	expect int
	disks  []Hello // what is on each node's disk
	up     []bool
	heard  []map[string]Hello // by node: fresh hellos by server id; lost in a crash
	swaps  int
	formed map[string]Plan // what a disk formed, for ever
}

func (w *world) step(i int) {
	if !w.up[i] {
		return
	}
	var others []Hello
	for _, h := range w.heard[i] {
		others = append(others, h)
	}
	st := next(w.disks[i], others)
	if st.wait == "" {
		w.disks[i].State, w.disks[i].Plan = st.state, st.plan
	}
	w.check()
}

func (w *world) send(from, to int) {
	if w.up[from] && w.up[to] && from != to {
		w.heard[to][w.disks[from].ServerID] = w.disks[from]
	}
}

// check holds after every step.
func (w *world) check() {
	for _, d := range w.disks {
		if before, was := w.formed[d.ServerID]; was && (d.State != Formed || !d.Plan.equal(before)) {
			w.t.Fatalf("%s was formed in %v and is now %s in %v", d.ServerID, before, d.State, d.Plan)
		}
		if d.State != Formed {
			continue
		}
		w.formed[d.ServerID] = d.Plan
		if !slices.Contains(d.Plan.Members, d.ServerID) || len(d.Plan.Members) != w.expect {
			w.t.Fatalf("%s formed %v", d.ServerID, d.Plan)
		}
		for id, p := range w.formed {
			if !p.equal(d.Plan) {
				w.t.Fatalf("%s formed %v, %s formed %v", id, p, d.ServerID, d.Plan)
			}
		}
	}
}

// Hellos are lost, nodes crash and come back at any step, and disks are swapped before the first node has formed. Nobody ever disagrees with who is formed; when
// all are up and hellos arrive, every disk that is in the plan ends formed.
func TestFormationUnderFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "nodes")
		w := &world{t: t, expect: n, formed: map[string]Plan{}}
		for i := range n {
			w.disks = append(w.disks, hello(fmt.Sprintf("%c~0", 'a'+i), expects(n)))
			w.up = append(w.up, true)
			w.heard = append(w.heard, map[string]Hello{})
		}
		node := rapid.IntRange(0, n-1)
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			i := node.Draw(t, "node")
			switch rapid.SampledFrom([]string{"send", "send", "send", "step", "step", "round", "crash", "start", "silence", "swap"}).Draw(t, "what") {
			case "send":
				w.send(i, node.Draw(t, "to"))
			case "step":
				w.step(i)
			case "round":
				w.round()
			case "crash":
				w.up[i], w.heard[i] = false, map[string]Hello{}
			case "start":
				w.up[i] = true
			case "silence": // i has heard nothing of another for so long that it counts as down
				delete(w.heard[i], w.disks[node.Draw(t, "of")].ServerID)
			case "swap":
				if len(w.formed) == 0 {
					w.swaps++
					w.disks[i] = hello(fmt.Sprintf("%c~%d", 'a'+i, w.swaps), expects(n))
					w.heard[i] = map[string]Hello{}
				}
			}
		}
		for i := range n {
			w.up[i] = true
			for id := range w.heard[i] { // disks that are gone fall silent
				if !slices.ContainsFunc(w.disks, func(d Hello) bool { return d.ServerID == id }) {
					delete(w.heard[i], id)
				}
			}
		}
		for range 6 {
			w.round()
		}
		for _, d := range w.disks {
			listed := true // a disk that was put in after the last promise was heard belongs to no cluster: the others count it as lost
			for _, p := range w.formed {
				listed = slices.Contains(p.Members, d.ServerID)
			}
			if len(w.formed) == 0 || listed != (d.State == Formed) {
				t.Fatalf("all are up and %s is %s: %+v", d.ServerID, d.State, w.disks)
			}
		}
	})
}

func (w *world) round() {
	for i := range w.disks {
		for j := range w.disks {
			w.send(i, j)
		}
	}
	for i := range w.disks {
		w.step(i)
	}
}
