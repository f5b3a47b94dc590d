package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestRecreatedStores drops stores and creates them again, many at the same time and each by another node than the one it is written at, as test suites with a tenant each do. Every node has
// one drop after the other to carry out, so it has stores open for a while that are dropped. What is asked behind the answer of a create is about the new store, and what is asked behind that
// of a drop is refused.
func TestRecreatedStores(t *testing.T) {
	c := start(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*testcluster.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 24 {
		cl, other := c.client(w%3), c.client((w+1)%3)
		name := fmt.Sprintf("tenant-%d", w)
		wg.Go(func() { // ends after its rounds
			for round := range 8 {
				put, err := cl.CreateStore(ctx, name, api.ConfigPutRequest{})
				if err != nil || put.Incarnation != uint64(round+1) {
					t.Errorf("create %s: %v %+v", name, err, put)
					return
				}
				res, err := other.Store(name).Append(ctx, "s", []api.NewEvent{{Type: "T"}}, client.Any)
				if err != nil || res.Position != 1 {
					t.Errorf("behind the create of incarnation %d of %s an append is answered %+v, %v", put.Incarnation, name, res, err)
					return
				}
				info, err := other.Store(name).Info(ctx)
				if err != nil || info.Incarnation != put.Incarnation || info.Events != 1 {
					t.Errorf("behind the create of incarnation %d of %s a read is answered %+v, %v", put.Incarnation, name, info, err)
					return
				}
				_, err = cl.DeleteStore(ctx, name, api.ConfigDeleteRequest{})
				for errors.Is(err, api.ErrOutcomeUnknown) || errors.Is(err, api.ErrTimeout) { // a store that is closed waits a second for entries under way, and a slow machine has many
					_, err = cl.DeleteStore(ctx, name, api.ConfigDeleteRequest{})
				}
				if errors.Is(err, api.ErrConfigNotFound) { // by the first try, whose answer nobody has
					continue
				}
				if err != nil {
					t.Errorf("delete %s: %v", name, err)
					return
				}
				if res, err := other.Store(name).Append(ctx, "s", []api.NewEvent{{Type: "T"}}, client.Any); !errors.Is(err, api.ErrStoreNotFound) {
					t.Errorf("behind the drop of incarnation %d of %s an append is answered %+v, %v", put.Incarnation, name, res, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
