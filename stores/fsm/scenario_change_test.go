package fsm

import (
	"fmt"
	"math"
	"testing"
)

// Commands of scenarios that are not about events:
//
//	snapshot STREAM VERSION [keep=N] [data=JSON] [type=T]
//	snapshot-drop STREAM [version=N|upto=N]
//	snapshots STREAM                      newest first
//	snapshot-at STREAM [version=N]        the newest that is not above
//
// and those of scenario_subscription_test.go.

// parseChange returns nil when the words are no change.
func parseChange(t *testing.T, words []string, opts map[string]string, number func(string, uint64) uint64) Change {
	t.Helper()
	switch words[0] {
	case "snapshot":
		c := &SnapshotChange{Op: SnapshotPut, Stream: words[1], Time: testTime, Keep: int(number("keep", 0)), Type: opts["type"], Data: []byte(opts["data"]), JSON: true}
		if _, err := fmt.Sscan(words[2], &c.Version); err != nil {
			t.Fatal(err)
		}
		return c
	case "snapshot-drop":
		c := &SnapshotChange{Op: SnapshotDropAll, Stream: words[1], Data: []byte{}}
		if _, given := opts["version"]; given {
			c.Op, c.Version = SnapshotDrop, number("version", 0)
		}
		if _, given := opts["upto"]; given {
			c.Op, c.Version = SnapshotDropUpTo, number("upto", 0)
		}
		return c
	}
	return parseSubscription(t, words, opts, number)
}

// look reads what changes left.
func (s *scenario) look(t *testing.T, words []string, number func(string, uint64) uint64) (string, bool) {
	t.Helper()
	switch words[0] {
	case "snapshots":
		list, _, err := s.f.AggregateSnapshots(words[1])
		if err != nil {
			return err.Error() + "\n", true
		}
		out := fmt.Sprintf("%d snapshots\n", len(list))
		for _, i := range list {
			out += fmt.Sprintf("%d %s %d bytes\n", i.Version, i.Type, i.Bytes)
		}
		return out, true
	case "snapshot-at":
		snapshot, _, err := s.f.AggregateSnapshot(words[1], number("version", math.MaxUint64))
		if err != nil {
			return err.Error() + "\n", true
		}
		if snapshot == nil {
			return "none\n", true
		}
		return fmt.Sprintf("%d %s\n", snapshot.Version, snapshot.Body()), true
	}
	return s.lookSubscription(words, number)
}

// describeValue prints what a change answered.
func describeValue(value any) string {
	switch v := value.(type) {
	case SnapshotResult:
		return fmt.Sprintf("replaced %v, dropped %d", v.Replaced, v.Dropped)
	case SubscriptionCreated:
		return fmt.Sprintf("created %v: %s", v.Created, describeSubscription(&v.Subscription))
	case bool:
		return fmt.Sprintf("deleted %v", v)
	case uint64:
		return fmt.Sprintf("floor %d", v)
	case []uint64:
		return fmt.Sprintf("again %v", v)
	}
	return ""
}
