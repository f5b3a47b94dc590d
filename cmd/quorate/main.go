// Command quorate runs a node of an event-store cluster that speaks NATS, and is its command line.
//
// main.go turns a subcommand into run(ctx) and its error into an exit code: 0 done, 1 refused or failed, 2 wrong usage. server.go and dev.go run nodes; the other files
// are clients, one noun each.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/quorate/quorate/api"
)

// Exit codes.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

// cli is every subcommand. Flags, QUORATE_* environment variables and a YAML file say the same things.
type cli struct {
	Config  kong.ConfigFlag  `help:"YAML file with the same names as the flags." type:"existingfile" placeholder:"FILE" env:"QUORATE_CONFIG"`
	Version kong.VersionFlag `help:"Print the version and exit." env:"-"`

	Server       serverCmd       `cmd:"" help:"Run a node. Without flags: one node, data in ./data, the default ports; a real store, fsynced."`
	Dev          devCmd          `cmd:"" help:"Run three nodes in one process to try things, and print what to try."`
	Store        storeCmd        `cmd:"" help:"Create, list, describe, change and delete stores."`
	Stream       streamCmd       `cmd:"" help:"Describe, delete, truncate streams; set how old and how many events they keep."`
	Append       appendCmd       `cmd:"" help:"Append events to a stream."`
	Read         readCmd         `cmd:"" help:"Read a stream, or the whole store; --follow goes on with what comes."`
	Snapshot     snapshotCmd     `cmd:"" help:"Keep, get, list and drop snapshots of aggregates."`
	Subscription subscriptionCmd `cmd:"" help:"Durable subscriptions: create, list, describe, fetch, acknowledge, replay, delete."`
	Backup       backupCmd       `cmd:"" help:"Write a whole store to a file while it is in use."`
	Restore      restoreCmd      `cmd:"" help:"Restore a backup into a new store, of any name, in any cluster."`
	Export       exportCmd       `cmd:"" help:"Write a store's events as NDJSON, for people and other programs."`
	Import       importCmd       `cmd:"" help:"Append the events of NDJSON in their order; what is there already is not written twice."`
	Cluster      clusterCmd      `cmd:"" help:"Who is here, who leads what, and moving a leadership."`
	Watch        watchCmd        `cmd:"" help:"Print what the cluster publishes about itself, as it happens."`
	Health       healthCmd       `cmd:"" help:"Ask a node's /readyz; exit code 0 when it is ready. For container health checks."`
}

// env is what a subcommand runs in.
type env struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // who interrupts a second time does not want to wait
	os.Exit(run(&env{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:]))
}

// run carries out one command line and returns the exit code.
func run(e *env, args []string) int {
	e = &env{ctx: e.ctx, stdin: &interruptible{ctx: e.ctx, from: e.stdin}, stdout: e.stdout, stderr: e.stderr}
	var c cli
	exited := -1
	parser, err := newParser(&c,
		kong.Writers(e.stdout, e.stderr),
		kong.Exit(func(code int) { exited = code; panic(exitPanic{}) }),
		kong.Bind(e),
	)
	if err != nil {
		fmt.Fprintln(e.stderr, "quorate:", err)
		return exitUsage
	}
	ctx, code := parse(parser, args, &exited)
	if ctx == nil {
		return code
	}
	if err := ctx.Run(e); err != nil {
		return report(e.stderr, err)
	}
	return exitDone
}

func newParser(c *cli, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append([]kong.Option{
		kong.Name("quorate"),
		kong.Description("An event-store cluster that speaks NATS. Start with: quorate dev"),
		kong.DefaultEnvars("QUORATE"),
		kong.PostBuild(emptyIsUnset), // behind DefaultEnvars, which says what the variables are
		kong.Configuration(loadYAML),
		kong.Vars{"version": "quorate " + api.Version},
		kong.WithHyphenPrefixedParameters(true), // --expected-version -1
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	}, options...)...)
}

type exitPanic struct{}

// parse returns nil and an exit code when there is nothing to run: help or version was asked for, or the usage is wrong.
func parse(parser *kong.Kong, args []string, exited *int) (ctx *kong.Context, code int) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(exitPanic); !ok {
				panic(r)
			}
			ctx, code = nil, *exited
		}
	}()
	ctx, err := parser.Parse(args)
	if err == nil {
		return ctx, exitDone
	}
	fmt.Fprintf(parser.Stderr, "quorate: %v\n", err)
	var perr *kong.ParseError
	if errors.As(err, &perr) && perr.Context != nil {
		fmt.Fprintf(parser.Stderr, "Try: %s --help\n", perr.Context.Model.Name+commandPath(perr.Context))
	}
	return nil, exitUsage
}

func commandPath(ctx *kong.Context) string {
	if node := ctx.Selected(); node != nil {
		return " " + node.FullPath()[len(ctx.Model.Name)+1:]
	}
	return ""
}

// usageError is a mistake in the command line that only the command itself can see.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// remark is an error with what the command knows beside it: the line of a file, how much is done, how to go on.
type remark struct {
	error
	words string
}

func remarkf(err error, format string, args ...any) error {
	words := fmt.Sprintf(format, args...)
	if r, ok := err.(*remark); ok {
		return &remark{r.error, r.words + "; " + words}
	}
	return &remark{err, words}
}

func (r *remark) Error() string { return r.error.Error() + " (" + r.words + ")" }
func (r *remark) Unwrap() error { return r.error }

// report says on standard error what went wrong, the error's name first and a remark last, and returns the exit code. What package client says around an error of the
// cluster, such as the subject, is left out.
func report(w io.Writer, err error) int {
	remarked := ""
	var r *remark
	if errors.As(err, &r) {
		remarked = " (" + r.words + ")"
	}
	var usage usageError
	var known *api.Error
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(w, "quorate:", err)
		return exitUsage
	case errors.As(err, &known):
		fmt.Fprintf(w, "%s: %s%s\n", known.Name, known.Description, remarked)
	case errors.Is(err, context.Canceled): // what ends that way returns no error: servers, --follow, watch
		fmt.Fprintf(w, "quorate: interrupted before it was done%s\n", remarked)
	default:
		fmt.Fprintln(w, "quorate:", err)
	}
	return exitRefused
}
