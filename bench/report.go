package main

import (
	"fmt"
	"slices"
	"strings"
)

// report is everything that was measured.
type report struct {
	Machine  string
	Command  string
	Date     string
	Systems  []string
	Rows     []*result
	Profiles []profiled
	Skipped  []string          // rows that were not begun, and why
	Failed   map[string]string // systems that were dropped, and why
}

// result is one row: each system's measurements, in the order in which they were taken; those with the same index were taken one after the other.
type result struct {
	Topic, Name, Unit string
	LowerBetter       bool
	Goals             []goal
	Values            map[string][]float64
	Costs             map[string][]cost // with each measurement of appends
	Errors            map[string]int64  // requests that were refused or timed out, beside those that are counted
	Failed            map[string]string // why a system was not measured to the end
	LeftOut           map[string]string // why a system was not meant to be measured
	Note              string
}

// cost is the processor time that one request took, in microseconds: of the three nodes, and of the clients.
type cost struct{ Nodes, Clients float64 }

// costs is the median of each part; empty when the row has none.
func (r *result) costs(system string) string {
	var nodes, clients []float64
	for _, c := range r.Costs[system] {
		nodes, clients = append(nodes, c.Nodes), append(clients, c.Clients)
	}
	if len(nodes) == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f + %.0f", median(nodes), median(clients))
}

// goal is what Quorate is to reach in a row: as a multiple of another system's figure, or in the row's unit.
type goal struct {
	Than            string // a system's name, or empty
	AtLeast, AtMost float64
	Below           bool // than that system: less than AtMost, not equal
	Every           bool // every value counts, not their median
}

func atLeast(factor float64, than string) goal { return goal{Than: than, AtLeast: factor} }
func atMost(figure float64) goal               { return goal{AtMost: figure} }

// topic is a group of rows, and a picture.
const (
	topicAppends  = "appends"
	topicRead     = "read"
	topicStores   = "stores"
	topicFailover = "failover"
	topicBig      = "big"
)

var topics = []struct{ id, title string }{
	{topicAppends, "Appends"},
	{topicRead, "Reading, and bytes on disk"},
	{topicStores, "Many stores"},
	{topicFailover, "A node dies, a node comes back"},
	{topicBig, "A big store"},
}

func newResult(topic, name, unit string) *result {
	return &result{Topic: topic, Name: name, Unit: unit, Values: map[string][]float64{}, Costs: map[string][]cost{}, Errors: map[string]int64{}, Failed: map[string]string{}, LeftOut: map[string]string{}}
}

func (r *result) lower() *result { r.LowerBetter = true; return r }

func (r *result) note(text string) *result { r.Note = text; return r }

func (r *result) goal(g ...goal) *result { r.Goals = append(r.Goals, g...); return r }

// judge says for each goal what was reached, and whether that is enough.
func (r *result) judge() (lines []string, met bool) {
	met = true
	for _, g := range r.Goals {
		line, ok := r.judgeOne(g)
		lines, met = append(lines, line), met && ok
	}
	return lines, met
}

func (r *result) judgeOne(g goal) (string, bool) {
	values, unit := r.Values[nameQuorate], ""
	if g.Than != "" {
		values, unit = pairs(r.Values[nameQuorate], r.Values[g.Than]), "×"
	}
	want := "≥ " + short(g.AtLeast)
	if g.AtMost > 0 {
		want = "≤ " + short(g.AtMost)
	}
	if g.Below {
		want = "< " + short(g.AtMost)
	}
	want += unit
	if g.Than != "" {
		want += " " + g.Than
	}
	if len(values) == 0 {
		return "goal " + want + ": not measured", false
	}
	got := median(values)
	switch {
	case g.Every && g.AtMost > 0:
		got = slices.Max(values)
	case g.Every:
		got = slices.Min(values)
	}
	ok := got >= g.AtLeast
	if g.AtMost > 0 {
		ok = got <= g.AtMost
	}
	if g.Below {
		ok = got < g.AtMost
	}
	verdict := "missed"
	if ok {
		verdict = "met"
	}
	return fmt.Sprintf("goal %s: %s%s, %s", want, figure(got), unit, verdict), ok
}

// verdicts is the end of a run in a few lines.
func (r *report) verdicts() (lines []string) {
	met, goals := 0, 0
	for _, row := range r.Rows {
		for _, g := range row.Goals {
			line, ok := row.judgeOne(g)
			goals++
			if ok {
				met++
			}
			lines = append(lines, fmt.Sprintf("%-70s %s", row.Name, line))
		}
	}
	return append(lines, fmt.Sprintf("%d of %d goals met", met, goals))
}

// text is the row as the terminal shows it.
func (r *result) text(systems []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s)\n", r.Name, r.Unit)
	for _, s := range systems {
		v := r.Values[s]
		switch {
		case len(v) > 0:
			fmt.Fprintf(&b, "  %-24s %s", s, spread(v))
			if s != nameQuorate && len(r.Values[nameQuorate]) > 0 {
				fmt.Fprintf(&b, "   Quorate/this: %s", ratios(r.Values[nameQuorate], v))
			}
		case r.LeftOut[s] != "":
			fmt.Fprintf(&b, "  %-24s left out: %s", s, r.LeftOut[s])
		case r.Failed[s] == "":
			continue
		default:
			fmt.Fprintf(&b, "  %-24s", s)
		}
		if c := r.costs(s); c != "" {
			fmt.Fprintf(&b, "   %s µs", c)
		}
		if e := r.Errors[s]; e > 0 {
			fmt.Fprintf(&b, "   %s", errorCount(e))
		}
		if f := r.Failed[s]; f != "" {
			fmt.Fprintf(&b, "   FAILED: %s", f)
		}
		b.WriteString("\n")
	}
	lines, _ := r.judge()
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	return b.String()
}

func errorCount(n int64) string {
	if n == 1 {
		return "1 error"
	}
	return fmt.Sprintf("%d errors", n)
}

// spread is min / median / max.
func spread(v []float64) string {
	if len(v) == 1 {
		return figure(v[0])
	}
	return fmt.Sprintf("%s / %s / %s", figure(slices.Min(v)), figure(median(v)), figure(slices.Max(v)))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// pairs divides measurements that were taken one after the other.
func pairs(a, b []float64) (r []float64) {
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			r = append(r, a[i]/b[i])
		}
	}
	return r
}

// ratios is min / median / max of the pairs.
func ratios(a, b []float64) string {
	r := pairs(a, b)
	switch len(r) {
	case 0:
		return "?"
	case 1:
		return fmt.Sprintf("×%.2f", r[0])
	}
	return fmt.Sprintf("×%.2f / ×%.2f / ×%.2f", slices.Min(r), median(r), slices.Max(r))
}

func figure(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// short is a figure that somebody has set: 2, 0.05, 1.5.
func short(v float64) string { return fmt.Sprintf("%g", v) }
