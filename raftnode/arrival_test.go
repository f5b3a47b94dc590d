package raftnode

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// entriesOf returns entries from the index on, one of each term.
func entriesOf(from uint64, terms ...uint64) []*raft.Log {
	logs := make([]*raft.Log, len(terms))
	for i, term := range terms {
		logs[i] = &raft.Log{Index: from + uint64(i), Term: term}
	}
	return logs
}

// A log that was cut off behind what a request names as its predecessor, and a snapshot that ends in entry 56 of term 3.
func TestWhatIsKnownIsSkipped(t *testing.T) {
	for _, row := range []struct {
		name        string
		first, last uint64 // of the log; its entries are of term 3
		prev        uint64
		terms       []uint64 // of the request's entries
		wantPrev    uint64
		want        []uint64 // indexes of entries
	}{
		{"it begins before the log", 57, 59, 55, []uint64{3, 3, 3, 3, 3}, 57, []uint64{58, 59, 60}},
		{"it begins at the snapshot's end, and the log behind it", 57, 59, 56, []uint64{3, 3, 3, 3}, 57, []uint64{58, 59, 60}},
		{"the log begins before the snapshot's end", 54, 59, 51, []uint64{2, 2, 3, 3, 3, 3, 3, 4}, 54, []uint64{55, 56, 57, 58, 59}},
		{"the log ends with the snapshot", 54, 56, 51, []uint64{2, 2, 3, 3, 3, 3}, 54, []uint64{55, 56, 57}},
		{"the log is empty", 0, 0, 54, []uint64{3, 3, 3, 3}, 56, []uint64{57, 58}},
		{"the log ends before the snapshot", 40, 50, 30, slices.Repeat([]uint64{3}, 27), 56, []uint64{57}},
		{"it begins with the first entry ever", 0, 0, 0, slices.Repeat([]uint64{3}, 57), 56, []uint64{57}},
		{"nothing is new", 56, 59, 53, []uint64{2, 3}, 0, nil},
		{"nothing is new, and the log behind it may be another leader's", 57, 59, 53, []uint64{2, 3}, 53, []uint64{54, 55}},
		{"nothing is new, to an empty log", 0, 0, 53, []uint64{2, 3}, 0, nil},
		{"its last entry is the log's first", 57, 59, 55, []uint64{3, 3}, 57, []uint64{}},
		{"the log's first entry is another leader's", 57, 59, 55, []uint64{3, 4, 4}, 55, []uint64{56, 57, 58}},
		{"it begins at the end of an empty log", 0, 0, 56, []uint64{4}, 56, []uint64{57}},
	} {
		req := &raft.AppendEntriesRequest{PrevLogEntry: row.prev, PrevLogTerm: 1, LeaderCommitIndex: row.prev, Entries: entriesOf(row.prev+1, row.terms...)}
		skipTo(req, &marker{Index: 56, Term: 3}, row.first, row.last, func(index uint64) (uint64, error) {
			if index < row.first || index > row.last || row.first == 0 {
				t.Errorf("%s: entry %d is read, which the log has not", row.name, index)
			}
			return 3, nil
		})
		var got []uint64
		for _, e := range req.Entries {
			got = append(got, e.Index)
		}
		if req.PrevLogEntry != row.wantPrev || !slices.Equal(got, row.want) {
			t.Errorf("%s: got %v after entry %d, want %v after %d", row.name, got, req.PrevLogEntry, row.want, row.wantPrev)
		}
		if changed := req.PrevLogEntry != row.prev; changed && (req.PrevLogTerm != 3 && req.PrevLogEntry != 0 || req.PrevLogEntry == 0 && (req.PrevLogTerm != 0 || req.LeaderCommitIndex != 0)) {
			t.Errorf("%s: got %+v", row.name, req)
		}
	}
}

// A follower takes entries, and its answers are lost. It cuts its log as ever, behind what the leader believes it has. Then the third member goes. The two that are left have everything, and take writes: once
// the state was sent and refused again and again.
func TestAFollowerThatHasCutOffWhatTheLeaderNames(t *testing.T) {
	for _, row := range []struct {
		name      string
		leaderCut bool // has cut off its log there too, and its snapshot ends before the follower's
	}{{"the leader has its log", false}, {"the leader has the state only", true}} {
		t.Run(row.name, func(t *testing.T) {
			c := newCluster(t, 3)
			leader, f, third := c.members[0], c.members[1], c.members[2]
			leader.said = new(sayings)
			c.start()
			c.moveTo(t, leader)
			c.awaitPipelines(t, leader)
			index := leader.mustWrite("first")
			c.heard(t, leader, index)
			leader.idle(t)

			c.link(leader, f).muteAnswers(true)
			var last uint64
			for i := range 20 {
				last = leader.mustWrite(fmt.Sprint("unanswered ", i))
				if i == 10 && row.leaderCut {
					compact(t, leader, 0)
				}
			}
			c.heard(t, leader, last)
			compact(t, f, 2)
			if first, err := f.group.store.FirstIndex(); err != nil || first <= index+1 {
				t.Fatalf("the follower's log begins at %d, %v", first, err)
			}
			third.stop()
			c.link(leader, f).muteAnswers(false)
			c.link(leader, f).setCut(false) // the connection breaks
			mustAnswer(t, leader.begin("last"))
		})
	}
}

// A state that this replica's own contains is called known once a second, however often it is sent meanwhile.
func TestAKnownStateIsCalledKnownNowAndThen(t *testing.T) {
	c := newCluster(t, 3).start()
	leader := c.allTake(t, "0")
	f := c.followers(leader)[0]
	compact(t, f, trailingLogs)
	l := f.group.logs.LogStore.(*overlappingLog)
	req := &raft.InstallSnapshotRequest{Term: f.group.raft.CurrentTerm(), LastLogIndex: f.group.snapshots.current().Index - 1}
	ask := func(ago time.Duration, want bool) {
		t.Helper()
		said := time.Now().Add(-ago).UnixNano()
		l.knownSaid.Store(said)
		answer, err := l.knownSnapshot(req)
		if err != nil || (answer != nil) != want {
			t.Errorf("%v after it was said: %v, %v", ago, answer, err)
		}
		if again := l.knownSaid.Load() != said; again != want {
			t.Errorf("%v after it was said, it is noted anew: %t", ago, again)
		}
	}
	ask(knownAgain/2, false)
	ask(knownAgain, true)
}
