package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

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
// synced by a later Flush; the log has them until then. Otherwise they are synced on return.
//
// A failed write, or damage that is met, ends in OnFatal: the entries are decided, and a replica that cannot apply them must not go on. It then gives
// nil results and takes no snapshot, so the log keeps what it has not applied.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	f.mu.Lock()
	st, failed := f.state, f.failed
	f.mu.Unlock()
	if failed != nil {
		return make([]any, len(logs))
	}
	results, appended, err := f.applyBatch(logs, &st)
	if err != nil {
		f.fail(err)
		return make([]any, len(logs)) // what was not synced was rolled back, the whole batch with it
	}
	f.publish(st)
	if f.onAppend != nil {
		for _, s := range appended {
			f.onAppend(s.term, s.first, s.last)
		}
	}
	return results
}

// span is the positions that one entry appended.
type span struct{ term, first, last uint64 }

func (f *FSM) applyBatch(logs []*raft.Log, st *state) (results []any, appended []span, err error) {
	f.file.RLock()
	defer f.file.RUnlock()
	f.disk.Lock()
	defer f.disk.Unlock()
	dirtied := f.tx == nil
	if dirtied {
		if f.tx, err = f.db.Begin(true); err != nil {
			f.tx = nil
			return nil, nil, err
		}
	}
	results = make([]any, len(logs))
	err = guard(func() error {
		a := newApplier(f.tx, st)
		for i, l := range logs {
			if l.Index <= st.applied {
				continue
			}
			before := st.position
			if l.Type == raft.LogCommand {
				if results[i], err = a.entry(l.Data); err != nil {
					return fmt.Errorf("apply entry %d: %w", l.Index, err)
				}
			}
			st.applied, st.term = l.Index, l.Term
			if st.position > before {
				appended = append(appended, span{l.Term, before + 1, st.position})
			}
			f.pending += len(l.Data)
		}
		return st.write(f.tx)
	})
	if err != nil {
		tx := f.tx
		f.tx, f.pending = nil, 0
		return nil, nil, errors.Join(err, guard(tx.Rollback))
	}
	if f.cfg.OnDirty == nil || f.pending > maxPending {
		tx := f.tx
		f.tx, f.pending = nil, 0
		return results, appended, tx.Commit()
	}
	if dirtied {
		f.cfg.OnDirty()
	}
	return results, appended, nil
}

// applier applies commands inside one transaction.
type applier struct {
	st                                 *state
	events, streams, names, index, ids *bolt.Bucket
}

func newApplier(tx *bolt.Tx, st *state) *applier {
	a := &applier{
		st: st, events: tx.Bucket(bucketEvents), streams: tx.Bucket(bucketStreams), names: tx.Bucket(bucketNames),
		index: tx.Bucket(bucketIndex), ids: tx.Bucket(bucketIDs),
	}
	a.events.FillPercent = 1 // keys only grow
	return a
}

// entry applies an entry's commands. An error is a failed disk; what is wrong with a command is in its result, the same on every replica.
func (a *applier) entry(data []byte) (Result, error) {
	cmds, err := Decode(data)
	if err != nil {
		e := api.ErrBadRequest.With("the entry cannot be read: %v", err)
		if errors.Is(err, errUnknownFormat) {
			e = api.ErrUnknownFormat.With("%v; a newer version of this program wrote it", err)
		}
		return Result{Append: []AppendResult{{Err: e}}}, nil
	}
	res := Result{Append: make([]AppendResult, len(cmds))}
	for i := range cmds {
		if res.Append[i], err = a.append(&cmds[i]); err != nil {
			return res, err
		}
	}
	return res, nil
}

func (a *applier) append(c *Append) (AppendResult, error) {
	if err := checkAppend(c); err != nil {
		return AppendResult{Err: err}, nil
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
	number, events := a.stream(c.Stream)
	if err := expect(c, int64(events)-1); err != nil {
		return AppendResult{Err: err}, nil
	}
	if events == 0 {
		a.st.streams++
		number = a.st.streams
		if err := a.names.Put(u64(number), []byte(c.Stream)); err != nil {
			return AppendResult{}, err
		}
	}
	res := AppendResult{FirstVersion: events, FirstPosition: a.st.position + 1}
	for i := range c.Events {
		a.st.position++
		rec := record{stream: number, version: events, time: c.Time, event: c.Events[i]}
		position := u64(a.st.position)
		for _, put := range []struct {
			bucket     *bolt.Bucket
			key, value []byte
		}{
			{a.events, position, rec.encode(a.st.position)},
			{a.index, append(u64(number), u64(events)...), position},
			{a.ids, idKey(c.Events[i].ID), position},
		} {
			if err := put.bucket.Put(put.key, put.value); err != nil {
				return AppendResult{}, err
			}
		}
		events++
	}
	res.Version, res.Position = events-1, a.st.position
	return res, a.streams.Put([]byte(c.Stream), append(u64(number), u64(events)...))
}

// stream returns the stream's number and how many events it has; none when it does not exist.
func (a *applier) stream(name string) (number, events uint64) {
	v := a.streams.Get([]byte(name))
	if len(v) != 16 {
		return 0, 0
	}
	return parseU64(v[:8]), parseU64(v[8:])
}

func idKey(id string) []byte {
	sum := sha256.Sum256([]byte(id))
	return sum[:16]
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
	seen := make(map[string]bool, len(c.Events))
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
		seen[e.ID] = true
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
		v := a.ids.Get(idKey(e.ID))
		if v == nil {
			continue
		}
		position := parseU64(v)
		rec, err := decodeRecord(position, a.events.Get(v))
		if err != nil {
			return nil, nil, err
		}
		if rec.event.ID != e.ID {
			return nil, nil, fmt.Errorf("%w: ids: wanted %q at position %d, found %q", ErrDamaged, e.ID, position, rec.event.ID)
		}
		known++
		lastPosition = position
		if i == 0 {
			first, firstPosition = rec, position
		}
		stream := string(a.names.Get(u64(rec.stream)))
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
