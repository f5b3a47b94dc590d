package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/quorate/quorate/api"
)

// Stream describes one stream.
func (f *FSM) Stream(name string) (info api.StreamInfo, exists bool, err error) {
	err = f.viewStream(name, func(v *view, h head) error {
		s, err := v.streamState(name)
		if exists = s.there(h.count); exists && err == nil {
			info = streamInfo(name, &h, &s)
		}
		return err
	})
	return info, exists, err
}

// streamInfo counts the events that are not gone. Those that are too old count until the next expiry: to know them, each would have to be read.
func streamInfo(name string, h *head, s *streamState) api.StreamInfo {
	return api.StreamInfo{Name: name, Events: h.count - s.first, Version: int64(h.count) - 1}
}

// passStreams is how many streams that are deleted a page passes over at most.
const passStreams = 5000

// Streams lists streams that exist in name order: those that begin with prefix and lie behind after. end says that there are no more; else next is the name behind which to go on.
// A page may end early, also without streams, when it passed over many that are deleted.
func (f *FSM) Streams(prefix, after string, limit int) (page []api.StreamInfo, next string, end bool, err error) {
	err = f.viewStreams(prefix, after, func(v *view, o overlaid) error {
		if err := v.whole(); err != nil {
			return err
		}
		fresh := slices.Sorted(maps.Keys(o)) // streams that the overlays know; the list on disk has some of them too
		old, err := v.disk.list(max(prefix, after))
		if err != nil {
			return err
		}
		for passed := 0; ; {
			name, ok := old.peek()
			if !ok || !strings.HasPrefix(name, prefix) {
				ok = false
			} else if name == after && after != "" {
				if err := old.next(); err != nil {
					return err
				}
				continue
			}
			if len(fresh) > 0 && (!ok || fresh[0] <= name) {
				name, ok, fresh = fresh[0], true, fresh[1:]
			}
			if !ok {
				end = true
				return nil
			}
			if len(page) == limit || passed == passStreams {
				return nil
			}
			h, known := o[name]
			if !known {
				if h, err = v.disk.head(name); err != nil {
					return err
				}
				if h.count == 0 {
					return fmt.Errorf("%w: stream %q is listed and has no head", ErrDamaged, name)
				}
			}
			s, err := v.streamState(name)
			if err != nil {
				return err
			}
			if next = name; s.there(h.count) {
				page = append(page, streamInfo(name, &h, &s))
			} else {
				passed++
			}
			if at, ok := old.peek(); ok && at == name {
				if err := old.next(); err != nil {
					return err
				}
			}
		}
	})
	return page, next, end, err
}

// lister walks the streams on disk in name order, over all runs of the list.
type lister struct{ runs []*iterator }

func (d *disk) list(from string) (*lister, error) {
	l := &lister{}
	for _, r := range d.order[treeList] {
		it, err := d.iterate(r, []byte(from))
		if err != nil {
			return nil, err
		}
		l.runs = append(l.runs, it)
	}
	return l, nil
}

// peek returns the first name that was not taken.
func (l *lister) peek() (name string, ok bool) {
	if it := l.first(); it != nil {
		return string(it.key), true
	}
	return "", false
}

func (l *lister) next() error { return l.first().next() }

func (l *lister) first() (first *iterator) {
	for _, it := range l.runs {
		if it.ok && (first == nil || bytes.Compare(it.key, first.key) < 0) {
			first = it
		}
	}
	return first
}
