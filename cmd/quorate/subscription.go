package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

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

// on runs fn with a handle on the subscription.
func (c *subscriptionFlags) on(e *env, fn func(ctx context.Context, p *client.Subscription) error) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		return fn(ctx, cl.Store(c.Store).Subscription(c.Name))
	})
}

type subscriptionCreateCmd struct {
	subscriptionFlags
	After          uint64        `help:"Begin behind this position." placeholder:"N"`
	FromEnd        bool          `help:"Begin behind the last event there is now."`
	Type           []string      `help:"Only events of this type; repeat for more." sep:"none" placeholder:"T"`
	Tag            []string      `help:"Only events with this tag; repeated: with all of them." sep:"none" placeholder:"T"`
	StreamPrefix   []string      `help:"Only events of streams that begin so; repeat for more." sep:"none" placeholder:"P"`
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
	return c.on(e, func(ctx context.Context, p *client.Subscription) error {
		res, err := p.Create(ctx, config)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			did := "is created"
			if !res.Created {
				did = "was there already"
			}
			fmt.Fprintf(w, "subscription %s %s; it begins behind position %d, and %d follow\n", res.Name, did, res.Cursor, res.Lag)
		})
	})
}

type subscriptionListCmd struct {
	clientFlags
	Store string `arg:""`
}

func (c *subscriptionListCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Store(c.Store).Subscriptions(ctx)
		if err != nil {
			return err
		}
		return c.print(e, list, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "SUBSCRIPTION\tCURSOR\tLAG\tACKED\tPARKED\tDELIVERS TO\tDESCRIPTION")
			for _, s := range list {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", s.Name, s.Cursor, s.Lag, s.Acked, s.Parked, s.Config.DeliverSubject, s.Config.Description)
			}
		})
	})
}

type subscriptionInfoCmd struct{ subscriptionFlags }

func (c *subscriptionInfoCmd) Run(e *env) error {
	return c.on(e, func(ctx context.Context, p *client.Subscription) error {
		res, err := p.Info(ctx)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) { showSubscription(w, res) })
	})
}

func showSubscription(w *tabwriter.Writer, res *api.SubscriptionResponse) {
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
	return c.on(e, func(ctx context.Context, p *client.Subscription) error {
		res, err := p.Fetch(ctx, c.Limit, c.Wait)
		if err != nil {
			return err
		}
		var shown []uint64
		for i := range res.Events {
			if err := c.show(e, &res.Events[i]); err != nil {
				return err
			}
			shown = append(shown, res.Events[i].Position)
		}
		if !c.Ack || len(shown) == 0 {
			return nil
		}
		_, err = p.Ack(ctx, shown...)
		return err
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
	return c.settle(e, "acknowledged", func(ctx context.Context, p *client.Subscription) (*api.SubscriptionAckResponse, error) {
		before := 0
		if c.UpTo > 0 {
			res, err := p.AckUpTo(ctx, c.UpTo)
			if err != nil || len(c.Positions) == 0 {
				return res, err
			}
			before = res.Done
		}
		res, err := p.Ack(ctx, c.Positions...)
		if err != nil {
			return nil, err
		}
		res.Done += before
		return res, nil
	})
}

// settle carries out an ack, nack or replay, and says where the cursor is since.
func (c *subscriptionFlags) settle(e *env, did string, send func(ctx context.Context, p *client.Subscription) (*api.SubscriptionAckResponse, error)) error {
	return c.on(e, func(ctx context.Context, p *client.Subscription) error {
		res, err := send(ctx, p)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%d %s; the cursor is at %d\n", res.Done, did, res.Cursor) })
	})
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
	return c.settle(e, "not processed", func(ctx context.Context, p *client.Subscription) (*api.SubscriptionAckResponse, error) {
		return p.Nack(ctx, request)
	})
}

type subscriptionParkedCmd struct {
	subscriptionFlags
	After uint64 `help:"Only behind this position." placeholder:"N"`
	Limit int    `help:"Events at most." default:"100"`
}

func (c *subscriptionParkedCmd) Run(e *env) error {
	return c.on(e, func(ctx context.Context, p *client.Subscription) error {
		res, err := p.ParkedPage(ctx, c.After, c.Limit)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "POSITION\tSTREAM\tVERSION\tTYPE\tATTEMPTS\tPARKED\tREASON")
			for _, p := range res.Events {
				fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%d\t%s\t%s\n", p.Position, p.Stream, p.Version, p.Type, p.Attempts, p.ParkedAt.Format(time.DateTime), p.Reason)
			}
			if !res.End {
				fmt.Fprintf(w, "more: --after %d\n", res.Next)
			}
		})
	})
}

type subscriptionReplayCmd struct {
	subscriptionFlags
	Positions []uint64 `arg:"" optional:"" help:"Of the events; left out: all that are parked."`
}

func (c *subscriptionReplayCmd) Run(e *env) error {
	return c.settle(e, "are delivered again", func(ctx context.Context, p *client.Subscription) (*api.SubscriptionAckResponse, error) {
		return p.Replay(ctx, c.Positions...)
	})
}

type subscriptionDeleteCmd struct{ subscriptionFlags }

func (c *subscriptionDeleteCmd) Run(e *env) error {
	return c.on(e, func(ctx context.Context, p *client.Subscription) error {
		res, err := p.Delete(ctx)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			did := "is deleted"
			if !res.Deleted {
				did = "was not there"
			}
			fmt.Fprintf(w, "subscription %s %s\n", c.Name, did)
		})
	})
}
