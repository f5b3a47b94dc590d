package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// profileLength is how long the nodes' processor time is sampled under each load.
const profileLength = 10 * time.Second

// profiled is where the processor time of Quorate's three nodes went under one load.
type profiled struct {
	Load  string
	Rate  float64            // acknowledged appends a second meanwhile
	Micro map[string]float64 // microseconds an append of all three nodes together, by part
}

// parts say by a sample's stack, outermost call last, whose time it is; the first that fits. They are in the order in which they enclose one another.
var parts = []struct {
	name string
	has  *regexp.Regexp
}{
	{"garbage collection", regexp.MustCompile(`runtime\.(gcBgMark|gcDrain|bgsweep|bgscavenge|gcAssist|gcStart|gcMarkDone)`)},
	{"state files: flush to bbolt", regexp.MustCompile(`fsm\.\(\*FSM\)\.([fF]lush|commit)`)},
	{"log: pwrite and fdatasync", regexp.MustCompile(`syscall\.(Fdatasync|Pwrite|pwrite)`)},
	{"state machine: apply", regexp.MustCompile(`quorate/stores/fsm\.`)},
	{"log: the rest", regexp.MustCompile(`quorate/raftnode/wal\.`)},
	{"transport between nodes", regexp.MustCompile(`quorate/raftnode/transport\.`)},
	{"hashicorp/raft", regexp.MustCompile(`hashicorp/raft\.`)},
	{"raftnode: notices, leadership", regexp.MustCompile(`quorate/raftnode\.`)},
	{"requests: decode, gather, answer", regexp.MustCompile(`quorate/(natsbus|stores|api)\.`)},
	{"nats.go in the nodes", regexp.MustCompile(`nats-io/nats(\.go|%2ego)`)},
	{"nats-server", regexp.MustCompile(`nats-io/nats-server/`)},
	{"Go's scheduler", regexp.MustCompile(`runtime\.(schedule|findRunnable|park_m|mcall|mstart|goexit0|sysmon|gosched)`)},
}

const otherPart = "the rest"

func partOf(stack string) string {
	for _, p := range parts {
		if p.has.MatchString(stack) {
			return p.name
		}
	}
	return otherPart
}

// profile samples Quorate's nodes under three loads, alone on the machine.
func (b *bench) profile(ctx context.Context) {
	row := newResult(topicAppends, "profile", "appends/s")
	if ctx.Err() != nil || !b.wanted(row) || b.late(row) {
		return
	}
	for _, s := range b.systems {
		q, ok := s.(*quorate)
		if !ok {
			continue
		}
		q.pprof = true
		for range b.start(ctx, q) {
			if err := b.profileOf(ctx, q, row); err != nil && ctx.Err() == nil {
				b.report.Skipped = append(b.report.Skipped, fmt.Sprintf("where the processor time goes: %v", err))
			}
			q.stop()
		}
		q.pprof = false
		return
	}
}

func (b *bench) profileOf(ctx context.Context, q *quorate, row *result) error {
	if err := makeStores(ctx, q, 0, busy, 4); err != nil {
		return err
	}
	for _, k := range []struct{ clients, stores int }{{1, 1}, {64, 1}, {64, busy}} {
		name := fmt.Sprintf("%s, %s", count(k.clients, "client"), count(k.stores, "store"))
		b.progress("profile of %s", name)
		samples := make([]*profile.Profile, 3)
		sampled := make(chan error, 1)
		go func() { // ends with the samples, or with ctx
			wait(ctx, time.Second) // while the load begins
			sampled <- all(3, 3, func(i int) (err error) {
				samples[i], err = q.sample(ctx, i, profileLength)
				return err
			})
		}()
		rate, err := load(ctx, q, row, k.clients, 0, k.stores, 256, profileLength+2*time.Second)
		if serr := <-sampled; err == nil {
			err = serr
		}
		if err != nil {
			return err
		}
		p := profiled{name, rate, map[string]float64{}}
		for _, s := range samples {
			for part, spent := range timeByPart(s) {
				p.Micro[part] += spent.Seconds() / profileLength.Seconds() / rate * 1e6
			}
		}
		b.report.Profiles = append(b.report.Profiles, p)
	}
	return nil
}

// sample fetches a node's CPU profile.
func (q *quorate) sample(ctx context.Context, node int, length time.Duration) (*profile.Profile, error) {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", q.addr(node, 3), length.Seconds())
	raw, err := get(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return profile.ParseData(raw)
}

// timeByPart divides a CPU profile.
func timeByPart(p *profile.Profile) map[string]time.Duration {
	spent := make(map[string]time.Duration)
	last := len(p.SampleType) - 1 // nanoseconds; before it is the count
	for _, s := range p.Sample {
		var stack strings.Builder
		for _, at := range s.Location {
			for _, line := range at.Line {
				stack.WriteString(line.Function.Name + " ")
			}
		}
		spent[partOf(stack.String())] += time.Duration(s.Value[last])
	}
	return spent
}

// profileTable shows where the time went, the largest part under the last load first.
func profileTable(profiles []profiled) string {
	if len(profiles) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n### Where Quorate's processor time goes\n\nMicroseconds an append, of all three nodes together, by what is on the stack (CPU profiles of the nodes under load, `quorate server --pprof`); the clients' own time is not in it.\n\n| |")
	var names []string
	for _, p := range profiles {
		fmt.Fprintf(&b, " %s |", p.Load)
		for part := range p.Micro {
			if !slices.Contains(names, part) {
				names = append(names, part)
			}
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(profiles)) + "\n")
	biggest := profiles[len(profiles)-1].Micro
	slices.SortFunc(names, func(x, y string) int {
		if biggest[x] != biggest[y] {
			return int(biggest[y]*1e3) - int(biggest[x]*1e3)
		}
		return strings.Compare(x, y)
	})
	line := func(name string, of func(p profiled) float64) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, p := range profiles {
			fmt.Fprintf(&b, " %.0f |", of(p))
		}
		b.WriteString("\n")
	}
	for _, name := range names {
		line(name, func(p profiled) float64 { return p.Micro[name] })
	}
	line("**together**", func(p profiled) (sum float64) {
		for _, v := range p.Micro {
			sum += v
		}
		return sum
	})
	line("appends/s meanwhile", func(p profiled) float64 { return p.Rate })
	return b.String()
}
