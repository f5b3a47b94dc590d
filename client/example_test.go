package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// connect is what a program does once: serverURL is nats://127.0.0.1:4222 after make run.
func connect() (*client.Client, func()) {
	nc, err := nats.Connect(serverURL, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	return client.New(nc), nc.Close
}

// Create a store, append to a stream, meet a conflict, read.
func Example() {
	nc, err := nats.Connect(serverURL, nats.MaxReconnects(-1)) // nats://127.0.0.1:4222 after make run
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	cl := client.New(nc)
	if _, err := cl.CreateStore(ctx, "tea_shop", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	shop := cl.Store("tea_shop")

	placed := client.Event("OrderPlaced", map[string]any{"total": 12}, "customer:7")
	res, err := shop.Append(ctx, "order-42", []api.NewEvent{placed}, client.NoStream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is at version %d\n", res.Stream, res.Version)

	_, err = shop.Append(ctx, "order-42", []api.NewEvent{client.Event("OrderPlaced", nil)}, client.NoStream)
	fmt.Println("refused:", errors.Is(err, api.ErrWrongVersion))

	for e, err := range shop.ReadStream(ctx, "order-42", client.ReadOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Version, e.Type, string(e.Data))
	}
	// Output:
	// order-42 is at version 0
	// refused: true
	// 0 OrderPlaced {"total":12}
}

// Move money: two streams, all or none, if the one that is charged is where it was read.
func ExampleStore_AppendSeveral() {
	cl, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "bank", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	out, in := client.Event("Withdrawn", 5), client.Event("Deposited", 5)
	out.Stream, in.Stream = "account-1", "account-2"
	res, err := cl.Store("bank").AppendSeveral(ctx, []api.NewEvent{out, in}, client.StreamAt("account-1", client.NoStream))
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range res.Results {
		fmt.Printf("%s is at version %d\n", r.Stream, r.Version)
	}
	// Output:
	// account-1 is at version 0
	// account-2 is at version 0
}

// Read what there is and go on with what comes: no gap and no double between them, also when leaders change and connections are lost. A projection keeps the position of the last event
// it has worked in, together with its own state, and begins there the next time.
func ExampleStore_ReadAll() {
	cl, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "projected", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	st := cl.Store("projected")
	if _, err := st.Append(ctx, "counter", []api.NewEvent{client.Event("Added", 1), client.Event("Added", 2)}, client.Any); err != nil {
		log.Fatal(err)
	}
	sum, position := 0, uint64(0)
	for e, err := range st.ReadAll(ctx, client.ReadOptions{From: position, Follow: true}) {
		if err != nil {
			log.Fatal(err)
		}
		n, err := client.Data[int](e)
		if err != nil {
			log.Fatal(err)
		}
		sum, position = sum+n, e.Position
		fmt.Println(position, sum)
		if position == 2 { // while it follows, something comes
			if _, err := st.Append(ctx, "counter", []api.NewEvent{client.Event("Added", 3)}, client.Any); err != nil {
				log.Fatal(err)
			}
		}
		if position == 3 {
			break
		}
	}
	// Output:
	// 1 1
	// 2 3
	// 3 6
}

// Take a user name, if nobody has it: there is no stream that all names are in, and no lock.
func ExampleDecide() {
	cl, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "users", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	errTaken := errors.New("the name is taken")
	register := func(user, name string) error {
		_, _, err := client.Decide(ctx, cl.Store("users"), client.Decision[bool]{
			Query:  client.Select(api.QueryItem{Types: []string{"UserRegistered"}, Tags: []string{"name:" + name}}),
			Evolve: func(bool, api.Event) (bool, error) { return true, nil },
			Decide: func(taken bool) ([]api.NewEvent, error) {
				if taken {
					return nil, errTaken
				}
				return []api.NewEvent{client.Event("UserRegistered", nil, "name:"+name)}, nil
			},
			Stream: "user-" + user,
		})
		return err
	}
	fmt.Println(register("1", "ada"))
	fmt.Println(register("2", "ada"))
	// Output:
	// <nil>
	// the name is taken
}

// An account is loaded, decided on and saved; a snapshot is kept every hundred events.
func ExampleAggregates() {
	cl, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "accounts", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	type Account struct {
		Balance int `json:"balance"`
	}
	accounts := &client.Aggregates[Account]{
		Store:         cl.Store("accounts"),
		SnapshotEvery: 100,
		SnapshotType:  "Account/1",
		Evolve: func(a Account, e api.Event) (Account, error) {
			amount, err := client.Data[int](e)
			if e.Type == "Withdrawn" {
				amount = -amount
			}
			a.Balance += amount
			return a, err
		},
	}
	deposit := func(amount int) func(Account) ([]api.NewEvent, error) {
		return func(Account) ([]api.NewEvent, error) { return []api.NewEvent{client.Event("Deposited", amount)}, nil }
	}
	withdraw := func(amount int) func(Account) ([]api.NewEvent, error) {
		return func(a Account) ([]api.NewEvent, error) {
			if a.Balance < amount {
				return nil, fmt.Errorf("there are only %d", a.Balance)
			}
			return []api.NewEvent{client.Event("Withdrawn", amount)}, nil
		}
	}
	for _, decide := range []func(Account) ([]api.NewEvent, error){deposit(10), withdraw(7), withdraw(7)} {
		a, err := accounts.Update(ctx, "account-7", decide)
		if err != nil {
			fmt.Println("refused:", err)
			continue
		}
		fmt.Println("version", a.Version, "balance", a.State.Balance)
	}
	// Output:
	// version 0 balance 10
	// version 1 balance 3
	// refused: there are only 3
}

// What is done because of an event carries the event's correlation, and the event's id as its cause.
func ExampleCausedBy() {
	cl, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "caused", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	st := cl.Store("caused")
	began := client.WithTrace(ctx, client.Trace{Correlation: "checkout-5"})
	if _, err := st.Append(began, "order-1", []api.NewEvent{{ID: "e-1", Type: "OrderPlaced"}}, client.NoStream); err != nil {
		log.Fatal(err)
	}
	for e, err := range st.ReadStream(ctx, "order-1", client.ReadOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		if _, err := st.Append(client.CausedBy(ctx, e), "invoice-1", []api.NewEvent{{Type: "InvoiceSent"}}, client.NoStream); err != nil {
			log.Fatal(err)
		}
	}
	for e, err := range st.ReadStream(ctx, "invoice-1", client.ReadOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %+v\n", e.Type, client.TraceOf(e))
	}
	// Output:
	// InvoiceSent {Parent: State: Correlation:checkout-5 Causation:e-1}
}

// An append whose outcome is unknown is sent again with the same events: it is written once.
func ExampleStore_Append_outcomeUnknown() {
	cl, done := connect()
	defer done()
	if _, err := cl.CreateStore(context.Background(), "retried", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	st := cl.Store("retried")
	events := []api.NewEvent{client.Event("Paid", 5)} // their ids are stamped by the first try, and stay
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		res, err := st.Append(ctx, "order-1", events, client.NoStream)
		cancel()
		if errors.Is(err, client.ErrOutcomeUnknown) {
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("version", res.Version)
		return
	}
	// Output:
	// version 0
}

// Consumers of a durable subscription share its events. The cluster remembers what was acknowledged, whoever acknowledged it; the rest is delivered again.
func ExampleSubscription_Messages() {
	cl, done := connect()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cl.CreateStore(ctx, "mailed", api.ConfigPutRequest{}); err != nil {
		log.Fatal(err)
	}
	st := cl.Store("mailed")
	if _, err := st.Append(ctx, "order-1", []api.NewEvent{client.Event("Placed", 1), client.Event("Paid", 2), client.Event("Sent", 3)}, client.Any); err != nil {
		log.Fatal(err)
	}
	mail := st.Subscription("mail")
	query := client.Select(api.QueryItem{Types: []string{"Placed", "Sent"}})
	if _, err := mail.Create(ctx, api.SubscriptionConfig{Query: &query}); err != nil {
		log.Fatal(err)
	}
	for m, err := range mail.Messages(ctx, client.ConsumeOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Type, string(m.Data))
		if err := m.Ack(); err != nil { // m.Nack(time.Minute): try again later; m.Park("no address"): give it up
			log.Fatal(err)
		}
		if m.Type == "Sent" {
			break
		}
	}
	// Output:
	// Placed 1
	// Sent 3
}
