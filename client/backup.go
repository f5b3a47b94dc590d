package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quorate/quorate/api"
)

// BackupProgress says how far a backup, a restore or a check is.
type BackupProgress struct {
	Events uint64 // that were written, sent or read
	Target uint64 // how many there are to be; a backup's grows with the store
	Keys   uint64
	Bytes  int64 // of the file that is written
	Check  bool  // the events of a restore are read again
}

// BackupOptions say how to back up.
type BackupOptions struct {
	Progress func(BackupProgress) // called after every page; it should not block for long
}

// askPatience is how long one request of a backup or restore is repeated before it is given up.
const askPatience = 30 * time.Second

// ask sends a request of a backup, restore or import, all of which may be repeated.
func ask[T any, P interface {
	*T
	Failure() *api.Error
}](ctx context.Context, s *Store, r request) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return call[T, P](ctx, s.client, r)
}

// Backup writes the whole store to w while it is in use: its state right behind one event, whose position the summary has, with every write that was acknowledged before
// the backup began. OpenBackup reads what it writes.
func (s *Store) Backup(ctx context.Context, w io.Writer, o BackupOptions) (*BackupSummary, error) {
	first, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	record, err := s.client.StoreRecord(first, s.name)
	if err != nil {
		return nil, err
	}
	cluster, err := s.client.ClusterInfo(first)
	if err != nil {
		return nil, err
	}
	b, err := newBackupWriter(w, &BackupHeader{
		Format: backupFormat, Store: s.name, Incarnation: record.Incarnation, Cluster: cluster.Cluster, Version: api.Version, Time: time.Now().UTC(), Options: record.Options,
	})
	if err != nil {
		return nil, err
	}
	job := &backupJob{store: s, out: b, incarnation: record.Incarnation, progress: o.Progress}
	if err := job.run(ctx); err != nil {
		b.frames.Close()
		return nil, fmt.Errorf("back up %s: %w", s.name, err)
	}
	b.summary.Time = time.Now().UTC()
	if err := b.finish(); err != nil {
		return nil, err
	}
	return &b.summary, nil
}

type backupJob struct {
	store       *Store
	out         *backupWriter
	incarnation uint64
	scavenged   uint64 // the newest state, as the index that was applied, of which a page has a scavenged event
	progress    func(BackupProgress)
}

// Limits of a backup's going after a store that is written to.
const (
	backupNear   = 1000 // so many events may be missing when the keys are taken
	backupRounds = 10   // of taking the events that came meanwhile
	backupSets   = 10   // sets of keys that may be of no use
)

// Why a set of keys is of no use.
var (
	errSetLost = errors.New("the node that kept the store's keys lost them")
	errSetOld  = errors.New("the store's keys were older than its events, of which some were deleted and scavenged meanwhile")
)

func (j *backupJob) run(ctx context.Context) error {
	var why error
	for range backupSets {
		if err := j.near(ctx); err != nil {
			return err
		}
		if why = j.set(ctx); !errors.Is(why, errSetLost) && !errors.Is(why, errSetOld) {
			return why
		}
	}
	return fmt.Errorf("%w, %d times in a row; try once more when the cluster is calm", why, backupSets)
}

// near takes events until few are missing.
func (j *backupJob) near(ctx context.Context) error {
	for range backupRounds {
		last, err := j.events(ctx, 0)
		if err != nil {
			return err
		}
		if last-j.out.summary.Position <= backupNear {
			break
		}
	}
	return nil
}

// set takes keys, and the events up to their moment, which are not there yet.
//
// What was deleted between the keys and these events is told by no key of the set; scavenged as well, an event is missing of which the keys say that it is there. So keys that are
// older than a page with a scavenged event are of no use, though they may know of that one. The events stay, and the next keys are younger.
func (j *backupJob) set(ctx context.Context) error {
	keys, err := j.page(ctx, api.BackupKeysRequest{})
	if err != nil {
		return err
	}
	if err := j.same(keys.Incarnation); err != nil {
		return err
	}
	if keys.Position < j.out.summary.Position { // another node gave the events, and was a moment ahead
		return errSetOld
	}
	if keys.Position > j.out.summary.Position {
		if _, err := j.events(ctx, keys.Position); err != nil {
			return err
		}
	}
	if j.scavenged > keys.Applied {
		return errSetOld
	}
	err = j.keys(ctx, keys)
	switch {
	case err == nil && j.out.summary.Keys != keys.Keys:
		return fmt.Errorf("there are %d keys, and %d were announced", j.out.summary.Keys, keys.Keys)
	case errors.Is(err, api.ErrBackupSetGone) && j.out.summary.Keys == 0:
		return errSetLost
	}
	return err
}

func (j *backupJob) page(ctx context.Context, r api.BackupKeysRequest) (*api.BackupKeysResponse, error) {
	return ask[api.BackupKeysResponse](ctx, j.store, request{subject: j.store.client.subjects.Read(j.store.name, "backup_keys", ""), body: r})
}

func (j *backupJob) same(incarnation uint64) error {
	if incarnation != j.incarnation {
		return recreated(incarnation, j.incarnation)
	}
	return nil
}

// events adds the events that are missing up to the position; 0: those that are there when it begins. It returns the last position it has heard of.
func (j *backupJob) events(ctx context.Context, upTo uint64) (last uint64, err error) {
	err = j.store.backupPages(ctx, j.out.summary.Position, upTo, func(res *api.BackupResponse) error {
		last = res.LastPosition
		if err := j.same(res.Incarnation); err != nil {
			return err
		}
		if res.Events == 0 {
			return nil
		}
		scavenged, err := j.out.events(res.Page)
		if err != nil {
			return err
		}
		if scavenged {
			j.scavenged = max(j.scavenged, res.Applied)
		}
		j.tell(max(upTo, res.LastPosition))
		return nil
	})
	if err == nil && upTo > 0 && j.out.summary.Position != upTo {
		err = fmt.Errorf("the events end at position %d, and %d was announced", j.out.summary.Position, upTo)
	}
	return last, err
}

// keys adds the pages of the set, of which the first is here.
func (j *backupJob) keys(ctx context.Context, set *api.BackupKeysResponse) error {
	if set.Pages > 1 { // the others first: when the set is lost nothing of it may be written
		if _, err := j.page(ctx, api.BackupKeysRequest{Set: set.Set, Page: 1}); err != nil {
			return err
		}
	}
	for i := range set.Pages {
		page := set
		if i > 0 {
			var err error
			if page, err = j.page(ctx, api.BackupKeysRequest{Set: set.Set, Page: i}); err != nil {
				return err
			}
		}
		if err := j.out.keys(page.Page); err != nil {
			return err
		}
		j.tell(j.out.summary.Position)
	}
	return nil
}

func (j *backupJob) tell(target uint64) {
	if j.progress != nil {
		s := &j.out.summary
		j.progress(BackupProgress{Events: s.Events, Target: target, Keys: s.Keys, Bytes: j.out.written})
	}
}

// backupAhead is how many pages are asked for before they are needed.
const backupAhead = 3

// backupPages calls fn with the pages of events behind after, up to upTo; 0: up to the last one there is when it begins. While fn works the next pages are asked for.
func (s *Store) backupPages(ctx context.Context, after, upTo uint64, fn func(*api.BackupResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		res *api.BackupResponse
		err error
	}
	pages := make(chan result, backupAhead)
	go func() { // ends with the last page, the first error, or ctx, which is done when fn's caller returns
		defer close(pages)
		for {
			res, err := ask[api.BackupResponse](ctx, s, request{subject: s.client.subjects.Read(s.name, "backup", ""), body: api.BackupRequest{After: after, UpTo: upTo}})
			select {
			case pages <- result{res, err}:
			case <-ctx.Done():
				return
			}
			if err != nil || res.End {
				return
			}
			if upTo == 0 {
				upTo = res.LastPosition
			}
			after = res.Next
		}
	}()
	for r := range pages {
		if r.err != nil {
			return r.err
		}
		if err := fn(r.res); err != nil {
			return err
		}
	}
	return ctx.Err()
}
