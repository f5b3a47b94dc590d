package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// GroupID names one Raft group for ever. Store is the number of the event
// store, never used again for another one; Incarnation counts how often the
// group of that store was started afresh.
type GroupID struct{ Store, Incarnation uint64 }

// String returns the id as "7-1": store, then incarnation.
func (id GroupID) String() string { return fmt.Sprintf("%d-%d", id.Store, id.Incarnation) }

// groupIDSize is the length of bytes().
const groupIDSize = 16

// bytes returns the id as 16 bytes, big-endian, so that ids sort by store.
func (id GroupID) bytes() []byte {
	b := make([]byte, 0, groupIDSize)
	b = binary.BigEndian.AppendUint64(b, id.Store)
	return binary.BigEndian.AppendUint64(b, id.Incarnation)
}

// groupIDFrom is the reverse of bytes; b must be groupIDSize long.
func groupIDFrom(b []byte) GroupID {
	return GroupID{Store: binary.BigEndian.Uint64(b), Incarnation: binary.BigEndian.Uint64(b[8:])}
}

// Log holds the log records and votes of all Raft groups of one node. All
// methods may be called concurrently.
type Log interface {
	// Open returns the store of one group, empty if the group was never
	// written. A group has one opener: [ErrOpen] while it is open. [ErrCorrupt]
	// if what the group must hold is not there.
	Open(id GroupID) (Store, error)

	// Remove forgets all log records and votes of a group; it is durable on
	// return. The group must be closed, else [ErrOpen]. Removing a group that
	// has nothing is not an error.
	Remove(id GroupID) error

	// Groups lists the groups that have any record, ordered by store and then
	// incarnation.
	Groups() ([]GroupID, error)

	// Stats returns counters since the log was opened.
	Stats() Stats

	// Writing returns for how long the write that is under way has been; 0: none
	// is. It does not wait for that write.
	Writing() time.Duration

	// Close finishes the writes already accepted, closes every store and ends
	// the writer. Calls after it fail with [ErrClosed]; a second Close does
	// nothing.
	Close() error
}

// Store is the log and the stable store of one group.
//
// StoreLogs, StoreLog, Set, SetUint64 and DeleteRange are durable on return.
// StoreLogs stores all of its entries or none; an entry whose index exists is
// replaced, and gaps are allowed. DeleteRange deletes the range in pieces, so
// that other groups get their turn in between; a crash in the middle leaves a
// log without a hole: the lower end goes first unless it is the log's tail that
// is cut off, then the upper end does.
//
// GetLog fills in copies that the caller owns. Empty Data and Extensions come
// back as nil, times as UTC to the nanosecond. An index that is not stored is
// raft.ErrLogNotFound. Get of a missing key is [ErrKeyNotFound], GetUint64 of
// one is 0.
type Store interface {
	raft.LogStore
	raft.StableStore

	// Begin appends entries, which must be dense and follow the last one, and
	// does not wait for the disk: on return they can be read and are not
	// durable. They become so in the order of the calls, before anything that is
	// written later, and all together. What was begun before is waited for, so
	// one call's entries at most are pending. An implementation may make them
	// durable at once.
	Begin(logs []*raft.Log) error

	// Pending returns the index of the first entry that is not durable; 0:
	// there is none. Entries below it are durable.
	Pending() uint64

	// AwaitDurable returns once all entries up to the index are durable, or
	// with ctx's error, or with why the log has failed.
	AwaitDurable(ctx context.Context, index uint64) error

	// Close waits for the calls under way and for what is pending, and lets the
	// group be opened again.
	Close() error
}

// Stats counts what a [Log] did since it was opened.
type Stats struct {
	Syncs    uint64 // commits made durable; each served one batch
	Batches  uint64 // batches written
	Requests uint64 // writes served: StoreLogs, Set, Remove, and each piece of a DeleteRange
	Entries  uint64 // log entries written
	Deleted  uint64 // log entries deleted
	Bytes    uint64 // bytes of records and stable values written, before the store's own overhead
	MaxBatch uint64 // most requests that shared one batch
}

var (
	// ErrClosed is returned by calls on a log or a store that was closed.
	ErrClosed = errors.New("raft log is closed")
	// ErrOpen is returned by Open and Remove of a group that is open.
	ErrOpen = errors.New("group is open")
	// ErrLocked is returned when another process has the log open.
	ErrLocked = errors.New("another process has the raft log open")
	// ErrWrongNode is returned when the log belongs to another disk id.
	ErrWrongNode = errors.New("raft log belongs to another node")
	// ErrTooLarge is returned for an entry or a stable value beyond the bounds; nothing was written.
	ErrTooLarge = errors.New("too large for the raft log")
	// ErrCorrupt is what every [CorruptError] is, for errors.Is.
	ErrCorrupt = errors.New("raft log is damaged")
	// ErrKeyNotFound is returned by Get for a missing key. hashicorp/raft
	// compares its text, which must stay exactly this.
	ErrKeyNotFound = errors.New("not found")
)

// CorruptError says what is damaged. It is never returned for something that
// was merely not written.
type CorruptError struct {
	Group  GroupID // zero if the damage is outside of any group
	Index  uint64  // of the log entry, 0 if it is not one
	Item   string  // what it is: "log entry 17", "stable value CurrentTerm"
	Want   uint32  // checksum stored with it
	Got    uint32  // checksum of what is there now
	Detail string  // instead of the checksums, when the damage is of another kind
}

// Error names the group, the item, and what was wanted and found.
func (e *CorruptError) Error() string {
	what := e.Detail
	if what == "" {
		what = fmt.Sprintf("wanted CRC %08x, found %08x", e.Want, e.Got)
	}
	if e.Group == (GroupID{}) {
		return fmt.Sprintf("%v: %s: %s", ErrCorrupt, e.Item, what)
	}
	return fmt.Sprintf("%v: group %s %s: %s", ErrCorrupt, e.Group, e.Item, what)
}

// Unwrap makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }
