// Package quorate is the front page of an event-store cluster that speaks NATS.
//
// It holds no code. Read README.md to run it, subjects.md for the contract, ARCHITECTURE.md for the life of one append; then open the folder whose
// name comes next:
//
//	api          the shared vocabulary: events, requests, replies, errors, subjects
//	natsbus      NATS in, NATS out: embedded server, the leader's subscription, requests and replies
//	stores       the event stores of one node
//	stores/fsm   the replicated state machine
//	raftnode     the multi-Raft engine, its log (wal) and its transport
//	configsvc    which stores exist
//	cluster      who is here, who leads what
//	client       the Go client
//	dashboard    page, health, metrics
//	cmd/quorate  the one binary
//
// imports_test.go keeps the arrows between them.
package quorate
