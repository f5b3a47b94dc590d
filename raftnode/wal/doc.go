// Package wal keeps the Raft logs and votes of every group on a node in one
// place, so that all groups share one fsync.
//
// A node opens one [Log] and takes a [Store] from it for each [GroupID]; a
// Store is what hashicorp/raft calls its LogStore and StableStore. Every write
// of every group goes to one writer at a time, which takes all that is waiting,
// makes it durable in one commit, and then answers all callers: while one
// commit is on its way to the disk, the next one gathers. Nobody waits for a
// timer, so a lone writer pays for exactly one commit.
//
// [OpenSegments] is what nodes use: an append-only segment log in front of a
// bbolt file, see DESIGN.md. [OpenBolt] is the bbolt file alone, the simple
// implementation that the other is held against. Package waltest holds the tests
// that any implementation must pass.
//
// # The invariant
//
// What was acknowledged is read back as it was written, or as an error, never
// as something else and never as silence, with one exception: after a crash,
// damage at the very end of the log looks like what the crash left (DESIGN.md,
// Damage). bbolt does not checksum its data
// pages, so everything we store is sealed with a CRC32C that covers the group
// and the key it belongs to, and a small header a group counts what must be
// there: a damaged value, a lost vote and a vanished entry are each an
// [ErrCorrupt]. Damage is not repaired and nothing is cut off: the caller sets
// the replica aside and copies it anew from its peers.
//
// A write or fsync that fails ends the log (see [Config.OnFatal]): after it
// nobody can say what the disk holds, so nothing is acknowledged any more.
//
// # Gaps
//
// A Store accepts gaps between indexes and does not call itself a
// raft.MonotonicLogStore. For a monotonic store, hashicorp/raft v1.8.0 deletes
// the whole log when a snapshot arrives, also the acknowledged entries after
// the snapshot's index; if an old InstallSnapshot arrives late, that loses
// them. For other stores it deletes up to the snapshot at most, and keeps its
// TrailingLogs: what is foreign to the snapshot package raftnode discards.
package wal
