package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

func TestWhoseTimeASampleIs(t *testing.T) {
	for _, row := range []struct{ stack, want string }{
		{"runtime.mallocgc github.com/hashicorp/raft.(*Raft).leaderLoop runtime.goexit", "hashicorp/raft"},
		{"syscall.Fdatasync github.com/quorate/quorate/raftnode/wal.(*SegmentLog).writeBatch github.com/hashicorp/raft.(*Raft).run", "log: pwrite and fdatasync"},
		{"x github.com/quorate/quorate/stores/fsm.(*applier).append github.com/quorate/quorate/raftnode.(*groupMachine).ApplyBatch github.com/hashicorp/raft.(*Raft).runFSM", "state machine: apply"},
		{"x go.etcd.io/bbolt.(*Tx).Commit github.com/quorate/quorate/stores/fsm.(*FSM).commit", "state files: flush to bbolt"},
		{"x github.com/quorate/quorate/natsbus.(*post).receive github.com/nats-io/nats.go.(*Conn).waitForMsgs", "requests: decode, gather, answer"},
		{"runtime.futex runtime.schedule runtime.mcall", "Go's scheduler"},
		{"main.main", otherPart},
	} {
		if got := partOf(row.stack); got != row.want {
			t.Errorf("%s: got %q, want %q", row.stack, got, row.want)
		}
	}
}

func TestTimeByPart(t *testing.T) {
	f := func(name string) *profile.Location {
		return &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: name}}}}
	}
	spent := timeByPart(&profile.Profile{SampleType: []*profile.ValueType{{Type: "samples"}, {Type: "cpu", Unit: "nanoseconds"}}, Sample: []*profile.Sample{
		{Location: []*profile.Location{f("a"), f("github.com/hashicorp/raft.(*Raft).run")}, Value: []int64{2, 20}},
		{Location: []*profile.Location{f("github.com/hashicorp/raft.(*Raft).run")}, Value: []int64{1, 10}},
		{Location: []*profile.Location{f("main.main")}, Value: []int64{1, 5}},
	}})
	if len(spent) != 2 || spent["hashicorp/raft"] != 30*time.Nanosecond || spent[otherPart] != 5 {
		t.Errorf("got %v", spent)
	}
	table := profileTable([]profiled{{"one", 100, map[string]float64{"a": 1, "b": 2}}, {"two", 50, map[string]float64{"a": 30, "b": 4}}})
	for _, want := range []string{"| | one | two |", "| a | 1 | 30 |\n| b | 2 | 4 |\n| **together** | 3 | 34 |\n| appends/s meanwhile | 100 | 50 |"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
}
