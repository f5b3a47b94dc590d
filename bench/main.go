// Command bench measures Quorate beside its peers, on one machine and in one run, and prints ratios: three processes of each system, the same work through
// each one's own client, one system at a time, A B C A B C. Absolute figures of a small machine say little; the ratios are what docs/benchmarks.md shows.
//
//	make bench-quick    the rows about appends, reads and disk
//	make bench          also a thousand stores: idle cost, failover
//
// Every append that is counted was acknowledged. JetStream acknowledges before its fsync unless sync_interval is always; both are measured.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	quorate, nats string
	dir           string
	rounds        int
	slice         time.Duration
	events        int
	stores        int
	quick         bool
	rows, systems *regexp.Regexp
	out           string
	markdown      string
	svg           string
	profiles      string
	also          string
}

func main() {
	var c config
	only := flag.String("systems", ".", "regular expression of the systems to measure; Quorate is always one of them")
	rows := flag.String("rows", ".", "regular expression of the rows to measure")
	flag.StringVar(&c.quorate, "quorate", "../bin/quorate", "the quorate binary")
	flag.StringVar(&c.nats, "nats-server", "../.tools/nats-server", "the nats-server binary")
	flag.StringVar(&c.dir, "dir", "", "directory for data; default a temporary one")
	flag.IntVar(&c.rounds, "rounds", 5, "how often each row is measured for each system")
	flag.DurationVar(&c.slice, "slice", 2*time.Second, "length of one measurement")
	flag.IntVar(&c.events, "events", 300_000, "events in the rows about reading and disk")
	flag.IntVar(&c.stores, "stores", 1000, "stores in the rows about many stores")
	flag.BoolVar(&c.quick, "quick", false, "leave out the rows about many stores, and measure three rounds")
	flag.StringVar(&c.out, "json", "", "write the raw results here")
	flag.StringVar(&c.markdown, "markdown", "", "put the tables between the markers in this file")
	flag.StringVar(&c.svg, "svg", "", "draw bar charts into this directory")
	flag.StringVar(&c.profiles, "profiles", "", "write processor and allocation profiles of the Quorate nodes into this directory; the rates are lower then")
	flag.StringVar(&c.also, "also", "", "another quorate binary, measured beside the first: what a change is worth")
	flag.Parse()
	c.rows, c.systems = regexp.MustCompile(*rows), regexp.MustCompile(*only)
	if c.quick {
		c.rounds = min(c.rounds, 3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// report is everything that was measured.
type report struct {
	Machine string
	Command string
	Date    string
	Systems []string
	Rows    []result
}

// result is one row: each system's measurements, in the order in which they were taken.
type result struct {
	Name, Unit  string
	LowerBetter bool
	Values      map[string][]float64
	Errors      map[string]int64
	Note        string
}

func run(ctx context.Context, c config) error {
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "quorate-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.dir = dir
	}
	systems := []system{
		newQuorate(c.quorate, filepath.Join(c.dir, "quorate"), c.profiles != ""),
		newJetStream(c.nats, filepath.Join(c.dir, "js-always"), "JetStream, sync always", true),
		newJetStream(c.nats, filepath.Join(c.dir, "js-default"), "JetStream, default", false),
	}
	if c.also != "" {
		systems = append(systems, &quorate{processes: processes{dir: filepath.Join(c.dir, "also")}, title: "Quorate, also", binary: c.also})
	}
	systems = slices.DeleteFunc(systems, func(s system) bool { return s.name() != systems[0].name() && !c.systems.MatchString(s.name()) })
	r := report{Machine: machine(c), Command: "go run . " + strings.Join(os.Args[1:], " "), Date: time.Now().UTC().Format(time.DateOnly)}
	for _, s := range systems {
		r.Systems = append(r.Systems, s.name())
	}
	fmt.Println(r.Machine)
	if err := throughput(ctx, c, systems, &r); err != nil {
		return err
	}
	if !c.quick {
		if err := many(ctx, c, systems, &r); err != nil {
			return err
		}
	} else {
		fmt.Println("left out by --quick: idle cost, failover and restart with many stores")
	}
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
		if err := draw(c.svg, &r); err != nil {
			return err
		}
	}
	if c.markdown != "" {
		return writeMarkdown(c.markdown, &r)
	}
	return nil
}

// add prints a row and keeps it.
func (r *report) add(row result) {
	r.Rows = append(r.Rows, row)
	fmt.Printf("\n%s (%s)\n", row.Name, row.Unit)
	base := row.Values[r.Systems[0]]
	for _, s := range r.Systems {
		v := row.Values[s]
		if len(v) == 0 {
			continue
		}
		fmt.Printf("  %-26s %s", s, spread(v))
		if s != r.Systems[0] && len(base) > 0 {
			fmt.Printf("   quorate is %s of it", ratios(base, v))
		}
		if e := row.Errors[s]; e > 0 {
			fmt.Printf("   %d ERRORS", e)
		}
		fmt.Println()
	}
}

// spread is min / median / max.
func spread(v []float64) string {
	s := slices.Sorted(slices.Values(v))
	return fmt.Sprintf("%s / %s / %s", figure(s[0]), figure(median(v)), figure(s[len(s)-1]))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// ratios pairs measurements that were taken one after the other.
func ratios(a, b []float64) string {
	var r []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			r = append(r, a[i]/b[i])
		}
	}
	if len(r) == 0 {
		return "?"
	}
	s := slices.Sorted(slices.Values(r))
	return fmt.Sprintf("%.2f / %.2f / %.2f", s[0], median(r), s[len(s)-1])
}

func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
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
			return "?"
		}
		return strings.TrimSpace(string(b))
	}
	fs := strings.Fields(out("stat", "-f", "-c", "%T", c.dir) + " ?")
	return fmt.Sprintf("%d cores (%s), %s, Linux %s, %s, %s, %s, %s", runtime.NumCPU(), model, memory, out("uname", "-r"), fs[0], runtime.Version(),
		out(c.quorate, "--version"), out(c.nats, "--version"))
}
