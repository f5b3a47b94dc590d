package cluster

import (
	"strings"
	"testing"
	"time"
)

func uses(prefix string) func(*Hello) { return func(h *Hello) { h.Prefix = prefix } }

func TestTroubleOf(t *testing.T) {
	p, other := planOf([]string{"a~1", "b~1", "c~1"}), planOf([]string{"d~1", "e~1", "f~1"})
	small, large := planOf([]string{"d~1", "e~1"}), planOf([]string{"d~1", "e~1", "f~1", "g~1", "h~1"})
	self := hello("a~1", in(Formed, p), uses("es"))
	rows := []struct {
		name    string
		self    Hello
		others  []Hello
		foreign bool
		reason  string // a part of it; empty: there is no trouble
	}{
		{"alone", self, nil, false, ""},
		{"its own cluster", self, []Hello{hello("b~1", in(Formed, p), uses("es")), hello("c~1", in(Formed, p), uses("es"))}, false, ""},
		{"members that are behind", self, []Hello{hello("b~1", in(Prepared, p))}, false, ""},
		{"a new disk", self, []Hello{hello("c~2", uses("events"))}, false, ""},
		{"a promise to another cluster is none yet", self, []Hello{hello("d~1", in(Prepared, other))}, false, ""},
		{"another cluster", self, []Hello{hello("b~1", in(Formed, p)), hello("d~1", in(Formed, other))}, true, "node d () of the cluster " + other.Cluster + " (d, e, f) is connected to this one, " + p.Cluster + " (a, b, c)"},
		{"a larger one", self, []Hello{hello("d~1", in(Formed, large))}, true, "node d () of the cluster " + large.Cluster},
		{"a smaller one, which refuses requests itself", self, []Hello{hello("d~1", in(Formed, small))}, false, ""},
		{"a smaller one and another", self, []Hello{hello("d~1", in(Formed, small)), hello("e~1", in(Formed, other))}, true, "node e () of the cluster " + other.Cluster},
		{"a smaller one, and another prefix", self, []Hello{hello("b~1", in(Formed, p), uses("events")), hello("d~1", in(Formed, small))}, false, "node b uses --prefix events"},
		{"of nodes of the same names", self, []Hello{hello("a~2", in(Formed, planOf([]string{"a~2", "b~2", "c~2"})))}, true, "node a () of the cluster"},
		{"a node that is not formed waits instead", hello("a~1", in(Prepared, p)), []Hello{hello("d~1", in(Formed, other))}, false, ""},
		{"another prefix", self, []Hello{hello("b~1", in(Formed, p), uses("events"))}, false, "node b uses --prefix events and this node, a, uses es"},
		{"another prefix, of a smaller part", self, []Hello{hello("b~1", in(Formed, p), uses("events")), hello("c~1", in(Formed, p), uses("es"))}, false, ""},
		{"a node that does not say its prefix", self, []Hello{hello("b~1", in(Formed, p))}, false, ""},
		{"both: the worse", self, []Hello{hello("b~1", in(Formed, p), uses("events")), hello("d~1", in(Formed, other))}, true, "is connected"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := troubleOf(r.self, r.others)
			if got.foreign != r.foreign || (got.reason == "") != (r.reason == "") || !strings.Contains(got.reason, r.reason) {
				t.Fatalf("got %+v\nwant %q, of another cluster: %v", got, r.reason, r.foreign)
			}
			if smaller := strings.Contains(r.name, "smaller") && !r.foreign; (got.warning != "") != smaller {
				t.Errorf("the warning is %q", got.warning)
			}
		})
	}
}

// TestTroubleEnds: with the goodbye of the node that causes it, or when that is not heard for so long that it counts as gone.
func TestTroubleEnds(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	_, d := formedAt(t, &now)
	stranger := hello("d~1", in(Formed, planOf([]string{"d~1", "e~1", "f~1"})))
	leaving := stranger
	leaving.Leaving = true
	for name, end := range map[string]func(){
		"it says goodbye": func() { d.hear(leaving) },
		"it is not heard": func() { now = now.Add(downAfter + 1); d.age(); d.look() },
	} {
		d.hear(hello("b~1", in(Formed, planOf(threeIDs))))
		if why := d.Foreign(); why != "" {
			t.Fatalf("%s: before, there is %q", name, why)
		}
		d.hear(stranger)
		if d.Foreign() == "" || d.Trouble() != d.Foreign() {
			t.Errorf("%s: a node of another cluster is heard, and there is %q, %q", name, d.Trouble(), d.Foreign())
		}
		if end(); d.Trouble() != "" || d.Foreign() != "" {
			t.Errorf("%s: then there is still %q", name, d.Trouble())
		}
	}
	d.hear(hello("b~1", in(Formed, planOf(threeIDs)), uses("events")))
	if d.cfg.Prefix = "es"; d.Trouble() != "" {
		t.Error("a node that does not say its prefix has another")
	}
	if d.look(); d.Trouble() == "" || d.Foreign() != "" {
		t.Errorf("another prefix: %q, %q", d.Trouble(), d.Foreign())
	}
}
