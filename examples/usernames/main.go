// Command usernames registers an account under a user name that nobody else has. A name is free again when its account was closed.
//
//	make run                                # in another terminal
//	go run ./examples/usernames ada         # ada is registered
//	go run ./examples/usernames ada         # ada is claimed already
//	go run ./examples/usernames -close ada  # ada is free again
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

func main() {
	log.SetFlags(0)
	closing := flag.Bool("close", false, "close the account")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: usernames [-close] NAME")
	}
	if err := run(flag.Arg(0), *closing); err != nil {
		log.Fatal(err)
	}
}

func run(name string, closing bool) error {
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
	if _, err := cl.CreateStore(ctx, "accounts", api.ConfigPutRequest{}); err != nil {
		return err
	}
	claimed := errors.New(name + " is claimed already")
	unknown := errors.New("nobody is called " + name)

	// All events about the name have it as a tag, in whatever stream they are. If another one comes between reading them and appending ours, ours is refused, and decided again.
	tag := "username:" + name
	_, _, err = client.Decide(ctx, cl.Store("accounts"), client.Decision[bool]{
		Query: client.Select(api.QueryItem{Types: []string{"AccountRegistered", "AccountClosed"}, Tags: []string{tag}}),
		Evolve: func(_ bool, e api.Event) (bool, error) {
			return e.Type == "AccountRegistered", nil
		},
		Decide: func(taken bool) ([]api.NewEvent, error) {
			switch {
			case closing && taken:
				return []api.NewEvent{client.Event("AccountClosed", nil, tag)}, nil
			case closing:
				return nil, unknown
			case taken:
				return nil, claimed
			}
			return []api.NewEvent{client.Event("AccountRegistered", map[string]string{"username": name}, tag)}, nil
		},
		Stream: "accounts",
	})
	switch {
	case err == nil && closing:
		fmt.Println(name, "is free again")
	case err == nil:
		fmt.Println(name, "is registered")
	case err == claimed || err == unknown:
		fmt.Println(err)
		return nil
	}
	return err
}
