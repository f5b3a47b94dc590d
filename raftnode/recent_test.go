package raftnode

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// TestRecentLog: with and without the newest entries in memory a log says the same, and what is in memory keeps to its bounds.
func TestRecentLog(t *testing.T) {
	hits := 0
	rapid.Check(t, func(t *rapid.T) {
		store := raft.NewInmemStore()
		l := newRecentLog(store)
		first, last := uint64(1), uint64(0) // of the log; last below first: it is empty
		term := uint64(1)
		check := func() {
			if got, _ := l.FirstIndex(); last >= first && got != first {
				t.Fatalf("the log begins at %d, want %d", got, first)
			}
			sum, kept := 0, 0
			for i, e := range l.entries {
				if e == nil {
					continue
				}
				kept++
				sum += entryBytes(e)
				if e.Index < l.low || e.Index > l.high || int(e.Index%recentEntries) != i {
					t.Fatalf("entry %d is in place %d of %d to %d", e.Index, i, l.low, l.high)
				}
			}
			if sum != l.bytes || kept > recentEntries || sum > recentBytes && kept > 1 || kept != int(l.high+1-l.low) {
				t.Fatalf("%d entries, from %d to %d, of %d bytes, %d counted", kept, l.low, l.high, sum, l.bytes)
			}
			hits += kept
			for i := max(first, 2) - 1; i <= last+1; i++ {
				var got, want raft.Log
				gotErr, wantErr := l.GetLog(i, &got), store.GetLog(i, &want)
				if !errors.Is(gotErr, wantErr) || got.Index != want.Index || got.Term != want.Term || !bytes.Equal(got.Data, want.Data) {
					t.Fatalf("entry %d: %v of term %d, %v; want %v of term %d, %v", i, got.Index, got.Term, gotErr, want.Index, want.Term, wantErr)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) {
				var logs []*raft.Log
				for range rapid.IntRange(1, 2*recentEntries).Draw(t, "entries") {
					last++
					size := rapid.SampledFrom([]int{0, 10, 1000, recentBytes / 3, recentBytes + 1}).Draw(t, "size")
					logs = append(logs, &raft.Log{Index: last, Term: term, Data: make([]byte, size)})
					if size > recentBytes {
						break
					}
				}
				if err := l.StoreLogs(logs); err != nil {
					t.Fatal(err)
				}
				if l.high != last {
					t.Fatalf("the newest entry, %d, is not kept", last)
				}
			},
			"cut the end": func(t *rapid.T) { // as a follower does whose entries are another leader's
				if last < first {
					t.Skip()
				}
				from := rapid.Uint64Range(first, last).Draw(t, "from")
				if err := l.DeleteRange(from, last); err != nil {
					t.Fatal(err)
				}
				last = from - 1
				term++
			},
			"cut the beginning": func(t *rapid.T) { // as a snapshot does
				if last < first {
					t.Skip()
				}
				to := rapid.Uint64Range(first, last).Draw(t, "to")
				if err := l.DeleteRange(first, to); err != nil {
					t.Fatal(err)
				}
				first = to + 1
			},
			"a state from elsewhere": func(t *rapid.T) {
				if last >= first {
					if err := l.DeleteRange(first, last); err != nil {
						t.Fatal(err)
					}
				}
				last += rapid.Uint64Range(1, 100).Draw(t, "further")
				first = last + 1
			},
			"forget": func(t *rapid.T) {
				l.forget()
				l.forget()
				if l.bytes != 0 || l.low <= l.high {
					t.Fatalf("%d bytes are kept", l.bytes)
				}
			},
			"": func(*rapid.T) { check() },
		})
	})
	if hits == 0 {
		t.Error("nothing was ever kept")
	}
}

// What was written since the last time is kept for once.
func TestWhatIsWrittenIsNotForgottenAtOnce(t *testing.T) {
	l := newRecentLog(raft.NewInmemStore())
	if err := l.StoreLog(&raft.Log{Index: 1, Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if l.forget(); l.bytes != 1 {
		t.Error("it is forgotten at once")
	}
	if l.forget(); l.bytes != 0 {
		t.Error("it is kept")
	}
}

// An entry that was received is a part of its message, and is kept without it where the rest of the message is not kept.
func TestRecentLogKeepsNoMessages(t *testing.T) {
	for _, row := range []struct {
		name           string
		size           int // of an entry; three are sent
		leads, inPlace bool
	}{
		{"a follower keeps the last entry of three", recentBytes * 3 / 5, false, false},
		{"a leader keeps the last entry of three", recentBytes * 3 / 5, true, true},
		{"a follower keeps all", 100, false, true},
	} {
		message := make([]byte, 3*row.size)
		l := newRecentLog(raft.NewInmemStore())
		l.leads = func() bool { return row.leads }
		var logs []*raft.Log
		for i := range 3 {
			part := message[i*row.size:]
			logs = append(logs, &raft.Log{Index: 7 + uint64(i), Data: part[:row.size-10], Extensions: part[row.size-10 : row.size]})
		}
		if err := l.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
		e := l.entries[9]
		if inPlace := &e.Data[0] == &message[2*row.size]; inPlace != row.inPlace || inPlace != (&e.Extensions[0] == &message[3*row.size-10]) {
			t.Errorf("%s: in place %t", row.name, inPlace)
		}
	}
}
