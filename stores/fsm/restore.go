package fsm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/quorate/quorate/api"
)

// Restoring a backup into an empty store. A restore begins, takes pages of events and of keys that follow one another, and ends when their counts and digests are
// right. From its beginning to its end the store takes nothing else and says so to whoever reads, so half a store is never taken for a whole one. The command:
//
//	restore  op (1) · restore (text) · page (bytes) · events (uvarint) · keys (uvarint) · digest of events (32) · digest of keys (32)
//
// Pages are those of api.BackupEvents and api.BackupKeys. How far it is stands under the key "z":
//
//	z        done (1) · restore (text) · keys (uvarint) · digest of events (32) · digest of keys (32)
//
// which stays when it is done, so that the last step may be sent again. Ids are not looked up: they are unique in the store that was backed up, and the digests say
// that these are its events.
const keyRestore = 'z'

// What a RestoreChange does.
const (
	RestoreBegin  = 1
	RestoreEvents = 2
	RestoreKeys   = 3
	RestoreEnd    = 4
)

// RestoreChange is a step of a restore.
type RestoreChange struct {
	Op           byte
	Restore      string
	Page         []byte
	Events, Keys uint64 // of RestoreEnd
	EventsDigest api.Digest
	KeysDigest   api.Digest
}

// RestoreResult is how far the restore is after a RestoreChange.
type RestoreResult struct {
	Position, Keys uint64
	Done           bool
}

// Kind implements Change.
func (c *RestoreChange) Kind() int { return kindRestore }

func (c *RestoreChange) encode(b []byte) []byte {
	if b == nil {
		b = make([]byte, 0, len(c.Page)+len(c.Restore)+128)
	}
	b = append(b, c.Op)
	b = appendBytes(b, c.Restore)
	b = appendBytes(b, c.Page)
	b = binary.AppendUvarint(b, c.Events)
	b = binary.AppendUvarint(b, c.Keys)
	b = append(b, c.EventsDigest[:]...)
	return append(b, c.KeysDigest[:]...)
}

func decodeRestoreChange(r *reader) *RestoreChange {
	c := &RestoreChange{Op: r.byte(), Restore: r.text(), Page: r.bytes(), Events: r.uvarint(), Keys: r.uvarint()}
	r.digest(&c.EventsDigest)
	r.digest(&c.KeysDigest)
	if c.Op < RestoreBegin || c.Op > RestoreEnd {
		r.fail()
	}
	return c
}

func (r *reader) digest(d *api.Digest) {
	if len(r.rest) < len(d) {
		r.fail()
		return
	}
	copy(d[:], r.rest)
	r.rest = r.rest[len(d):]
}

// restoreState is what the key "z" holds.
type restoreState struct {
	done         bool
	id           string
	keys         uint64
	eventsDigest api.Digest
	keysDigest   api.Digest
}

func decodeRestore(value []byte) (*restoreState, error) {
	r := reader{rest: value}
	done := r.byte()
	p := &restoreState{done: done == 1, id: r.text(), keys: r.uvarint()}
	r.digest(&p.eventsDigest)
	r.digest(&p.keysDigest)
	if done > 1 {
		r.fail()
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: progress of a restore: %w", ErrDamaged, err)
	}
	return p, nil
}

func (a *applier) putRestore(p *restoreState) error {
	b := []byte{0}
	if p.done {
		b[0] = 1
	}
	b = appendBytes(b, p.id)
	b = binary.AppendUvarint(b, p.keys)
	b = append(b, p.eventsDigest[:]...)
	b = append(b, p.keysDigest[:]...)
	return a.putKey(string(rune(keyRestore)), b)
}

// restore returns the last restore's progress; nil: there was none.
func (v *view) restore() (*restoreState, error) {
	value, err := v.key(string(rune(keyRestore)))
	if value == nil || err != nil {
		return nil, err
	}
	return decodeRestore(value)
}

func (a *applier) restore() (*restoreState, error) {
	v, err := a.view(true)
	if err != nil {
		return nil, err
	}
	return v.restore()
}

// restoring says, of a state that a restore was applied to, whether one is under way. Whoever replaces the state makes it unknown.
const (
	restoringUnknown = iota
	restoringNo
	restoringYes
)

// refuseRestoring refuses an append or change while a restore is under way.
func (a *applier) refuseRestoring() (*api.Error, error) {
	if a.st.kinds < kindRestore {
		return nil, nil
	}
	if a.f.restoring.Load() == restoringUnknown {
		p, err := a.restore()
		if err != nil {
			return nil, err
		}
		now := int32(restoringNo)
		if p != nil && !p.done {
			now = restoringYes
		}
		a.f.restoring.Store(now)
	}
	if a.f.restoring.Load() == restoringYes {
		return api.ErrRestoring.With("a backup is being restored into the store; nothing was written; wait until it is done, or delete the store if it was given up"), nil
	}
	return nil, nil
}

// whole refuses to read a state that is a part of a backup which is being restored. It is asked in the view that is read: a restore may begin at any time in a store that is empty.
func (v *view) whole() error {
	if v.st.kinds < kindRestore {
		return nil
	}
	if p, err := v.restore(); p == nil || p.done || err != nil {
		return err
	}
	return api.ErrRestoring.With("a backup is being restored into the store, at position %d; ask read.info how far it is, or delete the store if it was given up", v.st.position)
}

func (c *RestoreChange) apply(a *applier) (any, *api.Error, error) {
	p, err := a.restore()
	if err != nil {
		return nil, nil, err
	}
	same := p != nil && p.id == c.Restore
	var refused *api.Error
	switch {
	case same && p.done:
	case c.Op == RestoreBegin && !same:
		p, refused, err = c.begin(a, p)
	case !same:
		refused = api.ErrRestoreRefused.With("restore %s was not begun in this store; send the step begin first", c.Restore)
	case c.Op == RestoreEvents:
		refused, err = c.events(a, p)
	case c.Op == RestoreKeys:
		refused, err = c.keys(a, p)
	case c.Op == RestoreEnd:
		refused, err = c.end(a, p)
	}
	if refused != nil || err != nil {
		return nil, refused, err
	}
	return RestoreResult{Position: a.st.position, Keys: p.keys, Done: p.done}, nil, nil
}

func (c *RestoreChange) begin(a *applier, last *restoreState) (*restoreState, *api.Error, error) {
	own := uint64(0)
	if last != nil {
		own = 1
		if !last.done {
			return nil, api.ErrRestoring.With("another restore (%s) is under way in the store, at position %d; finish it, or delete the store and create it anew", last.id, a.st.position), nil
		}
	}
	if a.st.position > 0 || a.st.keys > own {
		return nil, api.ErrStoreNotEmpty.With("the store has %d events; a backup is restored into a store that is empty; create another one", a.st.position), nil
	}
	p := &restoreState{id: strings.Clone(c.Restore)}
	a.f.restoring.Store(restoringUnknown)
	return p, nil, a.putRestore(p)
}

// restored is an event to be written.
type restored struct {
	*api.BackupEvent
	record record
	head   *head
	name   string
}

// events writes a page that follows what is there. One that is there already, or lies further on, changes nothing: the result says where the restore is.
func (c *RestoreChange) events(a *applier, p *restoreState) (*api.Error, error) {
	page, err := api.DecodeBackupEvents(c.Page)
	if err != nil {
		return api.ErrBadRequest.With("%v", err), nil
	}
	first, last := page[0].Position, page[len(page)-1].Position
	switch {
	case p.keys > 0:
		return api.ErrRestoreRefused.With("there are %d keys already; events come before keys", p.keys), nil
	case first > a.st.position+1 || last <= a.st.position:
		return nil, nil
	case first <= a.st.position:
		return api.ErrRestoreRefused.With("the page has the events %d to %d, and the store is at %d; send pages as the backup has them", first, last, a.st.position), nil
	}
	writes, refused, err := a.checkRestored(page)
	if refused != nil || err != nil {
		return refused, err
	}
	var digests api.Digester
	a.o.terms.mu.Lock()
	for i := range writes {
		w := &writes[i]
		p.eventsDigest = digests.Event(p.eventsDigest, w.BackupEvent)
		a.number(w.head, w.name)
		a.st.position++
		rec := appendRecord(a.o.room(len(w.Body)+recordOverhead), a.st.position, w.head, w.Time, w.Body)
		a.o.addEvent(rec, hash64(w.record.event.ID), a.st.position)
		if !w.record.stub { // it was scavenged, and nobody finds it
			a.o.unsynced += a.o.terms.add(a.st.position, &w.record.event)
		}
		w.head.push(a.st.position)
	}
	a.o.terms.mu.Unlock()
	return nil, a.putRestore(p)
}

// checkRestored holds every event of the page against its stream before anything is written.
func (a *applier) checkRestored(page []api.BackupEvent) (writes []restored, refused *api.Error, err error) {
	counts := make(map[string]uint64)
	writes = make([]restored, len(page))
	size := 0
	for i := range page {
		size += len(page[i].Body) + recordOverhead
	}
	trial := make([]byte, 0, size) // bodies are tried as records, so that whatever a record may hold is known here
	for i := range page {
		e := &page[i]
		count, known := counts[e.Stream]
		if !known {
			if err := api.CheckStreamName(e.Stream); err != nil {
				return nil, err, nil
			}
			h, err := a.head(e.Stream)
			if err != nil {
				return nil, nil, err
			}
			count = h.count
		}
		if e.Version != count {
			return nil, api.ErrRestoreRefused.With("event %d is version %d of stream %s, which has %d events before it", e.Position, e.Version, e.Stream, count), nil
		}
		counts[e.Stream] = count + 1
		start := len(trial)
		trial = appendRecord(trial, e.Position, &head{number: 1}, e.Time, e.Body)
		rec, _, err := decodeChecked(e.Position, trial[start:], true)
		if err != nil {
			return nil, api.ErrRestoreRefused.With("event %d cannot be read: %v", e.Position, err), nil
		}
		if err := rec.checkRestored(); err != nil {
			return nil, api.ErrRestoreRefused.With("event %d is none that this cluster takes: %s", e.Position, err.Description), nil
		}
		writes[i] = restored{BackupEvent: e, record: rec, name: e.Stream}
	}
	for i := range writes { // all are looked at by now, so this looks up nothing
		if writes[i].head, err = a.head(writes[i].name); err != nil {
			return nil, nil, err
		}
	}
	return writes, nil, nil
}

// checkRestored refuses an event that nobody could have appended: a page may be made up, and what is checked neither here nor by the leader (RestoreChange.Check) ends every replica
// later, say with a type that is too long for a key, or makes pages that cannot be read.
func (rec *record) checkRestored() *api.Error {
	e := &rec.event
	if err := api.CheckEventID(e.ID); err != nil || rec.stub {
		return err
	}
	n := api.NewEvent{ID: e.ID, Type: e.Type, Tags: e.Tags, Metadata: e.Metadata}
	if n.DataBase64 = e.Data; e.JSON {
		n.Data, n.DataBase64 = e.Data, nil
	}
	switch {
	case len(n.Data) > 0 && !json.Valid(n.Data):
		return api.ErrBadRequest.With("its data is not JSON, and says that it is")
	case len(n.Metadata) > 0 && !json.Valid(n.Metadata):
		return api.ErrBadRequest.With("its metadata is not JSON")
	}
	return n.CheckKept(0)
}

func (c *RestoreChange) keys(a *applier, p *restoreState) (*api.Error, error) {
	first, page, err := api.DecodeBackupKeys(c.Page)
	switch {
	case err != nil:
		return api.ErrBadRequest.With("%v", err), nil
	case first > p.keys || first+uint64(len(page)) <= p.keys:
		return nil, nil
	case first < p.keys:
		return api.ErrRestoreRefused.With("the page has the keys %d to %d, and the store has %d; send pages as the backup has them", first, first+uint64(len(page)), p.keys), nil
	}
	for i := range page {
		if k := page[i].Key; len(k) == 0 || len(k) > maxKey || k[0] == keyRestore {
			return api.ErrRestoreRefused.With("%.40q… is not a key of a backup", k), nil
		}
		if refused, err := a.checkRestoredStream(&page[i]); refused != nil || err != nil {
			return refused, err
		}
	}
	var digests api.Digester
	for i := range page {
		p.keysDigest = digests.Key(p.keysDigest, &page[i])
		if err := a.putKey(string(page[i].Key), page[i].Value); err != nil {
			return nil, err
		}
	}
	p.keys += uint64(len(page))
	return nil, a.putRestore(p)
}

func (c *RestoreChange) end(a *applier, p *restoreState) (*api.Error, error) {
	switch {
	case c.Events != a.st.position:
		return api.ErrRestoreRefused.With("the store has %d events, the backup has %d; go on at position %d", a.st.position, c.Events, a.st.position+1), nil
	case c.Keys != p.keys:
		return api.ErrRestoreRefused.With("the store has %d keys, the backup has %d; go on with key %d", p.keys, c.Keys, p.keys), nil
	case c.Keys != a.st.keys-1:
		return api.ErrRestoreRefused.With("the backup has keys twice: the store has %d of %d; the backup is not one, delete the store", a.st.keys-1, c.Keys), nil
	case c.EventsDigest != p.eventsDigest:
		return api.ErrRestoreRefused.With("the events have the digest %x, the backup's are %x; this is not what was backed up, delete the store", p.eventsDigest, c.EventsDigest), nil
	case c.KeysDigest != p.keysDigest:
		return api.ErrRestoreRefused.With("the keys have the digest %x, the backup's are %x; this is not what was backed up, delete the store", p.keysDigest, c.KeysDigest), nil
	}
	if refused, err := a.checkRestoredKeys(); refused != nil || err != nil {
		return refused, err
	}
	p.done = true
	a.f.restoring.Store(restoringUnknown)
	return nil, a.putRestore(p)
}

// checkRestoredStream refuses a stream's state that this program cannot read, or that says that more is gone than there is: it would be met as damage later.
func (a *applier) checkRestoredStream(k *api.BackupKey) (*api.Error, error) {
	if k.Key[0] != keyStream {
		return nil, nil
	}
	name := string(k.Key[1:])
	s, err := decodeStream(k.Value)
	if err != nil {
		return unreadable(k.Key), nil
	}
	h, err := a.head(name)
	if err != nil {
		return nil, err
	}
	if s.first > h.count || (s.deleted || s.tombstoned) && s.first != h.count {
		return api.ErrRestoreRefused.With("stream %s has %d events, and its first one is said to be version %d; this is no backup of one store, delete the store", name, h.count, s.first), nil
	}
	return nil, nil
}

// checkRestoredKeys refuses to end a restore with keys that this program cannot read: those of a newer version, or of a file that was made up. More of what such a file may hold was refused
// by the leader, page by page.
func (a *applier) checkRestoredKeys() (refused *api.Error, err error) {
	v, err := a.view(true)
	if err != nil {
		return nil, err
	}
	err = v.scan("", "", func(key string, sealed []byte) (bool, error) {
		if _, err := unseal([]byte(key), sealed); err != nil {
			return false, err
		}
		fits := true
		switch key[0] {
		case keyRestore, keyStream: // streams were looked at when they came
		case keySnapshot:
			fits = len(key) > len(snapshotPrefix(""))+8
			if fits {
				_, err := decodeSnapshot(key, sealed)
				fits = err == nil
			}
		case keySubscription, keyProgress:
			if len(key) > 1 { // without a name it is the last id that was given
				s, err := v.subscription(key[1:])
				fits = err == nil && s != nil && s.Config.Check() == nil
			}
		case keyParked:
			fits = len(key) > 1+1+8 && key[len(key)-9] == 0
		default:
			fits = false
		}
		if !fits {
			refused = unreadable([]byte(key))
		}
		return fits, nil
	})
	return refused, err
}

func unreadable(key []byte) *api.Error {
	return api.ErrRestoreRefused.With("the backup's key %.40q cannot be read; was it made by a newer version? upgrade this cluster, delete the store and restore again", key)
}
