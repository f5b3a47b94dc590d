package fsm

import (
	"fmt"

	"github.com/quorate/quorate/api"
)

// Kinds of commands that are not appends. Each began with a version of the program; see Kinds.
const (
	kindSnapshot     = 3 // aggregate.go
	kindStream       = 4 // stream.go
	kindSubscription = 5 // subscription.go
	kindRestore      = 6 // restore.go
)

// Feature names what a kind of command is for, in words that go into an error.
func Feature(kind int) string {
	switch kind {
	case kindSnapshot:
		return "snapshots of aggregates"
	case kindStream:
		return "deleting, truncating and metadata of streams"
	case kindRestore:
		return "restoring a backup"
	case kindSubscription:
		return "durable subscriptions"
	}
	return "appends over several streams or with conditions"
}

// Change is a command that is not an append: it changes what a store knows beside its events. It is checked when it is applied, as appends are, and what it answers is
// the same on every replica.
type Change interface {
	Kind() int
	// encode appends the body of the command.
	encode(b []byte) []byte
	// apply carries the change out. A refusal changes nothing and is the same on every replica; an error is a failed disk. What value holds must not lie in the entry's
	// memory.
	apply(a *applier) (value any, refused *api.Error, err error)
}

// decodeChange reads the body of a command of the kind. What it returns may share the reader's memory.
func decodeChange(kind byte, r *reader) (Change, error) {
	switch kind {
	case kindSnapshot:
		return decodeSnapshotChange(r), nil
	case kindStream:
		return decodeStreamChange(r), nil
	case kindRestore:
		return decodeRestoreChange(r), nil
	case kindSubscription:
		return decodeSubscriptionChange(r), nil
	}
	return nil, fmt.Errorf("%w: command kind %d", errUnknownFormat, kind)
}

// ChangeBody encodes a change.
func ChangeBody(c Change) Body { return Body{Kind: c.Kind(), Data: c.encode(nil)} }

func (d *decoder) change(kind byte, body []byte) error {
	r := reader{rest: body, share: d.share}
	c, err := decodeChange(kind, &r)
	if err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	d.changes = append(d.changes, c)
	return nil
}

func (a *applier) change(c Change) (AppendResult, error) {
	if c.Kind() != kindRestore {
		if refused, err := a.refuseRestoring(); refused != nil || err != nil {
			return AppendResult{Err: refused}, err
		}
	}
	value, refused, err := c.apply(a)
	return AppendResult{Value: value, Err: refused}, err
}
