package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

// RestoreOptions say how to restore.
type RestoreOptions struct {
	Progress func(BackupProgress) // called as pages are acknowledged, and as they are read again
	NoVerify bool                 // do not read the events again before the restore ends

	// RestoredBefore is called when the store was restored from this very backup before, by its SHA-256. Then nothing is done, whatever became of the store since, and
	// Restore returns nil, so that a restore may be repeated when its end was not heard.
	RestoredBefore func()
}

// Restore restores the backup into the store, which must be empty, or is created with the options of the one that was backed up. It can be called again after it was cut off, and
// goes on where it was. Before it ends the events are read again and held against the backup; until then the store takes nothing else and says so to whoever reads it.
//
// Events keep positions, versions, ids and times. Nothing is published as a live event.
func (c *Client) Restore(ctx context.Context, store string, b *Backup, o RestoreOptions) error {
	first, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	_, err := c.StoreRecord(first, store)
	if errors.Is(err, api.ErrConfigNotFound) {
		_, err = c.CreateStore(first, store, api.ConfigPutRequest{Options: &b.Header.Options})
	}
	if err != nil {
		return err
	}
	if err := c.Store(store).restore(ctx, b, o); err != nil {
		return fmt.Errorf("restore into %s: %w", store, err)
	}
	return nil
}

func (s *Store) restore(ctx context.Context, b *Backup, o RestoreOptions) error {
	r := &restorer{store: s, backup: b, options: o}
	at, err := r.step(ctx, api.RestoreRequest{Step: api.RestoreBegin})
	if err != nil {
		return err
	}
	if at.Done {
		if o.RestoredBefore != nil {
			o.RestoredBefore()
		}
		return nil
	}
	r.at = *at
	next, stop := iter.Pull2(b.pages())
	defer stop()
	r.next = next
	if err := r.send(ctx, frameEvents); err != nil {
		return err
	}
	// The keys say which events are gone, and of those the nodes give the space back when they please: the events are read again before.
	if !o.NoVerify && r.at.Keys == 0 {
		if err := r.verify(ctx); err != nil {
			return err
		}
	}
	if err := r.send(ctx, frameKeys); err != nil {
		return err
	}
	sum := &b.Summary
	_, err = r.step(ctx, api.RestoreRequest{Step: api.RestoreEnd, Events: sum.Events, Keys: sum.Keys, EventsDigest: sum.EventsDigest, KeysDigest: sum.KeysDigest})
	return err
}

// restorer sends pages, several at once, in order. Whatever becomes of them, it asks where the restore is and goes on from there.
type restorer struct {
	store   *Store
	backup  *Backup
	options RestoreOptions
	at      api.RestoreResponse // as far as was acknowledged

	next  func() (backupPage, error, bool)
	read  *backupPage  // taken from the file, of the next kind
	queue []backupPage // read and not acknowledged yet
}

// restoreWindow is how many pages are under way at once: one is being written, one is in the log, others arrive.
const restoreWindow = 5

func (r *restorer) step(ctx context.Context, q api.RestoreRequest) (*api.RestoreResponse, error) {
	q.Restore = r.backup.SHA256
	return ask[api.RestoreResponse](ctx, r.store, request{subject: r.store.client.subjects.Write(r.store.name, "restore", ""), effect: safe, body: q})
}

// fill reads pages of the kind until the queue is full. Pages that are there already are left out.
func (r *restorer) fill(kind byte) error {
	for len(r.queue) < restoreWindow {
		if r.read == nil {
			page, err, ok := r.next()
			if err != nil {
				return err
			}
			if !ok {
				return nil
			}
			r.read = &page
		}
		if r.read.kind != kind {
			return nil
		}
		if !r.has(r.read) {
			r.queue = append(r.queue, *r.read)
		}
		r.read = nil
	}
	return nil
}

func (r *restorer) has(p *backupPage) bool {
	if p.kind == frameKeys {
		return p.last <= r.at.Keys
	}
	return p.last <= r.at.Position
}

// acknowledged drops the pages that are there from the queue, and reports how many.
func (r *restorer) acknowledged(at *api.RestoreResponse) (n int) {
	r.at.Position, r.at.Keys = max(r.at.Position, at.Position), max(r.at.Keys, at.Keys)
	for n < len(r.queue) && r.has(&r.queue[n]) {
		n++
	}
	r.queue = r.queue[n:]
	if n > 0 {
		r.tell(r.at.Position, false)
	}
	return n
}

func (r *restorer) tell(events uint64, check bool) {
	if r.options.Progress != nil {
		r.options.Progress(BackupProgress{Events: events, Target: r.backup.Summary.Events, Keys: r.at.Keys, Check: check})
	}
}

// send sends all pages of a kind.
func (r *restorer) send(ctx context.Context, kind byte) error {
	for pause := retryPause; ; {
		before := r.at
		err := r.stream(ctx, kind)
		if err == nil {
			return nil
		}
		if again, _ := retryable(err); !again && !errors.Is(err, errPageLost) {
			return err
		}
		if r.at.Position > before.Position || r.at.Keys > before.Keys {
			pause = retryPause
		}
		timer := time.NewTimer(pause)
		pause = min(2*pause, retryPauseMax)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (last: %w); the restore is at position %d; start it again to go on", ctx.Err(), err, r.at.Position)
		}
		at, err := r.step(ctx, api.RestoreRequest{Step: api.RestoreBegin})
		if err != nil {
			return err
		}
		r.acknowledged(at)
	}
}

// errPageLost says that pages have to be sent again.
var errPageLost = errors.New("a page did not arrive")

// stream sends pages of the kind, one behind the other on one connection, until all are acknowledged or something is lost.
func (r *restorer) stream(ctx context.Context, kind byte) error {
	nc := r.store.client.nc
	inbox := nc.NewInbox()
	replies, err := nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return err
	}
	defer replies.Unsubscribe()
	subject := r.store.client.subjects.Write(r.store.name, "restore", "")
	step := map[byte]string{frameEvents: api.RestoreEvents, frameKeys: api.RestoreKeys}[kind]
	for sent := 0; ; {
		if err := r.fill(kind); err != nil {
			return err
		}
		if len(r.queue) == 0 {
			return nil
		}
		for ; sent < len(r.queue); sent++ {
			p := &r.queue[sent]
			raw, err := api.Marshal(api.RestoreRequest{Restore: r.backup.SHA256, Step: step, Page: p.data})
			if err != nil {
				return err
			}
			if err := nc.PublishRequest(subject, inbox+"."+strconv.FormatUint(p.last, 10), raw); err != nil {
				return err
			}
		}
		at, err := r.reply(ctx, replies, kind)
		if err != nil {
			return err
		}
		sent -= r.acknowledged(at)
	}
}

func (r *restorer) reply(ctx context.Context, replies *nats.Subscription, kind byte) (*api.RestoreResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.store.client.try)
	defer cancel()
	m, err := replies.NextMsgWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPageLost, err)
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nil, nats.ErrNoResponders
	}
	var res api.RestoreResponse
	if err := json.Unmarshal(m.Data, &res); err != nil {
		return nil, fmt.Errorf("the reply is not understood: %w", err)
	}
	if res.Error != nil {
		return nil, res.Error
	}
	wanted, _ := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	there := res.Position
	if kind == frameKeys {
		there = res.Keys
	}
	if there < wanted {
		return nil, errPageLost // the one before it did not arrive either, and this one does not follow what is there
	}
	return &res, nil
}

// verify reads the events again and holds them against the backup.
func (r *restorer) verify(ctx context.Context) error {
	want := &r.backup.Summary
	var got BackupSummary
	var digests api.Digester
	if want.Events > 0 {
		err := r.store.backupPages(ctx, 0, want.Position, func(res *api.BackupResponse) error {
			if res.Events == 0 {
				return nil
			}
			_, err := got.addEvents(&digests, res.Page)
			r.tell(got.Events, true)
			return err
		})
		if err != nil {
			return fmt.Errorf("read the events again: %w", err)
		}
	}
	if got.Events != want.Events || got.Position != want.Position || got.EventsDigest != want.EventsDigest {
		return fmt.Errorf("the store has %d events up to position %d with the digest %x, the backup has %d up to %d with %x; delete the store and restore anew",
			got.Events, got.Position, got.EventsDigest, want.Events, want.Position, want.EventsDigest)
	}
	return nil
}
