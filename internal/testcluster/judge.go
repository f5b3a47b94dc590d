package testcluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quorate/quorate/api"
)

// Operation is what a client did to a stream, and what it was told. Times are nanoseconds since the history began.
type Operation struct {
	Client       int
	Stream       string
	Kind         OperationKind
	ID           string // of the event; of a read: of the last event that was seen
	Call, Return int64  // Return is Never when nobody learnt the outcome
	Outcome      Outcome
	Version      int64  // acknowledged, or read (-1: the stream does not exist), or said by a refusal
	Position     uint64 // acknowledged
	Refusal      string // why
}

// OperationKind says what was asked for.
type OperationKind int

// Append appends one event; Read reads the stream's last event, linearizably.
const (
	Append OperationKind = iota
	Read
)

// Outcome is what a client knows in the end.
type Outcome int

// An operation was done; it was refused for good, so it had no effect; or nobody knows.
const (
	Done Outcome = iota
	Refused
	Unknown
)

// Never is the return of an operation whose outcome nobody learnt: it may take effect at any later time.
const Never = int64(math.MaxInt64 / 2)

// Judge holds a history against what the nodes have in the end, and returns everything that is wrong:
//
//   - what was acknowledged is on every node, once, at the version and position that were said
//   - nothing is there that was not tried, and nothing that was refused
//   - versions and positions are dense, and every node has the same events
//   - positions follow real time: an append that began after another one was acknowledged lies behind it
//   - of each stream, one order of all operations explains every answer (porcupine), each between its call and its return
//
// final is each node's events in position order, all up to at least the same position.
func Judge(history []Operation, final map[string][]api.Event) (wrong []error) {
	complain := func(format string, args ...any) {
		if len(wrong) < 50 {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	attempts := make(map[string]*Operation) // appends by event id
	for i := range history {
		if op := &history[i]; op.Kind == Append {
			attempts[op.ID] = op
		}
	}
	names := make([]string, 0, len(final))
	for name := range final {
		names = append(names, name)
	}
	slices.Sort(names)
	placed := make(map[string]api.Event)    // by id, from the longest list
	at := make(map[string]map[int64]string) // stream, version: id
	var longest []api.Event
	for _, name := range names {
		judgeNode(name, final[name], attempts, complain)
		if len(final[name]) > len(longest) {
			longest = final[name]
		}
	}
	for _, name := range names {
		for i, e := range final[name] {
			if want := longest[i]; !same(e, want) {
				complain("%s has %s at position %d, another node has %s", name, show(e), i+1, show(want))
				break
			}
		}
	}
	for _, e := range longest {
		placed[e.ID] = e
		if at[e.Stream] == nil {
			at[e.Stream] = make(map[int64]string)
		}
		at[e.Stream][int64(e.Version)] = e.ID
	}
	judgeOrder(attempts, complain)
	for stream, ops := range byStream(history) {
		judgeStream(stream, ops, placed, at[stream], complain)
	}
	return wrong
}

func judgeNode(name string, events []api.Event, attempts map[string]*Operation, complain func(string, ...any)) {
	seen := make(map[string]bool)
	versions := make(map[string]uint64)
	for i, e := range events {
		if e.Position != uint64(i+1) {
			complain("%s: position %d where %d belongs", name, e.Position, i+1)
		}
		if e.Version != versions[e.Stream] {
			complain("%s: stream %s has version %d where %d belongs", name, e.Stream, e.Version, versions[e.Stream])
		}
		versions[e.Stream] = e.Version + 1
		if seen[e.ID] {
			complain("%s: event %s is there twice", name, e.ID)
		}
		seen[e.ID] = true
		switch op := attempts[e.ID]; {
		case op == nil:
			complain("%s: %s was never tried", name, show(e))
		case op.Outcome == Refused:
			complain("%s: %s is there, and was refused: %s", name, show(e), op.Refusal)
		case op.Stream != e.Stream:
			complain("%s: %s was appended to stream %s", name, show(e), op.Stream)
		case op.Outcome == Done && (op.Version != int64(e.Version) || op.Position != e.Position):
			complain("%s: %s was acknowledged at version %d, position %d", name, show(e), op.Version, op.Position)
		}
	}
	for id, op := range attempts {
		if op.Outcome == Done && !seen[id] {
			complain("%s: event %s in %s is lost; it was acknowledged at version %d, position %d", name, id, op.Stream, op.Version, op.Position)
		}
	}
}

func judgeOrder(attempts map[string]*Operation, complain func(string, ...any)) {
	var acked []*Operation
	for _, op := range attempts {
		if op.Outcome == Done {
			acked = append(acked, op)
		}
	}
	returned := slices.Clone(acked)
	slices.SortFunc(acked, func(a, b *Operation) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortFunc(returned, func(a, b *Operation) int { return cmp.Compare(a.Return, b.Return) })
	var before *Operation // of those that had returned: the one with the highest position
	for _, op := range acked {
		for len(returned) > 0 && returned[0].Return < op.Call {
			if before == nil || returned[0].Position > before.Position {
				before = returned[0]
			}
			returned = returned[1:]
		}
		if before != nil && before.Position >= op.Position {
			complain("event %s was acknowledged at position %d before event %s began, which is at position %d", before.ID, before.Position, op.ID, op.Position)
		}
	}
}

func byStream(history []Operation) map[string][]Operation {
	m := make(map[string][]Operation)
	for _, op := range history {
		m[op.Stream] = append(m[op.Stream], op)
	}
	return m
}

// step is an operation on a stream to porcupine: the stream's last version was version, or an append made it that.
type step struct {
	kind    OperationKind
	id      string
	version int64
}

// streamModel is a stream to its clients: its last version, which an append increases by one. An append's version is known, be it from its acknowledgement or from
// where the event is in the end, so the search for an order is short even when many outcomes are unknown.
var streamModel = porcupine.Model{
	Init: func() any { return int64(-1) },
	Step: func(state, input, _ any) (bool, any) {
		last, s := state.(int64), input.(step)
		if s.kind == Append {
			return s.version == last+1, s.version
		}
		return s.version == last, last
	},
	Equal: func(a, b any) bool { return a.(int64) == b.(int64) },
	DescribeOperation: func(input, _ any) string {
		s := input.(step)
		return fmt.Sprintf("%s %s → %d", [...]string{"append", "read"}[s.kind], s.id, s.version)
	},
	DescribeState: func(state any) string { return fmt.Sprint(state) },
}

// searchTime bounds the search for an order of one stream's operations.
const searchTime = 30 * time.Second

func judgeStream(stream string, ops []Operation, placed map[string]api.Event, at map[int64]string, complain func(string, ...any)) {
	var steps []porcupine.Operation
	for _, op := range ops {
		s, ret := step{op.Kind, op.ID, op.Version}, op.Return
		switch {
		case op.Kind == Read && op.Outcome != Done:
			continue
		case op.Kind == Read && op.ID != at[op.Version]:
			complain("stream %s: a read saw event %q at version %d, in the end it is %q", stream, op.ID, op.Version, at[op.Version])
		case op.Kind == Append && op.Outcome == Unknown:
			e, there := placed[op.ID]
			if !there {
				continue // nobody has seen it
			}
			s.version, ret = int64(e.Version), Never
		case op.Outcome == Refused && op.Version == notSaid:
			continue
		case op.Outcome == Refused: // by the stream's version, which is then a read
			s.kind = Read
		}
		steps = append(steps, porcupine.Operation{ClientId: op.Client, Input: s, Call: op.Call, Return: ret})
	}
	switch porcupine.CheckOperationsTimeout(streamModel, steps, searchTime) {
	case porcupine.Ok:
		return
	case porcupine.Unknown:
		complain("stream %s: no order of its %d operations was found in %v, nor that there is none", stream, len(steps), searchTime)
		return
	}
	_, info := porcupine.CheckOperationsVerbose(streamModel, steps, searchTime)
	picture := "no picture"
	if f, err := os.CreateTemp("", "quorate-history-*.html"); err == nil {
		if err := porcupine.Visualize(streamModel, info, f); err == nil {
			picture = f.Name()
		}
		f.Close()
	}
	complain("stream %s: no order explains its %d operations; see %s", stream, len(steps), picture)
}

// notSaid is the Version of a refusal that says nothing of the stream.
const notSaid = int64(-99)

func same(a, b api.Event) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func show(e api.Event) string {
	return fmt.Sprintf("event %s (%s version %d, position %d)", e.ID, e.Stream, e.Version, e.Position)
}
