package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorate/quorate/internal/testcluster"
)

// TestStaleReadsBite plants a leader that answers reads without asking whether it still leads, and pauses leaders under load. Requests that were sent to one meanwhile wait in
// its sockets, and it answers them before it hears of its successor. The judge must find no order that explains that.
func TestStaleReadsBite(t *testing.T) {
	soak(t)
	t.Setenv("TMPDIR", t.TempDir()) // for the judge's pictures
	c := testcluster.New(t, 3)
	c.Use(testcluster.BinaryWith(t, testcluster.Edit{File: "raftnode/readindex.go", Old: "err := g.confirm(ctx, view)", New: "err := error(nil)"}))
	for _, n := range c.Nodes {
		n.Start()
	}
	c.WaitReady()
	cl := c.Client()
	c.CreateStore(cl, "orders")
	clients := testcluster.NewClients(c, "orders", 12, 4)
	for round := range 10 {
		clients.Start()
		clients.WaitAcks(50)
		leader := c.Node(c.Leader(cl, "orders").Leader)
		leader.Signal(syscall.SIGSTOP)
		pause := time.NewTimer(2500 * time.Millisecond) // the time is the fault
		<-pause.C
		leader.Signal(syscall.SIGCONT)
		clients.WaitAcks(50)
		clients.Stop()
		wrong := clients.Wrong()
		if slices.ContainsFunc(wrong, func(err error) bool { return strings.Contains(err.Error(), "no order explains") }) {
			t.Logf("round %d: %v", round, wrong[0])
			return
		}
		if len(wrong) > 0 {
			t.Fatalf("the bug that was planted should spoil reads only: %v", wrong)
		}
	}
	t.Fatal("no stale read was found")
}
