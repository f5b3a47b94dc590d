// Package fsm is the replicated state machine of one event store: events in one total order, streams over them, and the ids of all events ever.
//
// Apply is a pure function of state and command: no clock, no network, no randomness. The leader puts time and ids into the command. What a command
// does, and what it answers, is the same on every replica and in every replay, whatever was flushed when.
//
// Entries are applied to an overlay in memory; every moment a flush freezes it and writes it into one bbolt file, with the index of the last entry in the
// same synced transaction. Reads merge the active overlay, the frozen one and a read transaction, and never wait for a flush; applying waits only when the
// overlays are full (Pressure), and what needs the file of a machine that rests may wait for a place (Shared). An append is acknowledged before it is flushed: it is in the log of a majority. So after a crash the file is the state
// after some entry, and raft gives what follows again; entries at or below the applied index are skipped. Raft may cut its log only up to a Snapshot, which
// flushes first. NoSync is never used: a torn B+tree cannot be replayed away.
//
//	bucket   key                   value
//	meta     format, store, …      numbers, 8 bytes big-endian; state and catalog of runs with CRC32C, see meta.go, catalog.go
//	events   position (8)          record with CRC32C, see record.go; it points to earlier events of its stream, see chain.go
//	names    number (8)            name · CRC32C
//	runs     run (8) · fence       block of sorted entries with CRC32C, see block.go: event ids, streams' heads, streams by name, types and tags
//	keys     key                   value · CRC32C, see keys.go
//	swept    stream                how far its events were scavenged, see scavenge.go
//	filters  run (8) · chunk (8)   lines of a Bloom filter with CRC32C each, see filter.go
//
// Every key but those of meta is appended behind the others of its kind, so a flush writes as many pages as it has bytes for, however big the store is.
// This is format 5. A file of another format is refused with ErrFormat; there is no migration.
//
// bbolt does not checksum its data pages: a flipped bit would be read as a wrong event without an error. So everything whose damage could be
// taken for an answer carries its own checksum, over its key too, and a mismatch is ErrDamaged. DESIGN.md says why it is built like this.
//
// The invariant: positions are dense from 1, versions are dense from 0 in each stream, and an event id stands for one event for ever.
package fsm
