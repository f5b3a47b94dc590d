package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/quorate/quorate/raftnode/wal"
)

// fewWrites is a StableStore that fails after so many writes.
type fewWrites struct {
	raft.StableStore
	left int
}

var errNoMore = errors.New("we have died")

func (s *fewWrites) write() error {
	if s.left == 0 {
		return errNoMore
	}
	s.left--
	return nil
}

func (s *fewWrites) Set(key, val []byte) error {
	if err := s.write(); err != nil {
		return err
	}
	return s.StableStore.Set(key, val)
}

func (s *fewWrites) SetUint64(key []byte, val uint64) error {
	if err := s.write(); err != nil {
		return err
	}
	return s.StableStore.SetUint64(key, val)
}

// A vote that is cut off anywhere never leaves a term beside the candidate of an earlier one: raft takes that candidate's request in that term for a duplicate, and grants it without looking at its log.
func TestAVoteThatIsCutOff(t *testing.T) {
	for writes := range 3 {
		t.Run(fmt.Sprint("after writes: ", writes), func(t *testing.T) {
			disk := raft.NewInmemStore()
			vote := func(stable raft.StableStore, term uint64, candidate string) error { // as raft does
				if err := stable.SetUint64([]byte(lastVoteTerm), term); err != nil {
					return err
				}
				return stable.Set([]byte(lastVoteCand), []byte(candidate))
			}
			if err := vote(&votes{StableStore: disk}, 4, "a"); err != nil {
				t.Fatal(err)
			}
			err := vote(&votes{StableStore: &fewWrites{disk, writes}}, 7, "b")
			if (err == nil) != (writes == 2) {
				t.Errorf("a vote with %d of its writes: %v", writes, err)
			}
			term, _ := disk.GetUint64([]byte(lastVoteTerm))
			candidate, _ := disk.Get([]byte(lastVoteCand))
			switch got := fmt.Sprint(term, " ", string(candidate)); {
			case err == nil && got != "7 b", err != nil && got != "4 a" && got != "4 b":
				t.Errorf("the disk has %s", got)
			}
		})
	}
}

// The real raft's votes are on the disk when an election is over: raft writes the term and then the candidate, which votes goes by.
func TestVotesAreWritten(t *testing.T) {
	c := newCluster(t, 3).start()
	for _, m := range c.members {
		c.moveTo(t, m)
		term := m.group.raft.CurrentTerm()
		voters := 0
		for _, other := range c.members {
			got, err := other.group.store.GetUint64([]byte(lastVoteTerm))
			candidate, cerr := other.group.store.Get([]byte(lastVoteCand))
			if err == nil && cerr == nil && got == term && string(candidate) == m.node.ServerID() {
				voters++
			}
		}
		if voters < 2 {
			t.Errorf("%s leads in term %d, and %d votes for it are on the disks", m.name, term, voters)
		}
	}
}

// One byte of one entry is damaged in raft.db, where entries go that outlive their segment. raft panics over it when it starts; the replica is damaged, and the process goes on.
func TestADamagedEntryIsMetAtTheStart(t *testing.T) {
	t.Run("in the middle", func(t *testing.T) { damagedAtTheStart(t, func(uint64) uint64 { return 5 }) })
	t.Run("the last one", func(t *testing.T) { damagedAtTheStart(t, func(last uint64) uint64 { return last }) })
}

func damagedAtTheStart(t *testing.T, which func(last uint64) uint64) {
	m := single(t, false)
	id, err := OpenIdentity(m.dir, m.name, epoch)
	if err != nil {
		t.Fatal(err)
	}
	cfg := wal.Config{Path: filepath.Join(m.dir, "raft.db"), NodeID: id.DiskID, MustExist: true, SegmentSize: 64 << 10, Resting: 1}
	if err := id.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := wal.OpenSegments(cfg)
	if err != nil {
		t.Fatal(err)
	}
	busy, err := log.Open(wal.GroupID{Store: 99, Incarnation: 1}) // another store is written to, so this one's entries are settled
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		if err := busy.StoreLog(&raft.Log{Index: uint64(i + 1), Term: 1, Data: make([]byte, 16<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(busy.Close(), log.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(cfg.Path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, testGroup.Store), testGroup.Incarnation)
		entries := tx.Bucket(key).Bucket([]byte("log"))
		newest, _ := entries.Cursor().Last()
		at := binary.BigEndian.AppendUint64(nil, which(binary.BigEndian.Uint64(newest)))
		v := append([]byte(nil), entries.Get(at)...)
		if len(v) == 0 {
			return errors.New("the entry is not in the bbolt file")
		}
		v[len(v)-1] ^= 1
		return entries.Put(at, v)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	m.listen()
	if err := m.open(); !errors.Is(err, ErrDamaged) || !errors.Is(err, wal.ErrCorrupt) {
		t.Errorf("the group opens: %v", err)
	}
}
