package fsm

import (
	"bytes"
	"fmt"
	"hash"
	"strings"

	"github.com/tidwall/btree"
	bolt "go.etcd.io/bbolt"
)

// Keys are what a store knows beside its events: an ordered map of names to values, replicated like everything else. Each kind of thing has a first byte of its own:
//
//	n stream 00 ^version (8)   a snapshot of an aggregate; ^version, so that the newest comes first (aggregate.go)
//	s stream                        what there is of a stream beside its events (stream.go)
//	z                          how far the restore of a backup is (restore.go)
//	u, w and p                 durable subscriptions (subscription.go)
//
// A key is at most maxKey bytes. Values are sealed with a checksum when they are put, and stay sealed in memory and on disk. In an overlay a nil value says
// that the key is gone. There are few keys beside the number of events, so bbolt's own tree keeps them, and an overlay a B-tree that is copied on write: a reader's
// copy costs nothing and never changes.
type keyMap = btree.Map[string, []byte]

var bucketKeys = []byte("keys")

// maxKey is what bbolt can keep, less than that by far; no name that is checked on arrival comes near.
const maxKey = 4096

// keyCost is what a key takes in an overlay beside its bytes.
const keyCost = 120

// put stores a key, or says that it is gone when sealed is nil. Both are kept.
func (o *overlay) put(key string, sealed []byte) {
	if o.keys == nil {
		o.keys = new(keyMap)
	}
	o.keys.Set(key, sealed)
	o.touched = true
	o.unsynced += uint64(len(key)+len(sealed)) + keyCost
}

// showKeys publishes what the batch did to keys. The FSM's mu is held.
func (o *overlay) showKeys() {
	if o.touched {
		o.shownKeys, o.touched = o.keys.Copy(), false
	}
}

func (o *overlay) undoKeys() {
	if o.touched {
		o.keys, o.touched = nil, false
		if o.shownKeys != nil {
			o.keys = o.shownKeys.Copy()
		}
	}
}

// writeKeys puts the overlay's keys into the transaction.
func (o *overlay) writeKeys(tx *bolt.Tx) (err error) {
	if o.keys == nil {
		return nil
	}
	b := tx.Bucket(bucketKeys)
	o.keys.Scan(func(key string, sealed []byte) bool {
		if sealed == nil {
			err = b.Delete([]byte(key))
		} else {
			err = b.Put([]byte(key), sealed)
		}
		return err == nil
	})
	return err
}

// key returns the value under the key; nil: there is none. It may lie in the view's memory.
func (v *view) key(key string) ([]byte, error) {
	sealed := v.sealed(key)
	if sealed == nil {
		return nil, nil
	}
	return unseal([]byte(key), sealed)
}

func (v *view) sealed(key string) []byte {
	for _, m := range []*keyMap{v.upperKeys, v.lowerKeys} {
		if m != nil {
			if sealed, ok := m.Get(key); ok {
				return sealed
			}
		}
	}
	return v.disk.keys.Get([]byte(key))
}

// scan calls fn for the keys that begin with prefix and are not below from, in order, until it returns false. The value is sealed; see unseal. It lies in the
// view's memory.
func (v *view) scan(prefix, from string, fn func(key string, sealed []byte) (more bool, err error)) error {
	from = max(prefix, from)
	upper, lower := seekKeys(v.upperKeys, from), seekKeys(v.lowerKeys, from)
	cursor := v.disk.keys.Cursor()
	k, value := cursor.Seek([]byte(from))
	for {
		key, sealed, layer := "", []byte(nil), 0
		if k != nil {
			key, sealed, layer = string(k), value, 1
		}
		for _, l := range []*layerKeys{lower, upper} { // an upper layer hides what is below it
			if l.ok && (layer == 0 || l.it.Key() <= key) {
				key, sealed, layer = l.it.Key(), l.it.Value(), 2
			}
		}
		if layer == 0 || !strings.HasPrefix(key, prefix) {
			return nil
		}
		for _, l := range []*layerKeys{lower, upper} {
			if l.ok && l.it.Key() == key {
				l.ok = l.it.Next()
			}
		}
		if k != nil && string(k) == key {
			k, value = cursor.Next()
		}
		if sealed == nil {
			continue
		}
		if more, err := fn(key, sealed); err != nil || !more {
			return err
		}
	}
}

// layerKeys walks the keys of one overlay.
type layerKeys struct {
	it btree.MapIter[string, []byte]
	ok bool
}

func seekKeys(m *keyMap, from string) *layerKeys {
	l := &layerKeys{}
	if m != nil {
		l.it = m.Iter()
		l.ok = l.it.Seek(from)
	}
	return l
}

// key returns what the batch sees under the key; nil: nothing. It may lie in bbolt's memory, until the end of the command.
func (a *applier) key(key string) ([]byte, error) {
	v, err := a.view(true)
	if err != nil {
		return nil, err
	}
	return v.key(key)
}

// scanKeys is view.scan on what the batch sees. fn must not change keys.
func (a *applier) scanKeys(prefix, from string, fn func(key string, sealed []byte) (more bool, err error)) error {
	v, err := a.view(true)
	if err != nil {
		return err
	}
	return v.scan(prefix, from, fn)
}

// putKey sets the key. Both are copied: they may lie in the entry's memory. The value is written once, so its encoder may leave room for the checksum.
func (a *applier) putKey(key string, value []byte) error {
	if len(key) > maxKey {
		return fmt.Errorf("the key %.40q… has %d bytes; %d are possible", key, len(key), maxKey)
	}
	v, err := a.view(true)
	if err != nil {
		return err
	}
	a.cut = a.cut || key[0] == keyStream
	if v.sealed(key) == nil {
		a.st.keys++
		if key[0] == keyStream {
			a.st.trimmed++
		}
	}
	key = strings.Clone(key)
	sealed := make([]byte, 0, len(value)+4)
	a.o.put(key, seal([]byte(key), append(sealed, value...)))
	return nil
}

// dropKey takes the key away and reports whether it was there.
func (a *applier) dropKey(key string) (was bool, err error) {
	v, err := a.view(true)
	if err != nil || v.sealed(key) == nil {
		return false, err
	}
	a.st.keys--
	if key[0] == keyStream {
		a.st.trimmed--
	}
	a.o.put(strings.Clone(key), nil)
	return true, nil
}

// hashKeys adds every key and value to the digest.
func (v *view) hashKeys(h hash.Hash) error {
	return v.scan("", "", func(key string, sealed []byte) (bool, error) {
		write(h, []byte(key))
		write(h, sealed)
		return true, nil
	})
}

// verifyKeys checks every checksum, and that there are as many keys as the state says.
func (d *disk) verifyKeys() error {
	n, err := uint64(0), error(nil)
	cursor := d.keys.Cursor()
	var last []byte
	for k, sealed := cursor.First(); k != nil && err == nil; k, sealed = cursor.Next() {
		if n++; last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("%w: keys: %q stands behind %q", ErrDamaged, k, last)
		}
		last = bytes.Clone(k)
		_, err = unseal(k, sealed)
	}
	if err == nil && n != d.st.keys {
		err = fmt.Errorf("%w: keys: there are %d, the state says %d", ErrDamaged, n, d.st.keys)
	}
	return err
}
