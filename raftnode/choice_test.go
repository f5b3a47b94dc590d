package raftnode

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/quorate/quorate/raftnode/wal"
)

func TestChoose(t *testing.T) {
	members := []string{"a", "b", "c"}
	for _, row := range []struct {
		name    string
		store   uint64
		answers []standing
		want    verdict
	}{
		{"alone", 0, []standing{{member: "a", open: true}}, verdict{}},
		{"a closed replica does not count", 0, []standing{{member: "a", open: true}, {member: "b"}}, verdict{}},
		{"equals: the first", 0, []standing{{member: "a", open: true}, {member: "b", open: true}}, verdict{stand: "a"}},
		{"equals: by the store's number", 1, []standing{{member: "a", open: true}, {member: "b", open: true}, {member: "c", open: true}}, verdict{stand: "b"}},
		{"equals: the next one in turn", 2, []standing{{member: "a", open: true}, {member: "b", open: true}}, verdict{stand: "a"}},
		{"equals: the next one in turn goes round too", 5, []standing{{member: "a", open: true}, {member: "b", open: true}}, verdict{stand: "b"}},
		{"the longer log", 0, []standing{{member: "a", open: true, lastTerm: 2, lastIndex: 7}, {member: "b", open: true, lastTerm: 2, lastIndex: 8}}, verdict{stand: "b"}},
		{"the newer log, though shorter", 0, []standing{{member: "a", open: true, lastTerm: 3, lastIndex: 7}, {member: "b", open: true, lastTerm: 2, lastIndex: 8}}, verdict{stand: "a"}},
		{"somebody leads", 0, []standing{{member: "a", open: true, term: 3}, {member: "b", open: true, term: 3, leads: true}}, verdict{leader: "b"}},
		{"somebody leads, and no majority is needed to see it", 0, []standing{{member: "b", open: true, term: 3, leads: true}}, verdict{leader: "b"}},
		{"it led in an older term", 0, []standing{{member: "a", open: true, term: 4}, {member: "b", open: true, term: 3, leads: true}}, verdict{stand: "a"}},
		{"this one leads, says it: it does not", 0, []standing{{member: "a", open: true, term: 3, leads: true}, {member: "b", open: true}}, verdict{stand: "a"}},
		{"another one stands", 0, []standing{{member: "a", open: true}, {member: "b", open: true, stands: true}}, verdict{stand: "a", busy: true}},
		{"the better one has its turn, and too much to do", 0, []standing{{member: "a", open: true}, {member: "b", open: true, queued: true, lastTerm: 1}}, verdict{stand: "b", queued: true}},
		{"a worse one thinks that it is its turn", 0, []standing{{member: "a", open: true}, {member: "b", open: true, queued: true}}, verdict{stand: "a"}},
		{"both stand in one term", 0, []standing{{member: "a", open: true, term: 4, stands: true, candidate: true}, {member: "b", open: true, term: 4, stands: true, candidate: true}},
			verdict{stand: "a", busy: true, tied: true}},
		{"both stand, one in a newer term: the other will hear of it", 0, []standing{{member: "a", open: true, term: 4, stands: true, candidate: true}, {member: "b", open: true, term: 5, stands: true, candidate: true}},
			verdict{stand: "a", busy: true}},
		{"both stood, and one was elected", 0, []standing{{member: "a", open: true, term: 4, stands: true, candidate: true}, {member: "b", open: true, term: 4, stands: true}},
			verdict{stand: "a", busy: true}},
		{"a stranger's log does not matter", 0, []standing{{member: "a", open: true}, {member: "b", open: true}, {member: "x", open: true, lastTerm: 9}}, verdict{stand: "a"}},
	} {
		if got := choose(members, row.store, "a", row.answers); got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
}

func TestTurns(t *testing.T) {
	for n := 1; n <= 5; n++ {
		members := []string{"c", "a", "b", "e", "d"}[:n]
		first, second := map[string]int{}, map[[2]string]int{}
		for store := range uint64(120) {
			order := turns(members, store)
			if !slices.Equal(slices.Sorted(slices.Values(order)), slices.Sorted(slices.Values(members))) {
				t.Fatalf("%v: store %d has the order %v", members, store, order)
			}
			first[order[0]]++
			if n > 1 {
				second[[2]string{order[0], order[1]}]++
			}
		}
		for member, got := range first {
			if got != 120/n {
				t.Errorf("%d members: %s is first for %d of 120 stores", n, member, got)
			}
		}
		for pair, got := range second {
			if got != 120/n/(n-1) {
				t.Errorf("%d members: %s is second after %s for %d stores", n, pair[1], pair[0], got)
			}
		}
	}
}

func TestTurn(t *testing.T) {
	const ms = time.Millisecond
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, row := range []struct {
		name string
		o    orphan
		v    verdict
		want bool
	}{
		{"too few have answered", orphan{since: now}, verdict{}, false},
		{"it is the best: at once", orphan{since: now}, verdict{stand: "a"}, true},
		{"another one stands: it may succeed", orphan{since: ago(100 * ms)}, verdict{stand: "a", busy: true}, false},
		{"another one has stood for long", orphan{since: ago(standAgain)}, verdict{stand: "a", busy: true}, true},
		{"it stood a moment ago", orphan{since: ago(500 * ms), stood: ago(500 * ms)}, verdict{stand: "a"}, false},
		{"it stood, in vain", orphan{since: ago(2 * standAgain), stood: ago(standAgain)}, verdict{stand: "a"}, true},
		{"it stood twice: the second election is given two seconds", orphan{since: ago(3 * standAgain), stood: ago(2*standAgain - 1), tries: 2}, verdict{stand: "a"}, false},
		{"it stood twice, in vain", orphan{since: ago(3 * standAgain), stood: ago(2 * standAgain), tries: 2}, verdict{stand: "a"}, true},
		{"it stood twice, and now another one stands", orphan{since: ago(3 * standAgain), stood: ago(2 * standAgain), tries: 2}, verdict{stand: "a", busy: true}, false},
		{"another one has stood for long, after it stood twice", orphan{since: ago(4 * standAgain), stood: ago(3 * standAgain), tries: 2}, verdict{stand: "a", busy: true}, true},
		{"it stood often: there is an end to it", orphan{since: ago(time.Hour), stood: ago(standAgain << moreTime), tries: 40}, verdict{stand: "a"}, true},
		{"both have just stood", orphan{since: ago(200 * ms), stood: ago(100 * ms)}, verdict{stand: "a", busy: true, tied: true}, false},
		{"both stood and split the votes: the better one stands again", orphan{since: ago(200 * ms), stood: ago(tieBreak)}, verdict{stand: "a", busy: true, tied: true}, true},
		{"both stood and split the votes: the worse one keeps still", orphan{since: ago(200 * ms), stood: ago(tieBreak)}, verdict{stand: "b", busy: true, tied: true}, false},
		{"a better one is first", orphan{since: now}, verdict{stand: "b"}, false},
		{"a better one has not come", orphan{since: ago(500 * ms), patient: ago(1)}, verdict{stand: "b"}, true},
		{"a better one has not come, and has much to do", orphan{since: ago(900 * ms), patient: ago(1)}, verdict{stand: "b", queued: true}, false},
		{"a better one says for too long that it has much to do", orphan{since: ago(queueAtMost), patient: ago(1)}, verdict{stand: "b", queued: true}, true},
	} {
		if got := row.o.turn(row.v, "a", now); got != row.want {
			t.Errorf("%s: got %v", row.name, got)
		}
	}
}

// Of many groups that wait for a leader only so many are stood for at once. The others are queued, which this node's answers say, and follow as elections end.
func TestElectionsAreStaggered(t *testing.T) {
	n := &Node{cfg: Config{Identity: &Identity{Name: "a"}}}
	self, e, now := n.ServerID(), newElections(n), time.Now()
	members := []string{self, "z"}
	answers := map[*Group][]standing{}
	var asking []*Group
	for i := range 2*maxElections + 10 {
		g := &Group{node: n, cfg: GroupConfig{ID: wal.GroupID{Store: uint64(2 * i)}}, key: fmt.Sprint(i), log: slog.New(slog.DiscardHandler)}
		g.members.Store(&members)
		asking, e.orphans[g] = append(asking, g), &orphan{since: now}
		answers[g] = []standing{{member: self, open: true}, {member: "z", open: true}}
	}
	queued := func() (n int) {
		for _, g := range asking {
			if g.queued.Load() {
				n++
			}
		}
		return n
	}
	round := func(after time.Duration, want, wantQueued int) []*Group {
		t.Helper()
		now = now.Add(after)
		stand := e.decide(now, asking, answers)
		if len(stand) != want || queued() != wantQueued {
			t.Fatalf("%d groups stand and %d are queued, want %d and %d", len(stand), queued(), want, wantQueued)
		}
		return stand
	}
	first := round(0, maxElections, maxElections+10)
	round(orphanRound, 0, maxElections+10)
	for _, g := range first[:20] {
		e.found(g) // elected
	}
	round(orphanRound, 20, maxElections-10)
	for _, g := range first[20:] {
		e.found(g)
	}
	round(orphanRound, maxElections-20, 10)
	round(standAgain, maxElections, 10) // nobody was elected: they are stood for again
}
