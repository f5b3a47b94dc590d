package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

type storeCmd struct {
	Create storeCreateCmd `cmd:"" help:"Create a store; returns once a leader serves it."`
	List   storeListCmd   `cmd:"" help:"List stores."`
	Info   storeInfoCmd   `cmd:"" help:"Describe a store."`
	Update storeUpdateCmd `cmd:"" help:"Change a store's options."`
	Delete storeDeleteCmd `cmd:"" help:"Drop a store; its files are moved aside on every node."`
}

type storeCreateCmd struct {
	clientFlags
	Name        string `arg:"" help:"1 to 64 of A-Z a-z 0-9 _ -"`
	Description string `help:"Free text."`
	limitFlags
}

func (c *storeCreateCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		absent := client.NoStream
		options := api.StoreOptions{Description: c.Description}
		c.change(&options.Limits)
		res, err := cl.CreateStore(ctx, c.Name, api.ConfigPutRequest{Options: &options, ExpectedVersion: &absent})
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "store %s is created, led by %s (incarnation %d)\n", res.Store, res.Leader, res.Incarnation)
		})
	})
}

type storeListCmd struct{ clientFlags }

func (c *storeListCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		list, err := cl.Stores(ctx)
		if err != nil {
			return err
		}
		return c.print(e, list, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "STORE\tINCARNATION\tVERSION\tMEMBERS\tCREATED\tDESCRIPTION")
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", r.Store, r.Incarnation, r.Version, memberNames(r.Members), r.Created.Format(time.DateTime), r.Options.Description)
			}
		})
	})
}

func memberNames(ids []string) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i], _, _ = strings.Cut(id, "~")
	}
	return strings.Join(names, ",")
}

type storeInfoCmd struct {
	clientFlags
	Name string `arg:""`
}

func (c *storeInfoCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		info, err := cl.Store(c.Name).Info(ctx)
		if err != nil {
			return err
		}
		return c.print(e, info, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "store\t%s\n", info.Store)
			if info.Restoring {
				fmt.Fprintf(w, "state\ta backup is being restored; it takes and answers nothing else\n")
			}
			fmt.Fprintf(w, "incarnation\t%d\n", info.Incarnation)
			fmt.Fprintf(w, "leader\t%s (term %d)\n", info.Leader, info.Term)
			fmt.Fprintf(w, "members\t%s\n", strings.Join(info.Members, ", "))
			l := info.Limits
			fmt.Fprintf(w, "streams\t%d%s\n", info.Streams, ofLimit(l.MaxStreams))
			fmt.Fprintf(w, "events\t%d\n", info.Events)
			fmt.Fprintf(w, "in use\t%d%s bytes on %s\n", info.Bytes, ofLimit(l.MaxBytes), info.Node)
			fmt.Fprintf(w, "disk\t%d bytes on %s\n", info.DiskBytes, info.Node)
			printLimits(w, &l)
		})
	})
}

type storeUpdateCmd struct {
	clientFlags
	Name            string  `arg:""`
	Description     *string `help:"Free text."`
	ExpectedVersion *int64  `help:"The record's version. Default: the one that is there when the command begins."`
	limitFlags
}

func (c *storeUpdateCmd) Run(e *env) error {
	if c.Description == nil && c.limitFlags == (limitFlags{}) {
		return usagef("nothing is to be changed; give --description or a limit")
	}
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		record, err := cl.StoreRecord(ctx, c.Name)
		if err != nil {
			return err
		}
		options, expected := record.Options, int64(record.Version)
		if c.Description != nil {
			options.Description = *c.Description
		}
		c.change(&options.Limits)
		if c.ExpectedVersion != nil {
			expected = *c.ExpectedVersion
		}
		if options == record.Options && expected == int64(record.Version) { // a version more would say that something was changed
			res := api.ConfigPutResponse{Reply: api.Reply{Type: api.TypeConfigPut}, Store: c.Name, Version: record.Version, Incarnation: record.Incarnation}
			return c.print(e, res, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "store %s is at version %d; it was so already\n", res.Store, res.Version)
			})
		}
		res, err := cl.CreateStore(ctx, c.Name, api.ConfigPutRequest{Options: &options, ExpectedVersion: &expected})
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) { fmt.Fprintf(w, "store %s is at version %d\n", res.Store, res.Version) })
	})
}

type storeDeleteCmd struct {
	clientFlags
	Name            string `arg:""`
	ExpectedVersion *int64 `help:"Delete only this version of the record."`
}

func (c *storeDeleteCmd) Run(e *env) error {
	return c.with(e, func(ctx context.Context, cl *client.Client) error {
		res, err := cl.DeleteStore(ctx, c.Name, api.ConfigDeleteRequest{ExpectedVersion: c.ExpectedVersion})
		if err != nil {
			return err
		}
		return c.print(e, res, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "store %s is deleted; every node keeps its files in DATA/removed\n", res.Store)
		})
	})
}
