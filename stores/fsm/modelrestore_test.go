package fsm

import (
	"os"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/quorate/quorate/api"
)

// restore backs the machine up and goes on with one into which the backup was restored.
func (m *machine) restore(t *rapid.T) {
	var d api.Digester
	end := &RestoreChange{Op: RestoreEnd, Restore: "r"}
	steps := []*RestoreChange{{Op: RestoreBegin, Restore: "r"}}
	size := rapid.SampledFrom([]int{1, 200, 1 << 20}).Draw(t, "page bytes")
	for after := uint64(0); ; {
		page, err := m.f.BackupEvents(after, 1<<62, size)
		if err != nil {
			t.Fatal(err)
		}
		if page.Events > 0 {
			events, err := api.DecodeBackupEvents(page.Page)
			if err != nil {
				t.Fatal(err)
			}
			for i := range events {
				end.EventsDigest = d.Event(end.EventsDigest, &events[i])
			}
			end.Events += uint64(len(events))
			steps = append(steps, &RestoreChange{Op: RestoreEvents, Restore: "r", Page: page.Page})
		}
		if after = page.Next; page.End {
			break
		}
	}
	var page api.BackupKeys
	if _, _, err := m.f.BackupKeys(func(key, value []byte) error {
		end.KeysDigest = d.Key(end.KeysDigest, &api.BackupKey{Key: key, Value: value})
		page.Add(key, value)
		end.Keys++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if end.Keys > 0 {
		steps = append(steps, &RestoreChange{Op: RestoreKeys, Restore: "r", Page: page.Encode()})
	}
	steps = append(steps, end)
	old := m.f
	m.files++
	f := m.openFSM(t)
	m.log = nil
	for i, c := range steps {
		l := &raft.Log{Index: uint64(i) + 1, Term: 1, Type: raft.LogCommand, Data: EncodeBodies([]Body{ChangeBody(c)})}
		m.log = append(m.log, l)
		res := f.Apply(l).(Result)
		if err := res.Append[0].Err; err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if rapid.IntRange(0, 3).Draw(t, "flush") == 0 {
			if err := f.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.model.applied, m.model.term = uint64(len(steps)), 1
	m.close(t, old)
	m.watch(t, f)
}

// TestModelWithRestore is TestModel of a store that is backed up and restored now and then: whatever was done to it before, it goes on as the model does.
func TestModelWithRestore(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, dir)
		defer os.RemoveAll(m.dir)
		defer func() { m.f.Close() }()
		restores := 0
		t.Repeat(map[string]func(*rapid.T){
			"append": m.Append, "append ": m.Append, "append  ": m.Append, "query": m.Query, "query ": m.Query,
			"flush": m.Flush, "sweep": m.Sweep, "sweep ": m.Sweep, "replay": m.Replay, "rebuild": m.Rebuild, "reopen": m.Reopen, "move": m.Move,
			"restore": func(t *rapid.T) {
				if restores++; restores > 6 {
					t.Skip("enough")
				}
				m.restore(t)
			},
			"read stream": m.ReadStream, "read all": m.ReadAll, "streams": m.Streams,
			"": m.check,
		})
	})
}
