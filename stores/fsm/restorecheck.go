package fsm

import (
	"encoding/json"
	"time"

	"github.com/quorate/quorate/api"
)

// maxSubscriptionID is beyond what a store can have come to.
const maxSubscriptionID = 1 << 62

// Check refuses a page of a backup that was made up in a way that apply lets pass: with keys that end every replica when somebody needs them, or with what makes pages that cannot be read.
// The leader asks before it proposes the step. It is not in apply, where older members of a cluster would go on with what newer ones refuse; and it looks at nothing but the page, so nothing
// can change until the step is applied. What is not a page at all is left to apply.
func (c *RestoreChange) Check() *api.Error {
	switch c.Op {
	case RestoreEvents:
		page, err := api.DecodeBackupEvents(c.Page)
		if err != nil {
			return nil
		}
		for i := range page {
			if !writable(page[i].Time) {
				return api.ErrRestoreRefused.With("event %d has a time that no clock of a cluster shows: %d µs from 1970 on; this is no backup of one store", page[i].Position, page[i].Time)
			}
		}
	case RestoreKeys:
		_, page, err := api.DecodeBackupKeys(c.Page)
		if err != nil {
			return nil
		}
		for i := range page {
			if !sound(string(page[i].Key), page[i].Value) {
				return unreadable(page[i].Key)
			}
		}
	}
	return nil
}

// writable reports whether JSON can say the time.
func writable(micro int64) bool {
	year := time.UnixMicro(micro).UTC().Year()
	return year >= 0 && year <= 9999
}

// sound reports whether key and value are what a store may have, as far as they show it. It does not look at what apply looks at.
func sound(key string, value []byte) bool {
	r := reader{rest: value}
	switch name := key[min(1, len(key)):]; {
	case key == "":
	case key == subscriptionKey(""):
		return r.uvarint() < maxSubscriptionID && r.end() == nil
	case key[0] == keySubscription:
		return r.uvarint() < maxSubscriptionID && writable(r.varint()) && r.err == nil && api.CheckSubscriptionName(name) == nil
	case key[0] == keyProgress:
		return api.CheckSubscriptionName(name) == nil
	case key[0] == keyParked:
		if n := len(name) - 9; n < 0 || name[n] != 0 || api.CheckSubscriptionName(name[:n]) != nil {
			return false
		}
		p, err := decodeParked(key, value)
		return err == nil && p.N >= 0 && p.N <= 1<<30 && writable(p.Time.UnixMicro())
	case key[0] == keySnapshot:
		n := len(name) - 9
		if n < 0 || name[n] != 0 || api.CheckStreamName(name[:n]) != nil {
			return false
		}
		at := r.varint()
		var c SnapshotChange
		c.takeBody(&r)
		return r.end() == nil && writable(at) && (!c.JSON || json.Valid(c.Data)) && (len(c.Metadata) == 0 || json.Valid(c.Metadata))
	case key[0] == keyStream:
		s, err := decodeStream(value)
		return err == nil && api.CheckStreamName(name) == nil && (len(s.custom) == 0 || json.Valid(s.custom))
	}
	return true
}
