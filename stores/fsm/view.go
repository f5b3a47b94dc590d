package fsm

import (
	"fmt"
	"strings"
)

// view is the state after one entry: two layers in memory over a read transaction. The transaction may hold what the lower layer holds, when a flush
// commits just then, but never what is above: all three are taken under mu, and a layer is dropped under mu after the commit that wrote it. Where they
// overlap they agree, and everything is looked up by position, number or name, the upper layer first; so nothing is missed, and nothing seen twice.
type view struct {
	st    state
	upper layer
	lower layer
	disk  *disk

	upperTerms, lowerTerms *terms // nil: there is no such overlay
	upperKeys, lowerKeys   *keyMap
}

// diskEnd returns the position up to which events are looked up on disk, and lowerEnd the one up to which they are in the lower overlay; behind that are the
// events of the upper one.
func (v *view) diskEnd() uint64 {
	if v.lowerTerms != nil {
		return v.lower.base.position
	}
	return v.lowerEnd()
}

func (v *view) lowerEnd() uint64 {
	if v.upperTerms != nil {
		return v.upper.base.position
	}
	return v.st.position
}

// record returns the record of the event at the position, which must not be above st.position.
func (v *view) record(position uint64) ([]byte, error) {
	if rec := v.upper.record(position); rec != nil {
		return rec, nil
	}
	if rec := v.lower.record(position); rec != nil {
		return rec, nil
	}
	return v.disk.record(position)
}

func (v *view) front(position uint64) (front, error) {
	rec, err := v.record(position)
	if err != nil {
		return front{}, err
	}
	return decodeFront(position, rec)
}

// name returns the name of a stream number.
func (v *view) name(number uint64) (string, error) {
	if name, ok := v.upper.name(number); ok {
		return name, nil
	}
	if name, ok := v.lower.name(number); ok {
		return name, nil
	}
	return v.disk.name(number)
}

// overlaid is what the overlays know of streams at one moment.
type overlaid map[string]head

func (o overlaid) add(name string, of ...*overlay) {
	for _, l := range of {
		if l != nil && l.heads[name] != nil {
			o[name] = l.heads[name].clone()
			return
		}
	}
}

// view runs fn on one consistent state: all that is applied. heads is what the overlays hold of the stream with the name, or of those that begin with it
// and lie behind after.
func (f *FSM) view(fn func(v *view) error) error {
	return f.viewWith(nil, func(v *view, _ overlaid) error { return fn(v) })
}

// viewStream runs fn on one consistent state and the stream's head in it; its count is 0 when the stream does not exist.
func (f *FSM) viewStream(name string, fn func(v *view, h head) error) error {
	return f.viewWith(func(o overlaid) { o.add(name, f.active, f.frozen) }, func(v *view, o overlaid) error {
		h, ok := o[name]
		if !ok {
			var err error
			if h, err = v.disk.head(name); err != nil {
				return err
			}
		}
		return fn(v, h)
	})
}

// viewStreams runs fn on one consistent state and what the overlays hold in it of streams that begin with prefix and lie behind after.
func (f *FSM) viewStreams(prefix, after string, fn func(v *view, o overlaid) error) error {
	return f.viewWith(func(o overlaid) {
		for _, l := range []*overlay{f.active, f.frozen} {
			if l == nil {
				continue
			}
			for name := range l.heads {
				if _, known := o[name]; !known && strings.HasPrefix(name, prefix) && (after == "" || name > after) {
					o.add(name, l)
				}
			}
		}
	}, fn)
}

// viewWith takes a consistent state; grab is called with mu held, to copy what fn needs of the overlays' heads.
func (f *FSM) viewWith(grab func(overlaid), fn func(*view, overlaid) error) error {
	leave, err := f.enter()
	if err != nil {
		return err
	}
	defer leave()
	return f.viewOpen(grab, fn)
}

// viewOpen is viewWith of a file that is open and held.
func (f *FSM) viewOpen(grab func(overlaid), fn func(*view, overlaid) error) error {
	var v view
	o := make(overlaid)
	f.mu.RLock()
	v.st = f.state
	if f.active != nil {
		v.upper, v.upperTerms, v.upperKeys = f.active.shown, &f.active.terms, f.active.shownKeys
	}
	if f.frozen != nil {
		v.lower, v.lowerTerms, v.lowerKeys = f.frozen.shown, &f.frozen.terms, f.frozen.shownKeys
	}
	if grab != nil {
		grab(o)
	}
	tx, err := f.db.Begin(false)
	f.mu.RUnlock()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return guard(func() error {
		var err error
		if v.disk, err = openDisk(tx); err != nil {
			return err
		}
		if f.hookView != nil {
			f.hookView()
		}
		return fn(&v, o)
	})
}

// guard turns a panic, which is what bbolt makes of a page that it cannot read, into ErrPanic: one store's damage must not end the node.
func guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrPanic, r)
		}
	}()
	return fn()
}
