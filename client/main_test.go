package client_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// serverURL is where the examples connect: in these tests three nodes of real processes.
var serverURL = nats.DefaultURL

// cluster is what all tests of the package share.
var cluster *testcluster.Cluster

// mainTB lets TestMain start a cluster, which wants a test to belong to.
type mainTB struct {
	testing.TB
	dir     string
	cleanup []func()
}

func (t *mainTB) Helper()                   {}
func (t *mainTB) Failed() bool              { return false }
func (t *mainTB) TempDir() string           { return t.dir }
func (t *mainTB) Cleanup(f func())          { t.cleanup = append(t.cleanup, f) }
func (t *mainTB) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *mainTB) Fatal(a ...any)            { t.end(); fmt.Fprintln(os.Stderr, a...); os.Exit(1) }
func (t *mainTB) Fatalf(f string, a ...any) { t.Fatal(fmt.Sprintf(f, a...)) }

func (t *mainTB) end() {
	for i := len(t.cleanup) - 1; i >= 0; i-- {
		t.cleanup[i]()
	}
	t.cleanup = nil
	os.RemoveAll(t.dir)
	testcluster.CleanUp()
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "quorate-client-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	t := &mainTB{dir: dir}
	cluster = testcluster.Start(t, 3)
	serverURL = cluster.Nodes[0].URL()
	code := m.Run()
	t.end()
	os.Exit(code)
}

var stores int

// newStore creates a store whose name begins so.
func newStore(t *testing.T, name string) *client.Store {
	t.Helper()
	stores++
	name = fmt.Sprintf("%s-%d", name, stores)
	nc, err := nats.Connect(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	cl := client.New(nc, client.WithTryTimeout(3*time.Second))
	shared := *cluster
	shared.T = t
	shared.CreateStore(cl, name)
	return cl.Store(name)
}
