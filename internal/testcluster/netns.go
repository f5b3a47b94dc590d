package testcluster

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// Network is hosts that can be cut off from each other: a network namespace each, on a bridge in a namespace of its own, where no firewall of this machine
// has a say. The test itself is on the bridge too, and what is done to hosts is done between them only, but for Close: it reaches them all, always.
//
// All names hold the test's process id, so that what a killed test left behind is known and removed by the next one.
type Network struct {
	Hosts  []*Host
	t      testing.TB
	prefix string // of names
	subnet string // first three numbers of the addresses
}

// Host is one namespace.
type Host struct {
	IP  string
	net *Network
	ns  string
}

var networks atomic.Int64

// NewNetwork makes n hosts, or skips the test when that is not possible here. The network goes with the test.
func NewNetwork(t testing.TB, n int) *Network {
	t.Helper()
	NeedRoot(t, "network namespaces", "ip", "iptables", "nsenter")
	sweepNetworks()
	nw := &Network{t: t, prefix: fmt.Sprintf("q%d-%d", os.Getpid(), networks.Add(1)), subnet: freeSubnet(t)}
	t.Cleanup(nw.remove)
	link := func(i int) string { return fmt.Sprintf("q%dv%d", os.Getpid(), i) } // at most 15 letters
	sw := nw.prefix + "-sw"
	run := func(command string, args ...any) {
		t.Helper()
		if out, err := output(fmt.Sprintf(command, args...)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := output("ip netns add " + sw); err != nil { // as in a container without the right to
		t.Skipf("NOT RUN: no network can be made here: %v: %s", err, out)
	}
	run("ip -n %s link add name bridge0 type bridge", sw)
	run("ip -n %s link set bridge0 up", sw)
	plug := func(i int) {
		run("ip -n %s link set %s master bridge0", sw, link(i))
		run("ip -n %s link set %s up", sw, link(i))
	}
	test := fmt.Sprintf("q%dt", os.Getpid())
	run("ip link add %s type veth peer name %s netns %s", test, link(0), sw)
	run("ip addr add %s.254/24 dev %s", nw.subnet, test)
	run("ip link set %s up", test)
	plug(0)
	for i := 1; i <= n; i++ {
		h := &Host{IP: fmt.Sprintf("%s.%d", nw.subnet, i), net: nw, ns: fmt.Sprintf("%s-n%d", nw.prefix, i)}
		nw.Hosts = append(nw.Hosts, h)
		run("ip netns add %s", h.ns)
		run("ip -n %s link add eth0 type veth peer name %s netns %s", h.ns, link(i), sw)
		run("ip -n %s addr add %s/24 dev eth0", h.ns, h.IP)
		run("ip -n %s link set lo up", h.ns)
		run("ip -n %s link set eth0 up", h.ns)
		plug(i)
	}
	return nw
}

// NeedRoot skips the test, and says so, unless it is run by root and the programs are there.
func NeedRoot(t testing.TB, what string, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skipf("NOT RUN: %s need root", what)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("NOT RUN: %s need the program %s; make e2e installs it", what, p)
		}
	}
}

func output(command string) (string, error) {
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w", command, err)
	}
	return strings.TrimSpace(string(out)), err
}

// freeSubnet returns one that this machine has no address in.
func freeSubnet(t testing.TB) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	used := fmt.Sprint(addrs)
	for i := range 250 {
		s := fmt.Sprintf("10.213.%d", (os.Getpid()+i)%250)
		if !strings.Contains(used, s+".") {
			return s
		}
	}
	t.Skip("NOT RUN: all subnets 10.213.x are in use")
	return ""
}

var ours = regexp.MustCompile(`(?m)^q(\d+)-\S+`)

// sweepNetworks removes what tests left that were killed. A host's namespace lives as long as its processes, which ended with the test.
func sweepNetworks() {
	out, _ := output("ip netns list")
	for _, found := range ours.FindAllStringSubmatch(out, -1) {
		if _, err := os.Stat("/proc/" + found[1]); os.IsNotExist(err) {
			output("ip netns del " + found[0])
		}
	}
}

func (nw *Network) remove() {
	for _, h := range nw.Hosts {
		output("ip netns del " + h.ns)
	}
	output(fmt.Sprintf("ip link del q%dt", os.Getpid()))
	output("ip netns del " + nw.prefix + "-sw")
}

// Places puts a node on each host. nsenter changes the network only; ip netns exec would give each node its own copy of all mounts, and keep a disk alive whose power was cut.
func (nw *Network) Places() (places []Place) {
	for _, h := range nw.Hosts {
		places = append(places, Place{Host: h.IP, In: []string{"nsenter", "--net=/run/netns/" + h.ns}})
	}
	return places
}

func (h *Host) rule(format string, args ...any) {
	h.net.t.Helper()
	if out, err := output(fmt.Sprintf("ip netns exec %s iptables -w ", h.ns) + fmt.Sprintf(format, args...)); err != nil {
		h.net.t.Fatalf("%v: %s", err, out)
	}
}

// Deafen makes the host hear nothing from the others.
func (h *Host) Deafen(from ...*Host) {
	h.net.t.Helper()
	for _, other := range from {
		h.rule("-A INPUT -s %s -j DROP", other.IP)
	}
}

// Others returns all hosts but this one.
func (h *Host) Others() (out []*Host) {
	for _, o := range h.net.Hosts {
		if o != h {
			out = append(out, o)
		}
	}
	return out
}

// Isolate cuts the host off from all others, in both directions.
func (h *Host) Isolate() {
	h.net.t.Helper()
	h.Deafen(h.Others()...)
	h.Mute()
}

// Mute makes nobody hear the host.
func (h *Host) Mute() {
	h.net.t.Helper()
	for _, o := range h.Others() {
		o.Deafen(h)
	}
}

// Close drops what comes from or goes to a port at the host, whoever sends it: what a rule of a firewall does that somebody forgot.
func (h *Host) Close(port string) {
	h.net.t.Helper()
	h.rule("-A INPUT -p tcp --dport %s -j DROP", port)
	h.rule("-A INPUT -p tcp --sport %s -j DROP", port)
}

// Lose makes every host lose a part of the packets that the others send it.
func (nw *Network) Lose(part float64) {
	nw.t.Helper()
	for _, h := range nw.Hosts {
		for _, o := range h.Others() {
			h.rule("-A INPUT -s %s -m statistic --mode random --probability %.3f -j DROP", o.IP, part)
		}
	}
}

// Dropped returns how many packets have been lost since the last Heal: a fault that dropped none was none.
func (nw *Network) Dropped() (packets int) {
	nw.t.Helper()
	for _, h := range nw.Hosts {
		out, err := output(fmt.Sprintf("ip netns exec %s iptables -w -nvxL INPUT", h.ns))
		if err != nil {
			nw.t.Fatalf("%v: %s", err, out)
		}
		for line := range strings.Lines(out) {
			var n int
			if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "DROP" {
				fmt.Sscan(fields[0], &n)
				packets += n
			}
		}
	}
	return packets
}

// Heal ends all faults and returns how many packets they dropped.
func (nw *Network) Heal() (dropped int) {
	nw.t.Helper()
	dropped = nw.Dropped()
	for _, h := range nw.Hosts {
		h.rule("-F INPUT")
	}
	return dropped
}
