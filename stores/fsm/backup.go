package fsm

import (
	"fmt"

	"github.com/quorate/quorate/api"
)

// BackupPage is a page of events as a backup holds them, of one consistent state.
type BackupPage struct {
	Page         []byte // see api.DecodeBackupEvents; nil: there are none
	Events       int
	Next         uint64
	End          bool
	LastPosition uint64
	Applied      uint64
}

// BackupEvents returns the events behind after and up to upTo, as many as go into a page of maxBytes, one at least. Every record is held against its checksum.
func (f *FSM) BackupEvents(after, upTo uint64, maxBytes int) (page BackupPage, err error) {
	err = f.view(func(v *view) error {
		last := min(upTo, v.st.position)
		page = BackupPage{Next: max(after, last), End: true, LastPosition: v.st.position, Applied: v.st.applied}
		if after >= last {
			page.Next = after
			return nil
		}
		var b api.BackupEvents
		names := v.names()
		err := v.each(after+1, func(position uint64, value []byte) (bool, error) {
			if position > last {
				return false, nil
			}
			if b.Count() > 0 && b.Len()+len(value) > maxBytes {
				page.Next, page.End = position-1, false
				return false, nil
			}
			e, number, err := backupEvent(position, value)
			if err != nil {
				return false, err
			}
			e.Stream, err = names(&record{stream: number})
			if err == nil {
				b.Add(&e)
			}
			return true, err
		})
		page.Page, page.Events = b.Encode(), b.Count()
		return err
	})
	return page, err
}

// backupEvent takes a record apart without decoding the event. The body lies in value's memory.
func backupEvent(position uint64, value []byte) (e api.BackupEvent, stream uint64, err error) {
	if _, _, err := decodeChecked(position, value, true); err != nil {
		return e, 0, err
	}
	r := reader{rest: value[4:]}
	f := r.takeFront(position)
	e = api.BackupEvent{Position: position, Version: f.version, Time: r.varint(), Body: r.rest}
	return e, f.stream, r.err
}

// BackupKeys calls fn with every key that a backup holds, in order, and the unsealed value, both only valid in the call. It returns the position of the last event in
// the same state.
func (f *FSM) BackupKeys(fn func(key, value []byte) error) (position, applied uint64, err error) {
	err = f.view(func(v *view) error {
		if err := v.whole(); err != nil {
			return err
		}
		position, applied = v.st.position, v.st.applied
		return v.scan("", "", func(key string, sealed []byte) (bool, error) {
			if key[0] == keyRestore {
				return true, nil
			}
			value, err := unseal([]byte(key), sealed)
			if err != nil {
				return false, fmt.Errorf("back up the key %q: %w", key, err)
			}
			return true, fn([]byte(key), value)
		})
	})
	return position, applied, err
}
