package main

import (
	"context"
	"fmt"
	"path/filepath"
)

// system is a cluster of three processes that is measured. Stores and writers have numbers; each writer of a store appends to a stream of its own.
type system interface {
	name() string
	// start runs three nodes with blank disks and returns when they answer.
	start(ctx context.Context) error
	// store makes the store with the number.
	store(ctx context.Context, n int) error
	// client connects to the node with the number.
	client(node int) (client, error)
	// noFill says why fill makes no sense for the system; nil: it does.
	noFill() error
	// fill appends so many events to a store, to many streams, as fast as the system takes them.
	fill(ctx context.Context, store, events int, payload []byte) error
	// readStream reads a writer's stream from its beginning and returns how many events there were.
	readStream(ctx context.Context, store, writer int) (int, error)
	// readAll reads a store after the event with the number, until its end or until there were limit events (0: no limit), and returns how many there were.
	readAll(ctx context.Context, store, after, limit int) (int, error)
	// leaderOfMost returns the node that leads most stores, and what share of them.
	leaderOfMost(ctx context.Context) (node int, share float64, err error)
	// restart runs a node that was killed.
	restart(node int) error
	// ready is nil once the node says that it is.
	ready(ctx context.Context, node int) error
	// caughtUp is nil once the node has everything that was acknowledged in the first so many stores.
	caughtUp(ctx context.Context, node, stores int) error
	// isLog says whether a file of a node belongs to the log; the others are the state.
	isLog(path string) bool
	nodes() *processes
	stop()
}

// client appends; one request is under way at a time, unless the row says otherwise.
type client interface {
	append(ctx context.Context, store, writer int, payload []byte) error
	close()
}

// leftOut is the error of what makes no sense for a system: the reason, which the tables tell. It is no failure.
type leftOut string

func (l leftOut) Error() string { return string(l) }

// The names; goals refer to them.
const (
	nameQuorate = "Quorate"
	nameOther   = "Quorate, other build"
	nameAlways  = "JetStream, sync always"
	nameDefault = "JetStream, default"
	nameEtcd    = "etcd"
)

// candidates are all systems there are; Quorate first, which the others are compared with.
func candidates(c config) []system {
	dir := func(name string) processes { return processes{dir: filepath.Join(c.dir, name)} }
	systems := []system{&quorate{processes: dir("quorate"), binary: c.quorate, title: nameQuorate}}
	if c.other != "" {
		systems = append(systems, &quorate{processes: dir("other"), binary: c.other, title: nameOther})
	}
	return append(systems,
		&jetStream{processes: dir("js-always"), binary: c.nats, title: nameAlways, always: true},
		&jetStream{processes: dir("js-default"), binary: c.nats, title: nameDefault},
		&etcd{processes: dir("etcd"), binary: c.etcd},
	)
}

// most returns the node that leads most, and its share.
func most(led []int) (node int, share float64, err error) {
	sum := 0
	for i, n := range led {
		sum += n
		if n > led[node] {
			node = i
		}
	}
	if sum == 0 {
		return 0, 0, fmt.Errorf("no node leads anything")
	}
	return node, float64(led[node]) / float64(sum), nil
}
