// Package client is the Go client of a Quorate cluster. It is a thin layer over a NATS connection: everything it does can be done with plain NATS requests, as
// subjects.md describes them.
//
//	nc, _ := nats.Connect("nats://127.0.0.1:4222", nats.MaxReconnects(-1))
//	orders := client.New(nc).Store("orders")
//	res, err := orders.Append(ctx, "order-42", []api.NewEvent{client.Event("OrderPlaced", order)}, client.NoStream)
//	for event, err := range orders.ReadStream(ctx, "order-42", client.ReadOptions{}) { … }
//
// A [Client] administers stores; a [Store] appends, reads, follows, and keeps snapshots; a [Subscription] is consumed by many, and remembers for them. Two helpers stand on
// that: [Aggregates] for states that are made of one stream, and [Decide] for decisions that depend on events in any stream.
//
// Every call goes on trying until it is answered for good or its context is done: through changes of leader, nodes that die, and reconnects of the connection. So give it a
// context that ends. Errors of the cluster are *api.Error and matched with errors.Is, as api.ErrWrongVersion; ErrOutcomeUnknown is the one that is no answer. Names are checked before
// anything is sent (api.ErrBadName).
//
// The invariant: an append carries its event ids from the first try on, so trying it again after a time-out or a change of leader cannot write it twice.
//
// The package imports nats.go and package api, and nothing of the server.
package client
