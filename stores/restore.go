package stores

import (
	"strings"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores/fsm"
)

// Restore carries out a step of a restore; see Begin for what it returns and when done is called. The result is an *api.RestoreResponse.
func (s *Store) Restore(r api.RestoreRequest, done Done) *api.Error {
	if err := api.CheckStoreName(r.Restore); err != nil {
		return api.ErrBadRequest.With("restore %q names no restore; it needs 1 to %d of A-Z a-z 0-9 _ -, the same in all steps", r.Restore, api.MaxStoreName)
	}
	c := &fsm.RestoreChange{Restore: r.Restore, Page: r.Page, Events: r.Events, Keys: r.Keys, EventsDigest: r.EventsDigest, KeysDigest: r.KeysDigest}
	switch r.Step {
	case api.RestoreBegin:
		c.Op = fsm.RestoreBegin
	case api.RestoreEvents:
		c.Op = fsm.RestoreEvents
	case api.RestoreKeys:
		c.Op = fsm.RestoreKeys
	case api.RestoreEnd:
		c.Op = fsm.RestoreEnd
	default:
		return api.ErrBadRequest.With("step %q is not known; there are %s", r.Step, strings.Join([]string{api.RestoreBegin, api.RestoreEvents, api.RestoreKeys, api.RestoreEnd}, ", "))
	}
	if err := c.Check(); err != nil {
		return err
	}
	return s.change(c, func(value any) any {
		v := value.(fsm.RestoreResult)
		if v.Done {
			s.subscriptions.restored()
		}
		return &api.RestoreResponse{Reply: api.Reply{Type: api.TypeRestore}, Store: s.Name(), Position: v.Position, Keys: v.Keys, Done: v.Done}
	}, done)
}
