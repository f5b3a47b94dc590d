// Package raftnode is a multi-Raft engine: many independent hashicorp/raft groups on one machine, behind one log and one listener.
//
// A Node owns what groups share: the identity of this disk, the log (raftnode/wal), the transport (raftnode/transport). A Group is one
// Raft group; it replicates one Machine. A group's Leadership is a value that changes in a strict order, and its owner is told of every
// change: follower → elected → serving → follower.
//
// The invariant: a group says that it serves only after an entry of its own term has been applied here. Before that, entries of earlier
// leaders that are already acknowledged may be missing from the state, and a read or a condition checked against it could be wrong
// (Raft, Ongaro 2014, §6.4).
//
// Nothing here knows of events, stores or NATS; the package can be lifted into other projects.
package raftnode
