// Package stores holds the event stores of one node.
//
// A Store is one event store's replica: a Raft group (raftnode.Group) over a state machine (stores/fsm), with appends, reads and a feed of committed events.
// Durable subscriptions are handed out by the leader; see DESIGN.md. The Manager opens, closes and sets aside the stores that the configuration names.
//
// The invariant: appends are accepted only while this replica serves its group, and reads that ask for it see every append acknowledged before
// they began, whichever node they arrive at.
package stores
