package natsbus

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/quorate/quorate/api"
)

// How often a node looks whether its routes changed, and so whether stores' posts went out of reach. The server says nothing to us when a route is lost, but it writes to its log, at once, and
// so whatever it writes there makes the node look often for a while.
const (
	reachEvery = 25 * time.Millisecond  // after the server has written something …
	reachAlert = time.Second            // … for so long
	reachCalm  = 250 * time.Millisecond // otherwise
	reachAgain = time.Second            // at all posts, when posts came and went …
	reachAll   = 15 * time.Second       // … and when nothing has happened
)

// reaches reports whether this node's server knows a post of the store, here or on another node.
func (b *Bus) reaches(store string) bool { return b.embedded.peers.Interest(markerPrefix+store) > 0 }

// onWrite gets a copy of write requests: each goes to one node, which NATS picks. Most are for a post, which answers them; the rest would
// be lost: for stores that do not exist, for the cluster itself, or for a store whose leader has just died.
func (b *Bus) onWrite(m micro.Request) {
	store := b.storeOf(m.Subject())
	if store != "" && store != api.ClusterStore && b.reaches(store) {
		return // a post has it, maybe the lingering one of a store that was dropped; two answers would contradict each other
	}
	r := b.accept(natsMessage{m})
	if r == nil {
		return
	}
	if r.subject.Store == api.ClusterStore {
		b.handleClusterWrite(r)
		return
	}
	b.spawn(r, func() { b.answerUnclaimed(r) })
}

// storeOf cuts the store's token out of a subject without checking anything else.
func (b *Bus) storeOf(subject string) string {
	rest, _ := strings.CutPrefix(subject, b.subjects.Of(""))
	store, _, _ := strings.Cut(rest, ".")
	return store
}

// answerUnclaimed answers a write that no post in reach can have taken.
func (b *Bus) answerUnclaimed(r *request) {
	store := r.subject.Store
	ctx, cancel := context.WithTimeout(b.ctx, readTimeout)
	defer cancel()
	known, err := b.knows(ctx, store)
	switch {
	case err != nil:
		r.fail(err)
		return
	case !known:
		r.fail(b.storeNotFound(store))
		return
	case b.reaches(store): // by now: the store was created a moment ago, or somebody stands in
		// The client's server may have known that post before ours did, and then it has the request as well.
		r.fail(api.ErrOutcomeUnknown.With("store %s was not in reach when this request came and is now, so the request may have taken effect or not; retry with the same event ids", store))
		return
	}
	if p := b.post(store); p != nil {
		p.stand() // what comes next is kept until somebody leads
	}
	// The post may have gone out of reach after it was handed the request: a leader that died just now.
	r.fail(api.ErrOutcomeUnknown.With("no leader of store %s is in reach; if it died holding this request, the request may still take effect; retry with the same event ids", store))
}

// answerDropped answers a write that was handed to the lingering post of a dropped store. The name may have been created again meanwhile, but the write is not for that store: a node that saw the lingering post go before
// it looked has answered that there is none (onWrite).
func (b *Bus) answerDropped(r *request) {
	store := r.subject.Store
	ctx, cancel := context.WithTimeout(b.ctx, readTimeout)
	defer cancel()
	known, err := b.knows(ctx, store)
	switch {
	case err != nil:
		r.fail(err)
	case !known:
		r.fail(b.storeNotFound(store))
	default:
		r.fail(api.ErrNotReady.With("store %s was dropped when this request came, and is created again by now; nothing was written; retry shortly", store))
	}
}

func (b *Bus) storeNotFound(store string) *api.Error {
	return api.ErrStoreNotFound.With("there is no store %q; create it: nats req %s ''", store, b.subjects.Write(api.ConfigStore, "put", store))
}

// knows reports whether the store exists. When this node's view does not have it, the view is brought up to date first.
func (b *Bus) knows(ctx context.Context, store string) (bool, *api.Error) {
	be := b.backend.Load()
	if store == api.ConfigStore || be.Config.Has(store) {
		return true, nil
	}
	if err := be.Config.Catchup(ctx, api.ReadOptions{}); err != nil {
		return false, err.With("whether store %s exists cannot be told now: %s", store, err.Description)
	}
	return be.Config.Has(store), nil
}

// watchReach stands in for stores whose post has gone out of reach, within reachEvery of a lost route. It ends when the bus closes.
func (b *Bus) watchReach() {
	every := reachCalm
	tick := time.NewTicker(every)
	defer tick.Stop()
	pace := func(d time.Duration) {
		if every != d {
			every = d
			tick.Reset(d)
		}
	}
	var alert, last time.Time // until when; when all posts were looked at
	routes, subs := 0, 0
	for {
		select {
		case <-b.embedded.said:
			alert = time.Now().Add(reachAlert)
			pace(reachEvery)
		case now := <-tick.C:
			if now.After(alert) {
				pace(reachCalm)
			}
		case <-b.ctx.Done():
			return
		}
		if b.stopping.Load() {
			return
		}
		r, n, since := b.embedded.server.NumRoutes(), b.embedded.peers.TotalSubs(), time.Since(last)
		if r == routes && (n == subs || since < reachAgain) && since < reachAll {
			continue
		}
		routes, subs, last = r, n, time.Now()
		for _, p := range b.allPosts() {
			if !b.reaches(p.store.Name()) {
				p.stand()
			}
		}
	}
}
