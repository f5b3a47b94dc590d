// Command invoices writes invoices whose numbers have no gap, from several writers at once. Only the last invoice is read, so it takes the same time after a million of them.
//
//	make run                    # in another terminal
//	go run ./examples/invoices  # ten more invoices
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	url := nats.DefaultURL
	if v := os.Getenv("NATS_URL"); v != "" {
		url = v
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl := client.New(nc)
	if _, err := cl.CreateStore(ctx, "billing", api.ConfigPutRequest{}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for writer := range 5 {
		wg.Go(func() {
			for i := range 2 {
				number, err := create(ctx, cl.Store("billing"), fmt.Sprintf("customer-%d", writer), 10*(i+1))
				if err != nil {
					log.Fatal(err)
				}
				fmt.Printf("invoice %d for customer-%d\n", number, writer)
			}
		})
	}
	wg.Wait()
	return nil
}

type invoice struct {
	Number   int    `json:"number"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

var allInvoices = client.Select(api.QueryItem{Types: []string{"InvoiceCreated"}})

// create writes the next invoice. It is client.Decide by hand, because it need not read all invoices but only the last one.
func create(ctx context.Context, store *client.Store, customer string, amount int) (int, error) {
	for {
		last, position := 0, uint64(0)
		for e, err := range store.ReadAll(ctx, client.ReadOptions{Query: &allInvoices, Backward: true, FromEnd: true, Limit: 1}) {
			if err != nil {
				return 0, err
			}
			i, err := client.Data[invoice](e)
			if err != nil {
				return 0, err
			}
			last, position = i.Number, e.Position
		}
		next := invoice{Number: last + 1, Customer: customer, Amount: amount}
		event := client.Event("InvoiceCreated", next, "customer:"+customer)
		_, err := store.Append(ctx, "invoices-"+customer, []api.NewEvent{event}, client.Any, client.NothingNew(allInvoices, position))
		if errors.Is(err, api.ErrCondition) {
			continue // somebody took that number: the next one
		}
		return next.Number, err
	}
}
