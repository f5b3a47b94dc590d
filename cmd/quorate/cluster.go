package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type clusterCmd struct {
	Info     clusterInfoCmd     `cmd:"" help:"Who is here."`
	Leaders  clusterLeadersCmd  `cmd:"" help:"Who leads what."`
	Transfer clusterTransferCmd `cmd:"" help:"Move a store's leadership."`
}

type clusterInfoCmd struct{ clientFlags }

func (c *clusterInfoCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		info, err := cl.ClusterInfo(ctx)
		if err != nil {
			return err
		}
		return c.print(e, info, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "cluster %s, %d stores, as %s sees it\n\nNODE\tUP\tVERSION\tRAFT\tMEMBER\n", info.Cluster, info.Stores, info.Node)
			for _, n := range info.Nodes {
				fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%s\n", n.Name, n.Up, n.Version, n.Raft, n.ServerID)
			}
			for _, n := range info.Unlisted {
				fmt.Fprintf(w, "%s\t%v\t%s\t%s\tnot a member (%s)\n", n.Name, n.Up, n.Version, n.Raft, n.ServerID)
			}
		})
	})
}

type clusterLeadersCmd struct{ clientFlags }

func (c *clusterLeadersCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Leaders(ctx)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "STORE\tLEADER\tTERM\tSINCE\tMEMBERS")
			for _, s := range res.Stores {
				leader := s.Leader
				if leader == "" {
					leader = "(none)"
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", s.Store, leader, s.Term, s.Since.Format(time.DateTime), strings.Join(s.Members, ","))
			}
			fmt.Fprintln(w, "\nNODE\tUP\tLEADS")
			for _, n := range res.Nodes {
				fmt.Fprintf(w, "%s\t%v\t%d\n", n.Node, n.Up, n.Leads)
			}
		})
	})
}

type clusterTransferCmd struct {
	clientFlags
	Store string `arg:""`
	To    string `help:"The node to lead; left out: the most up-to-date follower." placeholder:"NODE"`
}

func (c *clusterTransferCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.Transfer(ctx, c.Store, c.To)
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "store %s moved from %s to %s (term %d)\n", res.Store, res.From, res.Leader, res.Term)
		})
	})
}

type watchCmd struct {
	Leaders watchLeadersCmd `cmd:"" help:"Elections and losses of leadership."`
	Members watchMembersCmd `cmd:"" help:"Nodes coming and going, as every other node sees it."`
	Config  watchConfigCmd  `cmd:"" help:"Stores created, changed and deleted."`
}

type watchLeadersCmd struct{ clientFlags }

func (c *watchLeadersCmd) Run(e *env) error {
	return c.watch(e, api.ClusterStore+".event.leader.>", func(raw []byte) string {
		var l api.LeaderEvent
		json.Unmarshal(raw, &l)
		previous := ""
		if l.Previous != "" {
			previous = ", before: " + l.Previous
		}
		return fmt.Sprintf("%s  %s  %s by %s, term %d (%s%s)", l.Time.Format(time.RFC3339), l.Store, l.Kind, l.Node, l.Term, l.Reason, previous)
	})
}

type watchMembersCmd struct{ clientFlags }

func (c *watchMembersCmd) Run(e *env) error {
	return c.watch(e, api.ClusterStore+".event.member.>", func(raw []byte) string {
		var m api.MemberEvent
		json.Unmarshal(raw, &m)
		return fmt.Sprintf("%s  %s is %s, says %s", m.Time.Format(time.RFC3339), m.Node, m.Kind, m.By)
	})
}

type watchConfigCmd struct{ clientFlags }

func (c *watchConfigCmd) Run(e *env) error {
	return c.watch(e, api.ConfigStore+".event.>", func(raw []byte) string {
		var v api.ConfigEvent
		json.Unmarshal(raw, &v)
		return fmt.Sprintf("%s  %s %s (version %d, incarnation %d)", v.Time.Format(time.RFC3339), v.Store, v.Kind, v.Version, v.Incarnation)
	})
}

// watch prints messages on the subject until the user ends it.
func (f *clientFlags) watch(e *env, subject string, line func([]byte) string) error {
	cl, done, err := f.connect(e)
	if err != nil {
		return err
	}
	defer done()
	messages := make(chan *nats.Msg, 256)
	if _, err := cl.Conn().ChanSubscribe(cl.Subjects().Of(subject), messages); err != nil {
		return err
	}
	for {
		select {
		case m := <-messages:
			text := string(m.Data)
			if !f.JSON {
				text = line(m.Data)
			}
			fmt.Fprintln(e.stdout, text)
		case <-e.ctx.Done():
			return nil
		}
	}
}

type healthCmd struct {
	URL string `arg:"" optional:"" default:"http://127.0.0.1:8222" env:"QUORATE_HTTP" help:"The node's --http address, or a URL."`
}

// Run exits 0 when the node is ready.
func (c *healthCmd) Run(e *env) error {
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Second)
	defer cancel()
	if !strings.Contains(c.URL, "://") {
		c.URL = "http://" + c.URL
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+"/readyz", nil)
	if err != nil {
		return usageError{err}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	fmt.Fprint(e.stdout, string(body))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the node is not ready: %s", res.Status)
	}
	return nil
}
