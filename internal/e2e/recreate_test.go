package e2e

import (
	"context"
	"errors"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestRecreatedWhileNodesAreSlow plants nodes that take a moment to open and close stores, as they do while they have many others to open. What is asked behind the answer of a create is about the new store all the same, and what is
// written behind that of a drop is refused.
func TestRecreatedWhileNodesAreSlow(t *testing.T) {
	soak(t)
	c := testcluster.New(t, 3)
	c.Use(testcluster.BinaryWith(t, testcluster.Edit{
		File: "configsvc/service.go", Old: "s.cfg.Manager.Reconcile(specs)", New: "time.Sleep(300 * time.Millisecond); s.cfg.Manager.Reconcile(specs)",
	}))
	for _, n := range c.Nodes {
		n.Start()
	}
	c.WaitReady()
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	cl := c.Client()
	c.CreateStore(cl, "orders")
	if _, err := cl.Store("orders").Append(ctx, "s", []api.NewEvent{{ID: "old-1", Type: "T"}, {ID: "old-2", Type: "T"}}, client.Any); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.DeleteStore(ctx, "orders", api.ConfigDeleteRequest{}); err != nil {
		t.Fatal(err)
	}
	if res, err := cl.Store("orders").Append(ctx, "s", []api.NewEvent{{ID: "between", Type: "T"}}, client.Any); !errors.Is(err, api.ErrStoreNotFound) {
		t.Errorf("behind the answer of the delete an append is answered %+v, %v", res, err)
	}
	put, err := cl.CreateStore(ctx, "orders", api.ConfigPutRequest{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := cl.Store("orders").Append(ctx, "s", []api.NewEvent{{ID: "new-1", Type: "T"}}, client.Any)
	if err != nil {
		t.Fatal(err)
	}
	if res.Position != 1 {
		t.Errorf("behind the answer of the create (incarnation %d) an append is acknowledged at position %d of the dropped store", put.Incarnation, res.Position)
	}
	info, err := cl.Store("orders").Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.Incarnation != put.Incarnation {
		t.Errorf("behind the answer of the create of incarnation %d, read.info is of incarnation %d with %d events", put.Incarnation, info.Incarnation, info.Events)
	}
}
