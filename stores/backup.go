package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
)

// A backup takes the events first, in pages that anybody may ask for at any time, since events do not change. Then it takes the keys, of one moment, whose position it
// learns with them, and what events came up to there. So events and keys are one state. What scavenging takes out of events meanwhile was hidden before, and the keys, which
// come later, say so.

// backupPage is how big a page is, nearly; one event or key may be bigger.
const backupPage = 768 << 10

// BackupEvents returns a page of events as a backup holds them.
func (s *Store) BackupEvents(ctx context.Context, r api.BackupRequest) (*api.BackupResponse, *api.Error) {
	if err := s.Catchup(ctx, r.ReadOptions); err != nil {
		return nil, err
	}
	upTo := r.UpTo
	if upTo == 0 {
		upTo = math.MaxUint64
	}
	page, err := s.machine.BackupEvents(r.After, upTo, backupPage)
	if err != nil {
		return nil, s.apiError(err)
	}
	return &api.BackupResponse{
		Reply: api.Reply{Type: api.TypeBackup}, Store: s.Name(), Incarnation: s.spec.Incarnation,
		Page: page.Page, Events: page.Events, Next: page.Next, End: page.End, LastPosition: page.LastPosition, Applied: page.Applied,
	}, nil
}

// BackupKeys returns a page of keys: the first of a new set, or one of a set that this node has.
func (s *Store) BackupKeys(ctx context.Context, r api.BackupKeysRequest) (*api.BackupKeysResponse, *api.Error) {
	if r.Set == "" {
		if r.Page != 0 {
			return nil, api.ErrBadRequest.With("page %d of no set; ask without page and set first, the reply names the set", r.Page)
		}
		if err := s.Catchup(ctx, r.ReadOptions); err != nil {
			return nil, err
		}
		res, err := s.newKeySet()
		if err != nil {
			return nil, s.apiError(err)
		}
		return res, nil
	}
	set := s.keySets.find(r.Set)
	if set == nil {
		return nil, api.ErrBackupSetGone.With("this node does not keep the set %q; it is kept for %v after its last use, by the node that gave it; begin anew without set", r.Set, keySetLife)
	}
	if r.Page < 0 || r.Page >= len(set.ends) {
		return nil, api.ErrBadRequest.With("page %d is out of range; the set has %d pages, from 0", r.Page, len(set.ends))
	}
	page, err := set.page(r.Page)
	if err != nil {
		return nil, api.ErrBackupSetGone.With("page %d of the set %q cannot be read (%v); begin anew without set", r.Page, r.Set, err)
	}
	res := set.head
	res.Page = page
	return &res, nil
}

// newKeySet writes all keys of the present state to a file, unless they fit on one page.
func (s *Store) newKeySet() (res *api.BackupKeysResponse, err error) {
	set := &keySet{}
	defer func() {
		if err != nil {
			set.close()
		}
	}()
	var first, page []byte
	var b api.BackupKeys
	var keys uint64
	flush := func() error {
		if page = b.Encode(); first == nil {
			first = page
		}
		b = api.BackupKeys{First: keys}
		return set.add(s.dir, page)
	}
	position, applied, err := s.machine.BackupKeys(func(key, value []byte) error {
		if b.Count() > 0 && b.Len()+len(key)+len(value) > backupPage {
			if err := flush(); err != nil {
				return err
			}
		}
		keys++
		b.Add(key, value)
		return nil
	})
	if err == nil && len(set.ends) > 0 {
		err = flush()
	} else {
		first = b.Encode()
	}
	if err != nil {
		return nil, err
	}
	set.head = api.BackupKeysResponse{
		Reply: api.Reply{Type: api.TypeBackupKeys}, Store: s.Name(), Incarnation: s.spec.Incarnation, Pages: max(len(set.ends), min(len(first), 1)), Keys: keys, Position: position, Applied: applied,
	}
	if len(set.ends) > 0 {
		set.head.Set = nuid.Next()
		s.keySets.keep(set)
	}
	head := set.head
	head.Page = first
	return &head, nil
}

const (
	keySetLife = time.Minute
	maxKeySets = 4 // of one store on a node; the oldest goes
)

// keySet is the keys of one moment, in a file without a name: it is gone when it is closed, and after a crash.
type keySet struct {
	head  api.BackupKeysResponse
	file  *os.File
	ends  []int64 // of the pages
	timer *time.Timer
}

func (k *keySet) add(dir string, page []byte) error {
	if k.file == nil {
		file, err := os.CreateTemp(dir, "backup-*.tmp")
		if err != nil {
			return err
		}
		k.file = file
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
	}
	end := int64(len(page))
	if n := len(k.ends); n > 0 {
		end += k.ends[n-1]
	}
	k.ends = append(k.ends, end)
	_, err := k.file.Write(page)
	return err
}

func (k *keySet) page(i int) ([]byte, error) {
	from := int64(0)
	if i > 0 {
		from = k.ends[i-1]
	}
	page := make([]byte, k.ends[i]-from)
	if _, err := k.file.ReadAt(page, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return page, nil
}

func (k *keySet) close() {
	if k.timer != nil {
		k.timer.Stop()
	}
	if k.file != nil {
		k.file.Close()
	}
}

// keySets is what a store keeps for backups under way.
type keySets struct {
	mu     sync.Mutex // guards what follows
	sets   []*keySet  // oldest first
	closed bool
}

func (s *keySets) keep(set *keySet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		set.close()
		return
	}
	if len(s.sets) == maxKeySets {
		s.sets[0].close()
		s.sets = s.sets[1:]
	}
	s.sets = append(s.sets, set)
	set.timer = time.AfterFunc(keySetLife, func() { s.drop(set) }) // ends with drop; close stops it
}

// find returns the set, which lives on from now.
func (s *keySets) find(id string) *keySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.sets {
		if set.head.Set == id && set.timer.Reset(keySetLife) {
			return set
		}
	}
	return nil
}

func (s *keySets) drop(set *keySet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sets {
		if s.sets[i] == set {
			set.close()
			s.sets = append(s.sets[:i], s.sets[i+1:]...)
			return
		}
	}
}

func (s *keySets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, set := range s.sets {
		set.close()
	}
	s.sets = nil
}

// removeKeySets removes what a crash left between a file's making and the loss of its name.
func removeKeySets(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "backup-*.tmp"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("remove what a backup left: %w", err)
		}
	}
	return nil
}
