package transport

import (
	"context"
	"sync"
	"testing"
)

// Calls whose handler waits for other calls once took all the workers of those: with more of them under way at each of two nodes than there are workers, every one waited for
// one that had no worker, and so did the probes that tell that a node lives.
func TestCallsThatWaitLeaveRoomForThoseTheyWaitFor(t *testing.T) {
	const waits, quick, n = 1, 2, maxCalls + 44
	var b book
	nodes := make(map[string]*Transport)
	arrived := map[string]*sync.WaitGroup{"n1~a": new(sync.WaitGroup), "n2~b": new(sync.WaitGroup)}
	node := func(id string) {
		arrived[id].Add(n)
		nodes[id] = listen(t, &b, id, func(c *Config) {
			c.Waits = func(method byte) bool { return method == waits }
			c.Handler = func(ctx context.Context, from string, method byte, body []byte) ([]byte, error) {
				if method == quick {
					return body, nil
				}
				arrived[id].Done()
				all := make(chan struct{})
				go func() { // ends when all calls are here, or with the test
					arrived[id].Wait()
					close(all)
				}()
				select {
				case <-all:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return nodes[id].Call(ctx, from, quick, body)
			}
		})
	}
	node("n1~a")
	node("n2~b")
	ctx := testContext(t)
	var wg sync.WaitGroup
	for from, to := range map[string]string{"n1~a": "n2~b", "n2~b": "n1~a"} {
		for range n {
			wg.Go(func() {
				if got, err := nodes[from].Call(ctx, to, waits, []byte("x")); err != nil || string(got) != "x" {
					t.Errorf("from %s: got %q, %v", from, got, err)
				}
			})
		}
	}
	wg.Wait()
}
