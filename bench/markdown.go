package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

// writeMarkdown puts the tables between the markers of the file; what is around them stays.
func writeMarkdown(file string, r *report) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := between(string(raw), tables(r))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func between(text, middle string) (string, error) {
	before, rest, ok := strings.Cut(text, beginMark)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return "", fmt.Errorf("it has no lines %q and %q", beginMark, endMark)
	}
	return before + beginMark + "\n" + middle + endMark + after, nil
}

// tables writes a picture, a table and remarks for each topic.
func tables(r *report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured on %s: %s.\nCommand: `%s`.\n\nEach cell: min / median / max; below it, the ratio of Quorate to that system, of measurements that were taken one after the other, "+
		"and for appends the processor time that one takes: of the three nodes + of the clients. A goal is judged by the median.\n",
		r.Date, cell(r.Machine), r.Command)
	for _, t := range topics {
		rows := r.of(t.id)
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n![%s, as bars](%s)\n\n", t.title, t.title, pictureName(t.id))
		fmt.Fprintf(&b, "| | |")
		for _, s := range r.Systems {
			fmt.Fprintf(&b, " %s |", s)
		}
		fmt.Fprintf(&b, " goal |\n|---|---|%s---|\n", strings.Repeat("---|", len(r.Systems)))
		var remarks []string
		for _, row := range rows {
			fmt.Fprintf(&b, "| %s | %s |", cell(row.Name), cell(row.Unit))
			for _, s := range r.Systems {
				fmt.Fprintf(&b, " %s |", row.cell(s))
			}
			lines, _ := row.judge()
			for i, line := range lines {
				lines[i] = cell(strings.TrimPrefix(line, "goal "))
			}
			fmt.Fprintf(&b, " %s |\n", strings.Join(lines, "<br>"))
			remarks = append(remarks, row.remarks()...)
		}
		remarks = append(remarks, leftOutOf(rows)...)
		if len(remarks) > 0 {
			b.WriteString("\n")
		}
		for _, line := range remarks {
			fmt.Fprintf(&b, "- %s\n", cell(line))
		}
	}
	b.WriteString(profileTable(r.Profiles))
	if len(r.Skipped)+len(r.Failed) > 0 {
		b.WriteString("\nNot measured:\n\n")
		for _, s := range slices.Sorted(maps.Keys(r.Failed)) {
			fmt.Fprintf(&b, "- %s: %s\n", s, cell(r.Failed[s]))
		}
		for _, line := range r.Skipped {
			fmt.Fprintf(&b, "- %s\n", cell(line))
		}
	}
	b.WriteString("\n")
	return b.String()
}

// of returns the rows of a topic.
func (r *report) of(topic string) (rows []*result) {
	for _, row := range r.Rows {
		if row.Topic == topic {
			rows = append(rows, row)
		}
	}
	return rows
}

// cell is a system's figures in the row.
func (r *result) cell(system string) string {
	var parts []string
	if v := r.Values[system]; len(v) > 0 {
		parts = append(parts, spread(v))
		if system != nameQuorate && len(r.Values[nameQuorate]) > 0 {
			parts = append(parts, ratios(r.Values[nameQuorate], v))
		}
	}
	if c := r.costs(system); c != "" {
		parts = append(parts, c+" µs")
	}
	if e := r.Errors[system]; e > 0 {
		parts = append(parts, "**"+errorCount(e)+"**")
	}
	if r.Failed[system] != "" {
		parts = append(parts, "**failed**")
	}
	if len(parts) == 0 {
		return "–"
	}
	return strings.Join(parts, "<br>")
}

// remarks are what the table has no room for.
func (r *result) remarks() (lines []string) {
	if r.Note != "" {
		lines = append(lines, fmt.Sprintf("%s: %s.", r.Name, r.Note))
	}
	for _, s := range slices.Sorted(maps.Keys(r.Failed)) {
		lines = append(lines, fmt.Sprintf("%s: %s failed: %s", r.Name, s, r.Failed[s]))
	}
	return lines
}

// leftOutOf tells a reason once, with the rows that it is about, unless it is about all of them.
func leftOutOf(rows []*result) (lines []string) {
	about := map[string][]string{}
	for _, row := range rows {
		for s, why := range row.LeftOut {
			key := s + " is left out: " + why + "."
			about[key] = append(about[key], row.Name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(about)) {
		if names := about[key]; len(names) < len(rows) {
			key = strings.Join(names, "; ") + ": " + key
		}
		lines = append(lines, key)
	}
	return lines
}

// cell keeps a text from being read as table or markup.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(s)
}
