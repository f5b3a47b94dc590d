// Package transport carries what the nodes of a cluster have to say to each other about Raft: thousands of groups over two connections a peer.
//
// A Transport listens, and dials its own connections to each peer when somebody has a question: one for what is small and in a hurry (heartbeats,
// votes, Call, Send), one for log entries, and one for each snapshot. Answers come back on the connection of the question. Each begins with a handshake
// that names protocol version, cluster, both servers and what the connection is for; nothing is interpreted before it, and a connection meant for another
// cluster or for a disk that this one no longer is gets a reason and no more. hashicorp/raft alone believes whoever connects.
//
// A Group is raft's transport for one group. What many groups send at once shares one write; what one sends never waits long for another: each has
// its own bounded queue on the way out, in which long messages go in pieces, and its own bounded queues on the way in. What finds a queue full is answered with an
// error, and raft tries again. A connection's reader waits for nobody.
//
// The invariants: a group's messages come from a server that knows the cluster's id and meant this very disk, and come whole or not at all. A peer or a group
// that hangs costs those who ask it their time-out, and nobody else anything.
//
// DESIGN.md has the reasons; frame.go, messages.go and handshake.go the formats.
package transport
