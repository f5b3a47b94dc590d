// Package client is the Go client of a Quorate cluster. It is a thin layer over a NATS connection: everything it does can be done with plain NATS requests, as
// subjects.md describes them.
//
//	nc, _ := nats.Connect("nats://127.0.0.1:4222")
//	orders := client.New(nc).Store("orders")
//	res, err := orders.Append(ctx, "order-42", []api.NewEvent{{Type: "OrderPlaced", Data: []byte(`{"total":12}`)}}, client.NoStream)
//	for event, err := range orders.ReadStream(ctx, "order-42", client.ReadOptions{}) { … }
//
// The invariant: an append carries its event ids from the first try on, so trying it again after a time-out or a change of leader cannot write it twice.
package client
