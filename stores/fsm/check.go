package fsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/quorate/quorate/api"
)

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
	if len(c.Others) > 0 && c.Expected != api.ExpectAny {
		return api.ErrBadRequest.With("expected_version is about one stream and the append writes several; use conditions with stream and version")
	}
	if len(c.Others) > 0 {
		listed := map[string]bool{c.Stream: true}
		for _, name := range c.Others {
			if err := api.CheckStreamName(name); err != nil {
				return err
			}
			if listed[name] {
				return api.ErrBadRequest.With("the entry lists stream %s twice", name)
			}
			listed[name] = true
		}
	}
	if err := api.CheckConditions(c.Conditions); err != nil {
		return err
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

// duplicate finds out whether the append was made before: all its ids, in these streams, one after the other, with the same types and data. Then its first
// result is returned again, whatever version the stream is at now; so a retry is safe for ever. Anything in between is refused: writing it would lose or double an event.
func (a *applier) duplicate(c *Append) (dup *AppendResult, refused *api.Error, err error) {
	known := 0
	var first record
	var firstPosition, lastPosition uint64
	results := c.results()
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
		s, err := a.streamState(stream)
		if err != nil {
			return nil, nil, err
		}
		want := c.streamName(c.streamOf(i))
		switch {
		case known != i+1:
			return nil, conflict(c.Events[i].ID, stream, rec.version, "but others of this append are new"), nil
		case stream != want:
			return nil, conflict(e.ID, stream, rec.version, "and not in "+want), nil
		case results == nil && rec.version != first.version+uint64(i), results != nil && position != firstPosition+uint64(i):
			return nil, conflict(e.ID, stream, rec.version, "which does not follow the event before it"), nil
		case !rec.same(e, rec.version < s.first):
			return nil, conflict(e.ID, stream, rec.version, "with another type or other data"), nil
		}
		c.result(results, i, rec.version, position)
	}
	switch {
	case known == 0:
		return nil, nil, nil
	case known < len(c.Events):
		return nil, conflict(c.Events[0].ID, c.Stream, first.version, "but others of this append are new"), nil
	}
	if results != nil {
		return &AppendResult{FirstPosition: firstPosition, Position: lastPosition, Duplicate: true, Streams: results}, nil, nil
	}
	n := uint64(len(c.Events))
	return &AppendResult{
		FirstVersion: first.version, Version: first.version + n - 1, FirstPosition: firstPosition, Position: lastPosition, Duplicate: true,
	}, nil, nil
}

func conflict(id, stream string, version uint64, what string) *api.Error {
	return api.ErrEventIDConflict.With("event id %q is in stream %s already, at version %d, %s; nothing was written; give new events new ids", id, stream, version, what)
}

// expect holds the append against the state before it: its expected version, and all of its conditions. It evaluates every one of them, so that a client learns at once
// all that has changed.
func (a *applier) expect(c *Append) (refused *api.Error, err error) {
	if len(c.Conditions) == 0 && c.Expected == api.ExpectAny {
		return nil, nil
	}
	refused, err = a.expectVersion(c)
	if len(c.Conditions) == 0 || err != nil {
		return refused, err
	}
	var failed []api.FailedCondition
	w, types := work{left: conditionWork}, maxTypes
	for i := range c.Conditions {
		cond := &c.Conditions[i]
		if cond.Query == nil {
			last, ok, err := a.stands(cond.Stream, *cond.Version)
			if err != nil {
				return nil, err
			}
			if !ok {
				want := *cond.Version
				failed = append(failed, api.FailedCondition{Index: i, Stream: strings.Clone(cond.Stream), ExpectedVersion: &want, ActualVersion: &last})
			}
			continue
		}
		v, err := a.view(true)
		if err != nil {
			return nil, err
		}
		position, err := v.last(cond.Query, cond.After, c.Time, &w, &types)
		switch {
		case errors.Is(err, errSpent):
			return api.ErrBadRequest.With("conditions[%d]: too many events behind position %d have some of the types and tags and not all; "+
				"read what you decide on, and give the position it was read at as after; nothing was written", i, cond.After), nil
		case errors.Is(err, errManyTypes):
			return api.ErrBadRequest.With("conditions[%d]: its type_prefixes stand for more types than the %d that an append may ask for; name types, or use longer prefixes; nothing was written", i, maxTypes), nil
		case err != nil:
			return nil, err
		case position > 0:
			after := cond.After
			failed = append(failed, api.FailedCondition{Index: i, Position: position, After: &after})
		}
	}
	if len(failed) == 0 {
		return refused, nil
	}
	e := api.ErrCondition.With("%s; nothing was written; read again and decide anew", describeFailed(failed))
	if refused != nil {
		want := c.Expected
		e.Description = refused.Description + "; and " + e.Description
		e.ActualVersion = refused.ActualVersion
		failed = append([]api.FailedCondition{{Index: -1, Stream: strings.Clone(c.Stream), ExpectedVersion: &want, ActualVersion: refused.ActualVersion}}, failed...)
	}
	e.Failed = failed
	return e, nil
}

// describeFailed says in words what the first of the conditions met, and how many more there are.
func describeFailed(failed []api.FailedCondition) string {
	f := &failed[0]
	var what string
	if f.After != nil {
		what = fmt.Sprintf("conditions[%d] does not hold: event %d matches and lies after position %d", f.Index, f.Position, *f.After)
	} else {
		what = fmt.Sprintf("conditions[%d] does not hold: stream %s %s; wanted was %s", f.Index, f.Stream, standing(*f.ActualVersion), wanted(*f.ExpectedVersion))
	}
	if n := len(failed) - 1; n > 0 {
		what += fmt.Sprintf("; %d more do not hold either, see failed", n)
	}
	return what
}

// meets reports whether a stream whose last version is last, -1 when it does not exist, is as expected.
func meets(expected, last int64) bool {
	switch expected {
	case api.ExpectAny:
		return true
	case api.ExpectExists:
		return last >= 0
	}
	return expected == last
}

func standing(last int64) string {
	if last < 0 {
		return "does not exist"
	}
	return fmt.Sprintf("is at version %d", last)
}

func wanted(expected int64) string {
	switch expected {
	case api.ExpectNoStream:
		return "no stream"
	case api.ExpectExists:
		return "an existing stream"
	}
	return fmt.Sprintf("version %d", expected)
}

// stands returns the stream's last version, -1 when it does not exist, and whether that is as expected.
func (a *applier) stands(stream string, expected int64) (last int64, ok bool, err error) {
	h, err := a.head(stream)
	if err != nil {
		return 0, false, err
	}
	s, err := a.streamState(stream)
	return s.last(h.count), s.meets(expected, h.count), err
}

func (a *applier) expectVersion(c *Append) (*api.Error, error) {
	if c.Expected == api.ExpectAny {
		return nil, nil
	}
	last, ok, err := a.stands(c.Stream, c.Expected)
	if ok || err != nil {
		return nil, err
	}
	e := api.ErrWrongVersion.With("stream %s %s; the append expected %s; read the stream again and decide anew", c.Stream, standing(last), wanted(c.Expected))
	e.ActualVersion = &last
	return e, nil
}
