// Command bench measures Quorate beside its peers, on one machine and in one run, and prints ratios: three processes of each system, the same work through
// each one's own client, one system loaded at a time, the others idle beside it, A B C B C A. Absolute figures of a small machine say little; the ratios are what docs/benchmarks.md shows.
//
//	make bench-quick    the essential rows about appends, reads and disk, in less than five minutes
//	make bench          all rows: also a thousand stores (throughput, idle cost, failover, restart) and a store of ten million events
//
// Every append that is counted was acknowledged. JetStream acknowledges before its fsync unless sync_interval is always; both are measured. A row that fails
// for a system says so, and the run goes on. Interrupted, it stops its processes, removes its files and writes no results.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	quorate, nats, etcd string
	other               string
	dir                 string
	rounds              int
	slice               time.Duration
	events              int
	stores              int
	rest, idle          time.Duration
	big                 int
	limit               time.Duration
	quick               bool
	rows, systems       *regexp.Regexp
	out                 string
	markdown            string
	svg                 string
	command             string
}

func main() {
	var c config
	only := flag.String("systems", ".", "regular expression of the systems to measure; Quorate is always one of them, and so is its other build")
	rows := flag.String("rows", ".", "regular expression of the rows to measure, by topic or name")
	flag.StringVar(&c.quorate, "quorate", "../bin/quorate", "the quorate binary")
	flag.StringVar(&c.other, "other", "", "another quorate binary, measured as one more system: what a change is worth")
	flag.StringVar(&c.nats, "nats-server", "nats-server", "the nats-server binary")
	flag.StringVar(&c.etcd, "etcd", "etcd", "the etcd binary")
	flag.StringVar(&c.dir, "dir", "", "directory for data, emptied at the end; default a temporary one")
	flag.IntVar(&c.rounds, "rounds", 5, "how often each row is measured for each system")
	flag.DurationVar(&c.slice, "slice", 2*time.Second, "length of one measurement")
	flag.IntVar(&c.events, "events", 300_000, "events in the rows about reading and disk")
	flag.IntVar(&c.stores, "stores", 1000, "stores in the rows about many stores")
	flag.DurationVar(&c.rest, "rest", 30*time.Second, "how long many stores are left alone before their idle cost is measured")
	flag.DurationVar(&c.idle, "idle", 20*time.Second, "how long their idle cost is measured")
	flag.IntVar(&c.big, "big", 10_000_000, "events in the rows about a big store; 0: none. Needs about 1.5 GB of disk a million")
	flag.DurationVar(&c.limit, "limit", 25*time.Minute, "begin no row after so long, those about a big store apart")
	flag.BoolVar(&c.quick, "quick", false, "only the essential rows, three rounds, 60,000 events, none begun after four minutes")
	flag.StringVar(&c.out, "json", "", "write the raw results here")
	flag.StringVar(&c.markdown, "markdown", "", "put the tables between the markers in this file")
	flag.StringVar(&c.svg, "svg", "", "draw bar charts into this directory")
	flag.StringVar(&c.command, "command", "bench "+strings.Join(os.Args[1:], " "), "what the report says that it was made with")
	flag.Parse()
	c.rows, c.systems = regexp.MustCompile(*rows), regexp.MustCompile(*only)
	if c.quick {
		c.rounds, c.events, c.big, c.limit = min(c.rounds, 3), min(c.events, 60_000), 0, min(c.limit, 4*time.Minute)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	if err := os.MkdirAll(c.dir, 0o755); c.dir != "" && err != nil {
		return err
	}
	dir, err := os.MkdirTemp(c.dir, "quorate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c.dir = dir
	b := &bench{config: c, began: time.Now()}
	r := &b.report
	r.Machine, r.Command, r.Date = machine(c), c.command, time.Now().UTC().Format(time.DateOnly)
	for _, s := range candidates(c) {
		if s.name() == nameQuorate || s.name() == nameOther || c.systems.MatchString(s.name()) {
			b.systems = append(b.systems, s)
			r.Systems = append(r.Systems, s.name())
		}
	}
	fmt.Println(r.Machine)
	defer b.stop()
	b.together(ctx)
	switch {
	case ctx.Err() != nil:
	case c.quick:
		fmt.Println("\nleft out by -quick: 16 and 256 clients, 4 KiB, many stores (idle cost, failover, restart), a big store")
	default:
		b.profile(ctx)
		b.many(ctx)
		b.big(ctx)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; nothing is kept")
	}
	fmt.Println()
	for _, line := range r.verdicts() {
		fmt.Println(line)
	}
	fmt.Printf("took %s\n", time.Since(b.began).Round(time.Second))
	return publish(c, r)
}

func publish(c config, r *report) error {
	if c.out != "" {
		raw, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			err = os.WriteFile(c.out, raw, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if c.svg != "" {
		if err := draw(c.svg, r); err != nil {
			return err
		}
	}
	if c.markdown != "" {
		return writeMarkdown(c.markdown, r)
	}
	return nil
}

// machine says what this was measured on, and what was.
func machine(c config) string {
	model, memory := "?", "?"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*:\s*(.*)`).FindSubmatch(raw); m != nil {
			model = string(m[1])
		}
	}
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		if m := regexp.MustCompile(`MemTotal:\s*(\d+)`).FindSubmatch(raw); m != nil {
			var kib int
			fmt.Sscan(string(m[1]), &kib)
			memory = fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
		}
	}
	out := func(name string, arg ...string) string {
		b, err := exec.Command(name, arg...).CombinedOutput()
		if err != nil {
			return name + " ?"
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		return line
	}
	return strings.Join([]string{fmt.Sprintf("%d cores (%s)", runtime.NumCPU(), model), memory, "Linux " + out("uname", "-r"), out("stat", "-f", "-c", "%T", c.dir),
		runtime.Version(), out(c.quorate, "--version"), out(c.nats, "--version"), out(c.etcd, "--version")}, ", ")
}
