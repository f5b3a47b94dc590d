// Package transport carries what the nodes of a cluster have to say to each other about Raft: all groups over one listener a node.
//
// Every connection begins with a handshake that names protocol version, cluster, both servers and what the connection is for. Nothing is interpreted before it, and
// a connection meant for another cluster, for a disk that this one no longer is, or for a group that is not open here is refused with a reason. hashicorp/raft
// alone believes whoever connects.
//
// A group gets hashicorp/raft's own network transport over connections of its own. Call is for small questions between nodes: one connection a
// peer, many calls at once on it. A transport that multiplexes all groups takes this one's place behind the same methods.
//
// The invariant: a group's messages come from a server that knows the cluster's id and meant this very disk.
package transport
