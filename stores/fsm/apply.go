package fsm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/quorate/quorate/api"
)

// Result is what an entry's commands answer, one each, in order.
type Result struct{ Append []AppendResult }

// AppendResult is what an append answers. With Err set, nothing was written.
type AppendResult struct {
	FirstVersion, Version   uint64
	FirstPosition, Position uint64
	Duplicate               bool
	Err                     *api.Error
}

// Apply applies one entry.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries. Entries that are applied already are skipped; their result is nil. With OnDirty set the effects are visible on return and
// synced by a later Flush; the log has them until then. Otherwise they are synced on return. It does not wait for a flush that is under way, unless the
// overlays are full (see Pressure).
//
// A failed write, or damage that is met, ends in OnFatal: the entries are decided, and a replica that cannot apply them must not go on. It then gives
// nil results and takes no snapshot, so the log keeps what it has not applied.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	f.waitRoom()
	results, appended, dirtied, err := f.applyBatch(logs)
	if err != nil {
		f.fail(err)
	}
	if results == nil {
		return make([]any, len(logs))
	}
	switch {
	case f.cfg.OnDirty == nil:
		if err := f.Flush(); err != nil {
			return make([]any, len(logs))
		}
	case f.pending.Load() > maxPending:
		f.kick()
	}
	if dirtied && f.cfg.OnDirty != nil {
		f.cfg.OnDirty()
	}
	if f.onAppend != nil {
		for _, s := range appended {
			f.onAppend(s.term, s.first, s.last)
		}
	}
	return results
}

// span is the positions that one entry appended.
type span struct{ term, first, last uint64 }

// applyBatch returns no results when the FSM has failed, before or now; then nothing of the batch is left.
func (f *FSM) applyBatch(logs []*raft.Log) (results []any, appended []span, dirtied bool, err error) {
	f.file.RLock()
	defer f.file.RUnlock()
	f.applying.Lock()
	defer f.applying.Unlock()
	f.mu.Lock()
	if f.failed != nil || f.closed {
		f.mu.Unlock()
		return nil, nil, false, nil
	}
	a := &f.applier
	a.f, a.st, a.frozen, a.decoder.share = f, f.state, f.frozen, true
	if f.active == nil {
		f.active = newOverlay(f.state)
	}
	a.o = f.active
	f.mu.Unlock()
	before := a.st
	defer a.reset()
	results = make([]any, len(logs))
	err = guard(func() error {
		for i, l := range logs {
			if l.Index <= a.st.applied {
				continue
			}
			last := a.st.position
			if l.Type == raft.LogCommand {
				r, err := a.entry(l.Data)
				if err != nil {
					return fmt.Errorf("apply entry %d: %w", l.Index, err)
				}
				results[i] = r
			}
			a.st.applied, a.st.term = l.Index, l.Term
			if a.st.position > last {
				appended = append(appended, span{l.Term, last + 1, a.st.position})
			}
		}
		return nil
	})
	if err != nil {
		a.o.undo()
		return nil, nil, false, err
	}
	return results, appended, a.st != before && f.publish(a), nil
}

// publish makes what a batch did visible. It reports whether everything was on disk before.
func (f *FSM) publish(a *applier) (dirtied bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, h := range a.heads {
		if h.count > h.was {
			a.o.setHead(name, &h.head)
		}
	}
	a.o.shown = a.o.layer
	f.pending.Store(a.o.unsynced)
	dirtied, f.dirty = !f.dirty, true
	f.announce(a.st)
	return dirtied
}

// applier applies commands on top of the active overlay. Its memory is used again by the next batch.
type applier struct {
	f       *FSM
	st      state
	o       *overlay
	frozen  *overlay
	decoder decoder
	heads   map[string]*staged // of streams that this batch looked at; the keys lie in the entries' memory
	spare   []*staged
	hashes  []uint64 // of the ids of the append at hand
}

// staged is a head as the batch leaves it.
type staged struct {
	head
	was uint64 // count before
}

// keepHeads is how many heads an applier keeps for the next batch, and how many events a decoder may have room for.
const keepHeads = 64

// reset lets go of the batch.
func (a *applier) reset() {
	for _, h := range a.heads {
		if len(a.spare) < keepHeads {
			a.spare = append(a.spare, h)
		}
	}
	if len(a.heads) > keepHeads {
		a.heads = nil
	}
	clear(a.heads)
	a.decoder = decoder{cmds: a.decoder.cmds, raws: a.decoder.raws}
	if cap(a.decoder.raws) > keepHeads || cap(a.decoder.cmds) > keepHeads {
		a.decoder = decoder{}
	}
	for i := range a.decoder.cmds[:cap(a.decoder.cmds)] {
		c := &a.decoder.cmds[:cap(a.decoder.cmds)][i]
		clear(c.Events[:cap(c.Events)])
		*c = Append{Events: c.Events[:0]}
		if cap(c.Events) > keepHeads {
			c.Events = nil
		}
	}
	clear(a.decoder.raws[:cap(a.decoder.raws)])
	if cap(a.hashes) > keepHeads {
		a.hashes = nil
	}
	a.o, a.frozen = nil, nil
}

// disk returns the flushed part of the state, in a transaction that is used until the next flush.
func (a *applier) disk() (*disk, error) {
	if a.f.reader == nil {
		tx, err := a.f.db.Begin(false)
		if err != nil {
			return nil, err
		}
		if a.f.reader, err = openDisk(tx); err != nil {
			a.f.reader = nil
			return nil, errors.Join(err, tx.Rollback())
		}
	}
	return a.f.reader, nil
}

// entry applies an entry's commands. An error is a failed disk; what is wrong with a command is in its result, the same on every replica.
func (a *applier) entry(data []byte) (Result, error) {
	if err := a.decoder.entry(data); err != nil {
		e := api.ErrBadRequest.With("the entry cannot be read: %v", err)
		if errors.Is(err, errUnknownFormat) {
			e = api.ErrUnknownFormat.With("%v; a newer version of this program wrote it", err)
		}
		return Result{Append: []AppendResult{{Err: e}}}, nil
	}
	cmds, raws := a.decoder.cmds, a.decoder.raws
	res := Result{Append: make([]AppendResult, len(cmds))}
	for i := range cmds {
		var err error
		if res.Append[i], err = a.append(&cmds[i], raws[:len(cmds[i].Events)]); err != nil {
			return res, err
		}
		raws = raws[len(cmds[i].Events):]
	}
	return res, nil
}

func (a *applier) append(c *Append, raws [][]byte) (AppendResult, error) {
	if err := checkAppend(c); err != nil {
		return AppendResult{Err: err}, nil
	}
	a.hashes = a.hashes[:0]
	for i := range c.Events {
		a.hashes = append(a.hashes, hash64(c.Events[i].ID))
	}
	dup, refused, err := a.duplicate(c)
	switch {
	case err != nil:
		return AppendResult{}, err
	case refused != nil:
		return AppendResult{Err: refused}, nil
	case dup != nil:
		return *dup, nil
	}
	h, err := a.head(c.Stream)
	if err != nil {
		return AppendResult{}, err
	}
	if err := expect(c, int64(h.count)-1); err != nil {
		return AppendResult{Err: err}, nil
	}
	if h.count == 0 {
		a.st.streams++
		h.number = a.st.streams
		a.o.addName(c.Stream)
	}
	res := AppendResult{FirstVersion: h.count, FirstPosition: a.st.position + 1}
	for i := range c.Events {
		a.st.position++
		rec := appendRecord(a.o.room(len(raws[i])+recordOverhead), a.st.position, h, c.Time, raws[i])
		a.o.addEvent(rec, a.hashes[i], a.st.position)
		h.push(a.st.position)
	}
	res.Version, res.Position = h.count-1, a.st.position
	return res, nil
}

// head returns the stream's head, for the batch to change; its count is 0 when the stream does not exist.
func (a *applier) head(name string) (*head, error) {
	if h := a.heads[name]; h != nil {
		return &h.head, nil
	}
	from := a.o.heads[name]
	if from == nil && a.frozen != nil {
		from = a.frozen.heads[name]
	}
	if from == nil {
		d, err := a.disk()
		if err != nil {
			return nil, err
		}
		onDisk, err := d.head(name)
		if err != nil {
			return nil, err
		}
		from = &onDisk
	}
	var h *staged
	if n := len(a.spare); n > 0 {
		h, a.spare = a.spare[n-1], a.spare[:n-1]
	} else {
		h = new(staged)
	}
	h.number, h.count, h.path, h.was = from.number, from.count, append(h.path[:0], from.path...), from.count
	if a.heads == nil {
		a.heads = make(map[string]*staged)
	}
	a.heads[name] = h
	return &h.head, nil
}

// find returns the event with the id; its position is 0 when there is none. An id's hash leads to the event, and the event says whether it is the one.
func (a *applier) find(id string, hash uint64) (position uint64, rec record, err error) {
	is := func(p uint64) (more bool, err error) {
		value, err := a.record(p)
		if err != nil {
			return false, err
		}
		found, err := decodeRecord(p, value)
		if err != nil {
			return false, err
		}
		if found.event.ID == id {
			position, rec = p, found
			return false, nil
		}
		if hash64(found.event.ID) != hash {
			return false, fmt.Errorf("%w: ids: wanted %q at position %d, found %q", ErrDamaged, id, p, found.event.ID)
		}
		return true, nil
	}
	more, err := a.o.candidates(hash, is)
	if more && err == nil && a.frozen != nil {
		more, err = a.frozen.candidates(hash, is)
	}
	if !more || err != nil {
		return position, rec, err
	}
	d, err := a.disk()
	if err != nil {
		return 0, rec, err
	}
	return position, rec, d.candidates(hash, is)
}

// record and name return what the batch sees: what it did itself, and what was before.
func (a *applier) record(position uint64) ([]byte, error) {
	v, err := a.view(position <= a.st.position && a.o.layer.record(position) == nil)
	if err != nil {
		return nil, err
	}
	return v.record(position)
}

func (a *applier) name(number uint64) (string, error) {
	v, err := a.view(true)
	if err != nil {
		return "", err
	}
	return v.name(number)
}

func (a *applier) view(disk bool) (v view, err error) {
	v = view{st: a.st, upper: a.o.layer}
	if a.frozen != nil {
		v.lower = a.frozen.layer
	}
	if disk {
		v.disk, err = a.disk()
	}
	return v, err
}

// checkAppend checks again what was checked on arrival: the log may come from a node that checked less.
func checkAppend(c *Append) *api.Error {
	if err := api.CheckStreamName(c.Stream); err != nil {
		return err
	}
	if len(c.Events) == 0 {
		return api.ErrBadRequest.With("an append needs at least one event")
	}
	if c.Expected < api.ExpectAny && c.Expected != api.ExpectExists {
		return api.ErrBadRequest.With("expected_version %d is not a version; use n, -1 (must not exist), -2 (any) or -4 (must exist)", c.Expected)
	}
	var seen map[string]bool
	if len(c.Events) > 1 {
		seen = make(map[string]bool, len(c.Events))
	}
	for i := range c.Events {
		e := &c.Events[i]
		if err := api.CheckEventID(e.ID); err != nil {
			return err
		}
		if err := api.CheckEventType(e.Type); err != nil {
			return err
		}
		if seen[e.ID] {
			return api.ErrEventIDConflict.With("event id %q is given twice in one append; every event needs its own", e.ID)
		}
		if seen != nil {
			seen[e.ID] = true
		}
	}
	return nil
}

// duplicate finds out whether the append was made before: all its ids, in this stream, one after the other, with the same types and data. Then its first
// result is returned again, whatever version the stream is at now; so a retry is safe for ever. Anything in between is refused: writing it would lose or double an event.
func (a *applier) duplicate(c *Append) (dup *AppendResult, refused *api.Error, err error) {
	known := 0
	var first record
	var firstPosition, lastPosition uint64
	for i := range c.Events {
		e := &c.Events[i]
		position, rec, err := a.find(e.ID, a.hashes[i])
		if err != nil {
			return nil, nil, err
		}
		if position == 0 {
			continue
		}
		known++
		lastPosition = position
		if i == 0 {
			first, firstPosition = rec, position
		}
		stream, err := a.name(rec.stream)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case known != i+1:
			return nil, conflict(c.Events[i].ID, stream, rec.version, "but others of this append are new"), nil
		case stream != c.Stream:
			return nil, conflict(e.ID, stream, rec.version, "and not in "+c.Stream), nil
		case rec.version != first.version+uint64(i):
			return nil, conflict(e.ID, stream, rec.version, "which does not follow the event before it"), nil
		case rec.event.Type != e.Type || rec.event.JSON != e.JSON || !bytes.Equal(rec.event.Data, e.Data):
			return nil, conflict(e.ID, stream, rec.version, "with another type or other data"), nil
		}
	}
	switch {
	case known == 0:
		return nil, nil, nil
	case known < len(c.Events):
		return nil, conflict(c.Events[0].ID, c.Stream, first.version, "but others of this append are new"), nil
	}
	n := uint64(len(c.Events))
	return &AppendResult{
		FirstVersion: first.version, Version: first.version + n - 1, FirstPosition: firstPosition, Position: lastPosition, Duplicate: true,
	}, nil, nil
}

func conflict(id, stream string, version uint64, what string) *api.Error {
	return api.ErrEventIDConflict.With("event id %q is in stream %s already, at version %d, %s; nothing was written; give new events new ids", id, stream, version, what)
}

// expect checks the expected version against the last one; -1 stands for a stream that does not exist.
func expect(c *Append, last int64) *api.Error {
	ok := false
	switch c.Expected {
	case api.ExpectAny:
		ok = true
	case api.ExpectExists:
		ok = last >= 0
	default:
		ok = c.Expected == last
	}
	if ok {
		return nil
	}
	at := fmt.Sprintf("is at version %d", last)
	if last < 0 {
		at = "does not exist"
	}
	want := fmt.Sprintf("version %d", c.Expected)
	switch c.Expected {
	case api.ExpectNoStream:
		want = "no stream"
	case api.ExpectExists:
		want = "an existing stream"
	}
	e := api.ErrWrongVersion.With("stream %s %s; the append expected %s; read the stream again and decide anew", c.Stream, at, want)
	e.ActualVersion = &last
	return e
}
