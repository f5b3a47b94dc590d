package fsm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Commands of scenarios about subscriptions:
//
//	subscribe NAME CONFIG
//	unsubscribe NAME
//	progress NAME ID [floor=N] [acked=N,…] [tried=N:ATTEMPTS,…] [parked=N:ATTEMPTS:REASON,…]
//	replay-parked NAME [N,…]
//	subscriptions
//	subscription NAME
//	parked NAME [after=N] [limit=N]

// parseSubscription returns nil when the words are no change of a subscription.
func parseSubscription(t *testing.T, words []string, opts map[string]string, number func(string, uint64) uint64) Change {
	t.Helper()
	num := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	list := func(s string) []string {
		if s == "" {
			return nil
		}
		return strings.Split(s, ",")
	}
	positionsOf := func(s string) (p []uint64) {
		for _, w := range list(s) {
			p = append(p, num(w))
		}
		slices.Sort(p)
		return p
	}
	attempt := func(s string) (Attempt, string) {
		f := append(strings.Split(s, ":"), "")
		return Attempt{Position: num(f[0]), N: int(num(f[1]))}, f[2]
	}
	switch words[0] {
	case "subscribe":
		return &SubscriptionCreate{Name: words[1], Time: testTime, Config: []byte(words[2])}
	case "unsubscribe":
		return &SubscriptionDelete{Name: words[1]}
	case "progress":
		c := &SubscriptionProgress{Name: words[1], ID: num(words[2]), Time: testTime, Floor: number("floor", 0), Acked: positionsOf(opts["acked"])}
		for _, w := range list(opts["tried"]) {
			a, _ := attempt(w)
			c.Attempts = append(c.Attempts, a)
		}
		slices.SortFunc(c.Attempts, func(a, b Attempt) int { return int(a.Position) - int(b.Position) })
		for _, w := range list(opts["parked"]) {
			a, reason := attempt(w)
			c.Parked = append(c.Parked, Park{a, reason})
		}
		return c
	case "replay-parked":
		c := &SubscriptionReplay{Name: words[1]}
		if len(words) > 2 {
			c.Positions = positionsOf(words[2])
		}
		return c
	}
	return nil
}

// lookSubscription reads what changes of subscriptions left.
func (s *scenario) lookSubscription(words []string, number func(string, uint64) uint64) (string, bool) {
	switch words[0] {
	case "subscriptions":
		list, _, err := s.f.Subscriptions()
		if err != nil {
			return err.Error() + "\n", true
		}
		out := fmt.Sprintf("%d subscriptions\n", len(list))
		for i := range list {
			out += describeSubscription(&list[i]) + "\n"
		}
		return out, true
	case "subscription":
		sub, _, err := s.f.Subscription(words[1])
		if err != nil {
			return err.Error() + "\n", true
		}
		if sub == nil {
			return "none\n", true
		}
		return describeSubscription(sub) + "\n", true
	case "parked":
		list, end, _, err := s.f.Parked(words[1], number("after", 0), int(number("limit", noLimit)))
		if err != nil {
			return err.Error() + "\n", true
		}
		out := fmt.Sprintf("%d parked, end %v\n", len(list), end)
		for _, p := range list {
			out += fmt.Sprintf("%d tried %d times: %s\n", p.Position, p.N, p.Reason)
		}
		return out, true
	}
	return "", false
}

func describeSubscription(s *Subscription) string {
	return fmt.Sprintf("%s is %d, floor %d of %d, acked %d, parked %d, done %v, again %v, tried %v", s.Name, s.ID, s.Floor, s.LastPosition, s.Acked, s.Parked, s.Done, s.Again, s.Attempts)
}
