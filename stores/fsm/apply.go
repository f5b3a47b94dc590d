package fsm

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/quorate/quorate/api"
)

// Result is what an entry's commands answer, one each, in order; also of changes.
type Result struct{ Append []AppendResult }

// AppendResult is what an append answers. With Err set, nothing was written.
type AppendResult struct {
	FirstVersion, Version   uint64
	FirstPosition, Position uint64
	Duplicate               bool
	Streams                 []api.StreamResult // of an append over several streams, which has positions above and no versions
	Value                   any                // what a Change answers
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
		f.kick(func() {})
	}
	f.cfg.Shared.relieve()
	if dirtied && f.cfg.OnDirty != nil {
		f.cfg.OnDirty()
	}
	if f.onAppend != nil {
		for _, s := range appended {
			f.onAppend(s.term, s.stream, s.first, s.last)
		}
	}
	return results
}

// span is the positions that one append took. The name may lie in the entry's memory.
type span struct {
	term        uint64
	stream      string
	first, last uint64
}

// applyBatch returns no results when the FSM has failed, before or now; then nothing of the batch is left.
func (f *FSM) applyBatch(logs []*raft.Log) (results []any, appended []span, dirtied bool, err error) {
	leave, err := f.enter()
	if err != nil {
		if errors.Is(err, berrors.ErrDatabaseNotOpen) {
			err = nil // closed; as after a failure, nothing is left of the batch
		}
		return nil, nil, false, err
	}
	defer leave()
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
			a.term = l.Term
			if l.Type == raft.LogCommand {
				r, err := a.entry(l.Data)
				if err != nil {
					return fmt.Errorf("apply entry %d: %w", l.Index, err)
				}
				results[i] = r
			}
			a.st.applied, a.st.term = l.Index, l.Term
		}
		return nil
	})
	if err != nil {
		a.o.undo()
		return nil, nil, false, err
	}
	return results, a.appended, a.st != before && f.publish(a), nil
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
	a.o.showKeys()
	if a.cut {
		f.sweep.cuts.Add(1)
	}
	f.account(a.o.unsynced, f.held.Load())
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

	term     uint64 // of the entry at hand
	cut      bool   // the batch changed a stream's state
	appended []span // by this batch; nobody is told when OnAppend was not called
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
	a.decoder = decoder{cmds: a.decoder.cmds, raws: a.decoder.raws, kinds: a.decoder.kinds}
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
	a.o, a.frozen, a.appended, a.cut = nil, nil, nil, false // the batch's caller has what was appended
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
	cmds, raws, changes := a.decoder.cmds, a.decoder.raws, a.decoder.changes
	for _, kind := range a.decoder.kinds {
		a.st.kinds = max(a.st.kinds, uint64(kind))
	}
	res := Result{Append: make([]AppendResult, len(a.decoder.kinds))}
	for i, kind := range a.decoder.kinds {
		var err error
		if kind > kindSeveral {
			res.Append[i], err = a.change(changes[0])
			changes = changes[1:]
		} else {
			res.Append[i], err = a.append(&cmds[0], raws[:len(cmds[0].Events)])
			raws, cmds = raws[len(cmds[0].Events):], cmds[1:]
		}
		if err != nil {
			return res, err
		}
	}
	return res, nil
}

func (a *applier) append(c *Append, raws [][]byte) (AppendResult, error) {
	if err := checkAppend(c); err != nil {
		return AppendResult{Err: err}, nil
	}
	if refused, err := a.refuseRestoring(); refused != nil || err != nil {
		return AppendResult{Err: refused}, err
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
	if refused, err = a.tombstoned(c); refused == nil && err == nil {
		refused, err = a.expect(c)
	}
	if refused != nil || err != nil {
		return AppendResult{Err: refused}, err
	}
	if len(c.Others) > 0 {
		return a.writeSeveral(c, raws)
	}
	h, err := a.head(c.Stream)
	if err != nil {
		return AppendResult{}, err
	}
	res := AppendResult{FirstVersion: h.count, FirstPosition: a.st.position + 1}
	a.number(h, c.Stream)
	a.o.terms.mu.Lock()
	for i := range c.Events {
		a.write(c, i, h, raws[i])
	}
	a.o.terms.mu.Unlock()
	res.Version, res.Position = h.count-1, a.st.position
	if a.st.trimmed > 0 {
		err = a.written(c.Stream, h)
	}
	return res, err
}

// number gives a stream that does not exist yet its number.
func (a *applier) number(h *head, name string) {
	if h.count == 0 {
		a.st.streams++
		h.number = a.st.streams
		a.o.addName(name)
	}
}

// write appends event i of the command to its stream. The overlay's terms are locked.
func (a *applier) write(c *Append, i int, h *head, raw []byte) {
	a.st.position++
	rec := appendRecord(a.o.room(len(raw)+recordOverhead), a.st.position, h, c.Time, raw)
	a.o.addEvent(rec, a.hashes[i], a.st.position)
	a.o.unsynced += a.o.terms.add(a.st.position, &c.Events[i])
	h.push(a.st.position)
	if a.f.onAppend != nil {
		a.tell(c.streamName(c.streamOf(i)))
	}
}

// tell notes for OnAppend that the event that was just written is the stream's. Neighbours become one span.
func (a *applier) tell(stream string) {
	p := a.st.position
	if n := len(a.appended); n > 0 && a.appended[n-1].last == p-1 && a.appended[n-1].term == a.term && a.appended[n-1].stream == stream {
		a.appended[n-1].last = p
		return
	}
	a.appended = append(a.appended, span{a.term, stream, p, p})
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
	v = view{st: a.st, upper: a.o.layer, upperTerms: &a.o.terms, upperKeys: a.o.keys}
	if a.frozen != nil {
		v.lower, v.lowerTerms, v.lowerKeys = a.frozen.layer, &a.frozen.terms, a.frozen.shownKeys
	}
	if disk {
		v.disk, err = a.disk()
	}
	return v, err
}
