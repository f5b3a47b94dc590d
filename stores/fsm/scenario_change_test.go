package fsm

import (
	"fmt"
	"math"
	"testing"

	"github.com/quorate/quorate/api"
)

// Commands of scenarios that are not about events:
//
//	snapshot STREAM VERSION [keep=N] [data=JSON] [type=T]
//	snapshot-drop STREAM [version=N|upto=N]
//	delete STREAM [expect=E]
//	tombstone STREAM [expect=E]
//	truncate STREAM BEFORE [expect=E]
//	metadata STREAM [age=SECONDS] [count=N] [custom=JSON] [expect=E]
//	expire STREAM now=SECONDS
//	state STREAM
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
	ops := map[string]byte{"delete": StreamDelete, "tombstone": StreamTombstone, "truncate": StreamTruncate, "metadata": StreamMetadata, "expire": StreamExpire}
	op, known := ops[words[0]]
	if !known {
		return parseSubscription(t, words, opts, number)
	}
	c := &StreamChange{Op: op, Stream: words[1], Expected: api.ExpectAny, Time: later(number("now", 0)), MaxAge: number("age", 0), MaxCount: number("count", 0), Custom: []byte(opts["custom"])}
	if e, given := opts["expect"]; given {
		c.Expected = expectation(t, e)
	}
	if op == StreamTruncate {
		if _, err := fmt.Sscan(words[2], &c.Before); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// later is so many seconds after the time of all events.
func later(seconds uint64) int64 { return testTime + int64(seconds)*1_000_000 }

// look reads what changes left.
func (s *scenario) look(t *testing.T, words []string, number func(string, uint64) uint64) (string, bool) {
	t.Helper()
	switch words[0] {
	case "state":
		s, exists, _, err := s.f.StreamState(words[1])
		if err != nil || !exists {
			return fmt.Sprintf("exists %v, %v\n", exists, err), true
		}
		return describeValue(StreamResult{State: s})[len("changed false, "):] + "\n", true
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
	case StreamResult:
		out := fmt.Sprintf("changed %v, first %d, last %d", v.Changed, v.State.FirstVersion, v.State.Version)
		for what, is := range map[string]bool{", deleted": v.State.Deleted, ", tombstoned": v.State.Tombstoned} {
			if is {
				out += what
			}
		}
		if v.State.MaxAge+v.State.MaxCount > 0 || v.State.Custom != nil {
			out += fmt.Sprintf(", age %d, count %d, custom %s", v.State.MaxAge, v.State.MaxCount, v.State.Custom)
		}
		return out
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
