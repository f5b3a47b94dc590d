package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// onHosts starts three nodes, each on a host of its own, with a store, and clients that work.
func onHosts(t *testing.T) (*testcluster.Network, *testcluster.Cluster, *testcluster.Clients) {
	t.Helper()
	nw := testcluster.NewNetwork(t, 3)
	c := testcluster.NewAt(t, nw.Places())
	for _, n := range c.Nodes {
		n.Start()
	}
	c.WaitReady()
	c.CreateStore(c.Client(), "orders")
	clients := testcluster.NewClients(c, "orders", 6, 1)
	clients.Start()
	clients.WaitAcks(50)
	return nw, c, clients
}

func hostOf(nw *testcluster.Network, c *testcluster.Cluster, name string) *testcluster.Host {
	for i, n := range c.Nodes {
		if n.Name == name {
			return nw.Hosts[i]
		}
	}
	c.T.Fatalf("no node %q", name)
	return nil
}

// TestPartitions cuts the leader's host off, both ways and each way alone, and then a follower's, under load through all nodes. Whenever a majority is connected it
// takes writes; after each cut every node takes them within ten seconds; and the history holds.
func TestPartitions(t *testing.T) {
	nw, c, clients := onHosts(t)
	cl := c.Client()
	at := make(map[string]*client.Client)
	for _, n := range c.Nodes {
		at[n.Name] = client.New(n.Connect(), client.WithTryTimeout(2*time.Second))
	}
	for _, row := range []struct {
		name     string
		follower bool
		cut      func(*testcluster.Host)
	}{
		{"the leader is cut off", false, (*testcluster.Host).Isolate},
		{"the leader hears nobody", false, func(h *testcluster.Host) { h.Deafen(h.Others()...) }},
		{"nobody hears the leader", false, (*testcluster.Host).Mute},
		{"a follower is cut off", true, (*testcluster.Host).Isolate},
	} {
		leader := c.Leader(cl, "orders")
		host := hostOf(nw, c, leader.Leader)
		if row.follower {
			host = host.Others()[0]
		}
		row.cut(host)
		if !row.follower {
			began := time.Now()
			testcluster.Eventually(t, row.name+": another node leads", func() error { return leadsElsewhere(at, leader.Leader) })
			t.Logf("%s: another node led after %v", row.name, time.Since(began).Round(time.Millisecond))
		}
		clients.WaitAcks(60)
		dropped := nw.Heal()
		t.Logf("%s: %d packets dropped; healed after %v", row.name, dropped, clients.WritableSoon().Round(time.Millisecond))
		if dropped == 0 {
			t.Errorf("%s: no packet was dropped: there was no fault", row.name)
		}
		if t.Failed() {
			break
		}
	}
	clients.WaitAcks(50)
	clients.Stop()
	clients.LogCounts(t, 300)
	c.WaitReady()
	clients.Check()
}

// leadsElsewhere returns nil when a node other than the named one says that yet another one leads the store than that.
func leadsElsewhere(at map[string]*client.Client, not string) error {
	last := errors.New("nobody was asked")
	for name, cl := range at {
		if name == not {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		res, err := cl.Leaders(ctx)
		cancel()
		if last = err; err != nil {
			continue
		}
		for _, s := range res.Stores {
			if s.Store == "orders" && s.Leader != "" && s.Leader != not {
				return nil
			}
		}
		last = fmt.Errorf("%s knows no other leader", name)
	}
	return last
}

// TestPacketLoss loses three of ten packets between all nodes for a while. What is acknowledged meanwhile is kept, and when the network is well again so is the store.
func TestPacketLoss(t *testing.T) {
	nw, c, clients := onHosts(t)
	nw.Lose(0.3)
	clients.WaitAcks(50)
	dropped := nw.Heal()
	t.Logf("%d packets dropped; healed after %v", dropped, clients.WritableSoon().Round(time.Millisecond))
	if dropped < 100 {
		t.Errorf("only %d packets were dropped", dropped)
	}
	clients.WaitAcks(100)
	clients.Stop()
	clients.LogCounts(t, 200)
	c.WaitReady()
	clients.Check()
}

// TestLongPartition cuts a follower's host off for so long that TCP would take as long again to notice that it is back.
func TestLongPartition(t *testing.T) {
	soak(t)
	nw, c, clients := onHosts(t)
	host := hostOf(nw, c, c.Leader(c.Client(), "orders").Leader)
	for _, h := range []*testcluster.Host{host.Others()[0], host} {
		h.Isolate()
		end := time.After(40 * time.Second) // the time is the fault
		<-end
		clients.WaitAcks(50)
		dropped := nw.Heal()
		t.Logf("%d packets dropped; healed after %v", dropped, clients.WritableSoon().Round(time.Millisecond))
	}
	clients.WaitAcks(100)
	clients.Stop()
	clients.LogCounts(t, 250)
	c.WaitReady()
	clients.Check()
}
