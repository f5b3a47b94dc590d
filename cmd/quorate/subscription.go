package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type subscriptionCmd struct {
	Create subscriptionCreateCmd `cmd:"" help:"Create a durable subscription."`
	List   subscriptionListCmd   `cmd:"" help:"List the subscriptions of a store."`
	Info   subscriptionInfoCmd   `cmd:"" help:"Describe a subscription: cursor, lag, parked."`
	Fetch  subscriptionFetchCmd  `cmd:"" help:"Get events; they come again unless they are acknowledged."`
	Ack    subscriptionAckCmd    `cmd:"" help:"Say that events are processed."`
	Nack   subscriptionNackCmd   `cmd:"" help:"Say that events were not processed: again, later, or park them."`
	Parked subscriptionParkedCmd `cmd:"" help:"List the events that were given up."`
	Replay subscriptionReplayCmd `cmd:"" help:"Have parked events delivered again."`
	Delete subscriptionDeleteCmd `cmd:"" help:"Delete a subscription and what it parked."`
}

// subscriptionFlags name a subscription.
type subscriptionFlags struct {
	clientFlags
	Store string `arg:""`
	Name  string `arg:"" help:"1 to 64 of A-Z a-z 0-9 _ -"`
}

// Times of requests.
const (
	askAgainAfter = 200 * time.Millisecond // when the cluster could not carry it out at the moment
	askAtMost     = 5 * time.Second        // for an answer; it may be lost with a node
)

// ask sends a request until it is answered, or the time is over. It may be carried out twice; nothing about subscriptions minds.
func ask(ctx context.Context, cl *client.Client, subject string, request, into any) error {
	return askFor(ctx, askAtMost, cl, subject, request, into)
}

func askFor(ctx context.Context, atMost time.Duration, cl *client.Client, subject string, request, into any) error {
	payload, err := api.Marshal(request)
	if err != nil {
		return err
	}
	for {
		try, cancel := context.WithTimeout(ctx, atMost)
		last := askOnce(try, cl.Conn(), subject, payload, into)
		cancel()
		var known *api.Error
		if last == nil || errors.As(last, &known) && !known.Retryable() {
			return last
		}
		timer := time.NewTimer(askAgainAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return last
		}
	}
}

func askOnce(ctx context.Context, nc *nats.Conn, subject string, payload []byte, into any) error {
	m, err := nc.RequestWithContext(ctx, subject, payload)
	if errors.Is(err, nats.ErrNoResponders) {
		return api.ErrNoLeader.With("nobody answers on %s; is this a Quorate cluster, and is the prefix right?", subject)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	var head api.Reply
	if err := json.Unmarshal(m.Data, &head); err != nil {
		return fmt.Errorf("%s: the reply is not JSON: %w", subject, err)
	}
	if head.Error != nil {
		return head.Error
	}
	return json.Unmarshal(m.Data, into)
}

// write carries out a write verb of the subscription.
func (c *subscriptionFlags) write(e *env, verb string, request, into any, table func(w *tabwriter.Writer)) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		if err := ask(ctx, cl, cl.Subjects().Write(c.Store, "subscription."+verb, c.Name), request, into); err != nil {
			return err
		}
		return c.print(e, into, table)
	})
}

func (c *subscriptionFlags) read(e *env, verb string, request, into any, table func(w *tabwriter.Writer)) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		if err := ask(ctx, cl, cl.Subjects().Read(c.Store, verb, c.Name), request, into); err != nil {
			return err
		}
		return c.print(e, into, table)
	})
}

type subscriptionCreateCmd struct {
	subscriptionFlags
	After          uint64        `help:"Begin behind this position." placeholder:"N"`
	FromEnd        bool          `help:"Begin behind the last event there is now."`
	Type           []string      `help:"Only events of this type; repeat for more." placeholder:"T"`
	Tag            []string      `help:"Only events with this tag; repeated: with all of them." placeholder:"T"`
	StreamPrefix   []string      `help:"Only events of streams that begin so; repeat for more." placeholder:"P"`
	Query          string        `help:"Only what this query selects, as JSON; instead of the three flags above." placeholder:"JSON"`
	AckWait        time.Duration `help:"An event that is not acknowledged so long is delivered again." default:"30s"`
	MaxInFlight    int           `help:"Events delivered and not acknowledged, at most." default:"1000"`
	MaxAttempts    int           `help:"An event that was delivered so often in vain is parked; -1: never." default:"10"`
	Ordered        bool          `help:"An event waits until those before it in its stream are acknowledged or parked."`
	DeliverSubject string        `help:"Push: publish events there while somebody is subscribed." placeholder:"SUBJECT"`
	NoAck          bool          `help:"Delivered is acknowledged."`
	Description    string        `help:"Free text."`
}

func (c *subscriptionCreateCmd) Run(e *env) error {
	config := api.SubscriptionConfig{
		After: c.After, FromEnd: c.FromEnd, AckWaitMS: int(c.AckWait.Milliseconds()), MaxInFlight: c.MaxInFlight, MaxAttempts: c.MaxAttempts,
		Ordered: c.Ordered, DeliverSubject: c.DeliverSubject, Description: c.Description,
	}
	if c.NoAck {
		config.Ack = api.AckNone
	}
	filtered := len(c.Type)+len(c.Tag)+len(c.StreamPrefix) > 0
	switch {
	case filtered && c.Query != "":
		return usagef("--query says it all; leave out --type, --tag and --stream-prefix")
	case filtered:
		config.Query = &api.Query{Items: []api.QueryItem{{Types: c.Type, Tags: c.Tag, StreamPrefixes: c.StreamPrefix}}}
	case c.Query != "":
		config.Query = new(api.Query)
		if err := api.Unmarshal([]byte(c.Query), config.Query); err != nil {
			return usagef("--query: %s", err.Description)
		}
	}
	var res api.SubscriptionCreateResponse
	return c.write(e, "create", config, &res, func(w *tabwriter.Writer) {
		did := "is created"
		if !res.Created {
			did = "was there already"
		}
		fmt.Fprintf(w, "subscription %s %s; it begins behind position %d, and %d follow\n", res.Name, did, res.Cursor, res.Lag)
	})
}

type subscriptionListCmd struct {
	clientFlags
	Store string `arg:""`
}

func (c *subscriptionListCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		var res api.SubscriptionsResponse
		if err := ask(ctx, cl, cl.Subjects().Read(c.Store, "subscriptions", ""), api.ReadOptions{}, &res); err != nil {
			return err
		}
		return c.print(e, res.Subscriptions, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "SUBSCRIPTION\tCURSOR\tLAG\tACKED\tPARKED\tDELIVERS TO\tDESCRIPTION")
			for _, s := range res.Subscriptions {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", s.Name, s.Cursor, s.Lag, s.Acked, s.Parked, s.Config.DeliverSubject, s.Config.Description)
			}
		})
	})
}

type subscriptionInfoCmd struct{ subscriptionFlags }

func (c *subscriptionInfoCmd) Run(e *env) error {
	var res api.SubscriptionResponse
	return c.read(e, "subscription", api.ReadOptions{}, &res, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "subscription\t%s of %s\n", res.Name, res.Store)
		fmt.Fprintf(w, "created\t%s\n", res.Created.Format(time.DateTime))
		fmt.Fprintf(w, "cursor\t%d\n", res.Cursor)
		fmt.Fprintf(w, "lag\t%d\n", res.Lag)
		fmt.Fprintf(w, "acknowledged\t%d\n", res.Acked)
		fmt.Fprintf(w, "parked\t%d\n", res.Parked)
		if res.InFlight != nil {
			fmt.Fprintf(w, "in flight\t%d of %d\n", *res.InFlight, res.Config.MaxInFlight)
			fmt.Fprintf(w, "fetches waiting\t%d\n", *res.Waiting)
		}
		raw, _ := api.Marshal(res.Config)
		fmt.Fprintf(w, "config\t%s\n", raw)
	})
}

type subscriptionFetchCmd struct {
	subscriptionFlags
	Limit int           `help:"Events at most." default:"10"`
	Wait  time.Duration `help:"Wait so long for a first event." default:"0s"`
	Ack   bool          `help:"Acknowledge what was printed."`
}

func (c *subscriptionFetchCmd) Run(e *env) error {
	if c.Wait < 0 || c.Wait > api.MaxWait*time.Millisecond {
		return usagef("--wait %v: 0 to %v", c.Wait, api.MaxWait*time.Millisecond)
	}
	c.Timeout += c.Wait
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		var res api.SubscriptionFetchResponse
		request := api.SubscriptionFetchRequest{Limit: c.Limit, WaitMS: int(c.Wait.Milliseconds())}
		if err := askFor(ctx, askAtMost+c.Wait, cl, cl.Subjects().Write(c.Store, "subscription.fetch", c.Name), request, &res); err != nil {
			return err
		}
		var ack api.SubscriptionAckRequest
		for i := range res.Events {
			if err := c.show(e, &res.Events[i]); err != nil {
				return err
			}
			ack.Positions = append(ack.Positions, res.Events[i].Position)
		}
		if !c.Ack || len(ack.Positions) == 0 {
			return nil
		}
		return ask(ctx, cl, cl.Subjects().Write(c.Store, "subscription.ack", c.Name), ack, new(api.SubscriptionAckResponse))
	})
}

func (c *subscriptionFetchCmd) show(e *env, event *api.DeliveredEvent) error {
	if c.JSON {
		return printJSON(e, event)
	}
	if event.Attempt > 1 {
		if _, err := fmt.Fprintf(e.stdout, "attempt %d:\n", event.Attempt); err != nil {
			return err
		}
	}
	return (&readCmd{}).show(e, &event.Event)
}

type subscriptionAckCmd struct {
	subscriptionFlags
	Positions []uint64 `arg:"" optional:"" help:"Of the events that are processed."`
	UpTo      uint64   `help:"Every event in flight up to this position." placeholder:"N"`
}

func (c *subscriptionAckCmd) Run(e *env) error {
	if len(c.Positions) == 0 && c.UpTo == 0 {
		return usagef("name positions, or --up-to")
	}
	return c.tell(e, "ack", api.SubscriptionAckRequest{Positions: c.Positions, UpTo: c.UpTo}, "acknowledged")
}

// tell carries out an ack, nack or replay.
func (c *subscriptionFlags) tell(e *env, verb string, request any, did string) error {
	var res api.SubscriptionAckResponse
	return c.write(e, verb, request, &res, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%d %s; the cursor is at %d\n", res.Done, did, res.Cursor) })
}

type subscriptionNackCmd struct {
	subscriptionFlags
	Positions []uint64      `arg:"" help:"Of the events that were not processed."`
	Delay     time.Duration `help:"Not again before so long."`
	Park      bool          `help:"Give them up at once."`
	Reason    string        `help:"Kept with parked events."`
}

func (c *subscriptionNackCmd) Run(e *env) error {
	request := api.SubscriptionNackRequest{Positions: c.Positions, DelayMS: int(c.Delay.Milliseconds()), Park: c.Park, Reason: c.Reason}
	return c.tell(e, "nack", request, "not processed")
}

type subscriptionParkedCmd struct {
	subscriptionFlags
	After uint64 `help:"Only behind this position." placeholder:"N"`
	Limit int    `help:"Events at most." default:"100"`
}

func (c *subscriptionParkedCmd) Run(e *env) error {
	var res api.ParkedResponse
	return c.read(e, "parked", api.ParkedRequest{After: c.After, Limit: c.Limit}, &res, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "POSITION\tSTREAM\tVERSION\tTYPE\tATTEMPTS\tPARKED\tREASON")
		for _, p := range res.Events {
			fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%d\t%s\t%s\n", p.Position, p.Stream, p.Version, p.Type, p.Attempts, p.ParkedAt.Format(time.DateTime), p.Reason)
		}
		if !res.End {
			fmt.Fprintf(w, "more: --after %d\n", res.Next)
		}
	})
}

type subscriptionReplayCmd struct {
	subscriptionFlags
	Positions []uint64 `arg:"" optional:"" help:"Of the events; left out: all that are parked."`
}

func (c *subscriptionReplayCmd) Run(e *env) error {
	return c.tell(e, "replay", api.SubscriptionReplayRequest{Positions: c.Positions}, "are delivered again")
}

type subscriptionDeleteCmd struct{ subscriptionFlags }

func (c *subscriptionDeleteCmd) Run(e *env) error {
	var res api.SubscriptionDeleteResponse
	return c.write(e, "delete", struct{}{}, &res, func(w *tabwriter.Writer) {
		did := "is deleted"
		if !res.Deleted {
			did = "was not there"
		}
		fmt.Fprintf(w, "subscription %s %s\n", c.Name, did)
	})
}
