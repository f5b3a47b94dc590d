// Package fsm is the replicated state machine of one event store: events in one total order, streams over them, and the ids of all events ever.
//
// Apply is a pure function of state and command: no clock, no network, no randomness. The leader puts time and ids into the command. What a command
// does, and what it answers, is the same on every replica and in every replay.
//
// The state is one bbolt file. Entries are applied to one open transaction, which is committed and synced every moment (Flush) and holds the index of the
// last entry too. An append is acknowledged before that: it is in the log of a majority. So after a crash the file is the state after some
// entry, and raft gives what follows again; entries at or below the applied index are skipped. Raft may cut its log only up to a Snapshot, which
// syncs first. NoSync is never used: a torn B+tree cannot be replayed away.
//
//	bucket   key                              value
//	meta     format, store, incarnation, …    numbers, 8 bytes big-endian; fixed keys, see meta.go
//	events   position (8)                     record with CRC32C, see record.go
//	streams  name                             number (8) · events (8)
//	names    number (8)                       name
//	index    number (8) · version (8)         position (8)
//	ids      first 16 bytes of SHA-256(id)    position (8)
//
// bbolt does not checksum its data pages: a flipped bit would be read as a wrong event without an error. So every record carries its own
// checksum, over its position too, and a mismatch is ErrDamaged, never an event.
//
// The invariant: positions are dense from 1, versions are dense from 0 in each stream, and an event id stands for one event for ever.
package fsm
