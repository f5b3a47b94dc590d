package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestFullDisk: a node whose disk is full ends instead of acknowledging what it cannot keep; the others go on; with room it comes back and has everything.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: a small file system needs root to be mounted")
	}
	c := testcluster.New(t, 3)
	full := c.Nodes[2]
	if err := os.MkdirAll(full.Data, 0o750); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", full.Data).CombinedOutput(); err != nil {
		t.Skipf("NOT RUN: no file system can be mounted here: %v %s", err, out)
	}
	t.Cleanup(func() {
		full.Kill()
		exec.Command("umount", full.Data).Run()
	})
	for _, n := range c.Nodes {
		n.Start()
	}
	c.WaitReady()
	cl := c.Client()
	c.CreateStore(cl, "orders")
	load := testcluster.StartLoad([]*client.Client{client.New(c.Nodes[0].Connect()), client.New(c.Nodes[1].Connect())}, "orders", 2)
	big := fmt.Sprintf(`{"events":[{"type":"Big","data":%q}]}`, strings.Repeat("x", 200_000))
	nc := c.Nodes[0].Connect()
	for i := 0; full.Running() && i < 300; i++ {
		nc.Request("es.orders.write.append.big", []byte(big), requestTimeout) // the node may die holding it
	}
	if code := full.WaitExit(); code != 3 {
		t.Fatalf("the node with the full disk ended with exit code %d\n%s", code, full.Log())
	}
	if !strings.Contains(full.Log(), "no space left") {
		t.Errorf("it does not say why:\n%s", full.Log())
	}
	load.WaitAcks(t, 50) // the others go on
	if out, err := exec.Command("mount", "-o", "remount,size=500m", full.Data).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	full.Start()
	c.WaitReady()
	load.WaitAcks(t, 20)
	load.Stop(t)
	c.WaitSame("orders")
	want, _ := request[api.StoreInfoResponse](t, c.Nodes[0].Connect(), "es.orders.read.info", "")
	got, _ := request[api.StoreInfoResponse](t, full.Connect(), "es.orders.read.info", "")
	if want.LastPosition != got.LastPosition {
		t.Errorf("the node that was full is at position %d, the others at %d", got.LastPosition, want.LastPosition)
	}
}

// TestDamagedReplica: a replica whose file is damaged is set aside and named; the node's other stores and the other nodes go on, and no wrong event is
// read.
func TestDamagedReplica(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	first := c.CreateStore(cl, "orders")
	c.CreateStore(cl, "invoices")
	load := testcluster.StartLoad(clients(c, 1), "orders", 2)
	load.WaitAcks(t, 30)
	load.Stop(t)
	c.WaitSame("orders")
	n := c.Nodes[0]
	if first.Leader == n.Name {
		n = c.Nodes[1]
	}
	record, failed := request[api.ConfigGetResponse](t, cl.Conn(), "es.config.read.get.orders", "")
	if failed != nil {
		t.Fatal(failed)
	}
	n.Kill()
	file := filepath.Join(n.Data, "stores", fmt.Sprintf("%d-%d", record.ID, record.Incarnation), "store.db")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(raw, bytes.Repeat([]byte{0xff}, 8192)) // both of bbolt's meta pages
	if err := os.WriteFile(file, raw, 0o640); err != nil {
		t.Fatal(err)
	}
	n.Start()
	testcluster.Eventually(t, "the replica is named as damaged", func() error {
		h, err := n.Health()
		if err == nil && (h.Ready || len(h.Stores) == 0 || h.Stores[0].Store != "orders" || h.Stores[0].Status != "damaged") {
			return fmt.Errorf("%+v", h)
		}
		return err
	})
	nc := n.Connect()
	if _, failed := request[api.AppendResponse](t, nc, "es.invoices.write.append.i", `{"events":[{"type":"A"}]}`); failed != nil {
		t.Errorf("another store at the same node: %v", failed)
	}
	if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.load-0", `{"events":[{"type":"A"}],"expected_version":-1}`); failed == nil || failed.Code != 409 {
		t.Errorf("the same store through the same node's NATS: %v", failed)
	}
	for range 12 { // some of them reach the damaged replica's node, which asks another
		if read, failed := request[api.ReadResponse](t, nc, "es.orders.read.all", ""); failed != nil || len(read.Events) < 30 {
			t.Errorf("a read: %v %+v", failed, read)
		}
	}
	for _, other := range c.Nodes {
		if other != n {
			load.Check(t, client.New(other.Connect()), api.Local)
		}
	}
}

// oneEvent is what flipABit appends.
const oneEvent = `{"events":[{"id":"e1","type":"A","data":{"total":12}}]}`

// flipABit appends an event to orders, of which it flips a bit in the state file of a node that does not lead the store. All nodes are ready when it returns: nobody has looked at the event yet.
func flipABit(t *testing.T, c *testcluster.Cluster, nc *nats.Conn, leader string) *testcluster.Node {
	t.Helper()
	if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.s", oneEvent); failed != nil {
		t.Fatal(failed)
	}
	c.WaitSame("orders")
	n := c.Nodes[0]
	if leader == n.Name {
		n = c.Nodes[1]
	}
	record, failed := request[api.ConfigGetResponse](t, nc, "es.config.read.get.orders", "")
	if failed != nil {
		t.Fatal(failed)
	}
	if code := n.Stop(); code != 0 { // on purpose: the state file then holds the event
		t.Fatalf("exit code %d", code)
	}
	db, err := bolt.Open(filepath.Join(n.Data, "stores", fmt.Sprintf("%d-%d", record.ID, record.Incarnation), "store.db"), 0o640, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		events := tx.Bucket([]byte("events"))
		k, v := events.Cursor().First()
		v = bytes.Clone(v)
		v[len(v)-3] ^= 1
		return events.Put(bytes.Clone(k), v)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	n.Start()
	c.WaitReady()
	return n
}

// waitSetAside returns once the node says that its replica of orders is damaged, and nothing else is wrong there.
func waitSetAside(t *testing.T, n *testcluster.Node, when string) {
	t.Helper()
	testcluster.Eventually(t, "the replica is set aside "+when, func() error {
		h, err := n.Health()
		if err == nil && (h.Ready || len(h.Stores) != 1 || h.Stores[0].Store != "orders" || h.Stores[0].Status != "damaged") {
			return fmt.Errorf("%+v", h)
		}
		return err
	})
}

// TestDamageMetWhileApplying: a replica that meets a flipped bit while it applies an entry is set aside, and stays so over a restart; its node's other
// stores and the other replicas go on, and the append that met it is answered.
func TestDamageMetWhileApplying(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	leader := c.CreateStore(cl, "orders").Leader
	c.CreateStore(cl, "invoices")
	nc := cl.Conn()
	n := flipABit(t, c, nc, leader)
	c.WaitSame("orders")
	again, failed := request[api.AppendResponse](t, c.Nodes[2].Connect(), "es.orders.write.append.s", oneEvent)
	if failed != nil || !again.Duplicate {
		t.Errorf("the retry: %v %+v", failed, again)
	}
	for _, when := range []string{"at once", "after a restart"} {
		waitSetAside(t, n, when)
		if _, failed := request[api.AppendResponse](t, n.Connect(), "es.invoices.write.append.i", `{"events":[{"type":"A"}]}`); failed != nil {
			t.Errorf("another store at the node, %s: %v", when, failed)
		}
		if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.s", `{"events":[{"type":"B"}]}`); failed != nil {
			t.Errorf("the store itself, %s: %v", when, failed)
		}
		if when == "at once" {
			n.Kill()
			n.Start()
		}
	}
}

// TestDamageMetByAReader: whoever reads an event of which a replica has a flipped bit is answered with what another node has, and the replica is set aside.
func TestDamageMetByAReader(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := c.Client()
	n := flipABit(t, c, cl.Conn(), c.CreateStore(cl, "orders").Leader)
	nc := n.Connect() // reads of a node's clients are its own to answer
	for _, when := range []string{"that meets it", "at a replica that is set aside"} {
		read, failed := request[api.ReadResponse](t, nc, "es.orders.read.all", `{"consistency":"local"}`)
		if failed != nil || len(read.Events) != 1 || string(read.Events[0].Data) != `{"total":12}` {
			t.Errorf("a read %s: %v %+v", when, failed, read)
		}
		waitSetAside(t, n, "after a read "+when)
	}
}
