// Package api is the vocabulary that the server, the Go client and the command line share: events, requests, replies,
// the error table and the grammar of subjects. It imports the standard library only, so that a client that
// uses it pulls in nothing of the server.
//
// The package's one invariant: what is written here is the contract. A JSON name, an error code or a subject that appears here is tested
// from outside and is never given another meaning.
package api

// ServiceName is the NATS micro service every node runs one instance of.
const ServiceName = "quorate"

// Version is the release this source belongs to, as semantic versioning writes it.
const Version = "0.1.0"
