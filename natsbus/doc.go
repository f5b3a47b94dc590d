// Package natsbus is NATS in and NATS out: the embedded server, the subjects a node answers, and what it publishes.
//
// A write reaches a store's leader because only the leader subscribes to the store's write subjects. A post (post.go) is that subscription: the leader holds it, and
// while nobody is known to lead, every node stands in: it keeps a request for a moment and forwards it to the leader that comes. All posts
// of a store are one queue group, so a request is handed to exactly one of them, also while leadership moves.
//
//	client ──es.orders.write.append.x──► post.go ── serving ──► write.go ──► stores.Store ──► reply
//	                                         └── not serving ──► forward.go ──► the leader's post, once
//	client ──es.orders.read.…──────────► read.go on any node
//	client ──es.nosuch.write.…─────────► unclaimed.go on any node: 404, or 503 while no post is in reach
//
// Nodes speak with each other in an account of their own that no client can enter (peers.go).
//
// The invariant: every request that arrives is answered once, by the node that decided it, and only to an inbox.
package natsbus
