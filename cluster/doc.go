// Package cluster knows who is here and who leads what.
//
// Formation happens once in a cluster's life: nodes that were told to expect one another, all with blank disks, agree on the list of the
// first members. The node with the lowest name coordinates, so that two nodes can never form two clusters of the same disks. After that a node
// knows its cluster from its own disk, and formation never runs again. Formation decides nothing about who may write: that is Raft's, per store.
//
// Directory keeps what nodes say of themselves in hellos: it resolves a member's id to its present address and tells who comes and goes.
//
// The package reaches its peers and publishes through interfaces that natsbus provides.
package cluster
