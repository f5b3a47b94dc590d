package natsbus

import (
	"fmt"
	"strings"

	"github.com/quorate/quorate/api"
)

// nearPrefix begins the subjects of reads that a node's own clients asked: _QUORATE_READ.<node>.<the subject they used>.
//
// NATS hands a request to any member of a queue group in the cluster, with no preference for the near one. A read with "consistency":"local" is
// about the state of the node that the client chose, and every other read saves a hop when it is answered there too. So each server maps the
// read subjects that its own clients publish to itself, for as long as its node serves; without the mapping, and for clients of leaf nodes and gateways,
// the queue group answers. Whoever listens to everything sees them under these subjects.
const nearPrefix = "_QUORATE_READ."

// serveNear begins to answer the reads of this server's clients at this node.
func (b *Bus) serveNear() error {
	from := b.subjects.Of("*", api.ClassRead, ">")
	to := nearPrefix + b.name + "." + b.subjects.Of("{{wildcard(1)}}", api.ClassRead, ">")
	if err := b.embedded.clients.AddMapping(from, to); err != nil {
		return fmt.Errorf("map reads to node %s: %w", b.name, err)
	}
	return nil
}

// stopNear leaves the reads of this server's clients to the queue group, which other nodes are members of.
func (b *Bus) stopNear() {
	b.embedded.clients.RemoveMapping(b.subjects.Of("*", api.ClassRead, ">"))
}

// nearSubject returns the subject that the client used.
func nearSubject(subject string) string {
	if rest, ok := strings.CutPrefix(subject, nearPrefix); ok {
		if _, asked, ok := strings.Cut(rest, "."); ok {
			return asked
		}
	}
	return subject
}
