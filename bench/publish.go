package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
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

func tables(r *report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured on %s: %s.\nCommand: `%s`. Each cell: min / median / max; below it, the ratio of Quorate to that system, measured side by side.\n\n", r.Date, r.Machine, r.Command)
	fmt.Fprintf(&b, "| |  |")
	for _, s := range r.Systems {
		fmt.Fprintf(&b, " %s |", s)
	}
	fmt.Fprintf(&b, "\n|---|---|%s\n", strings.Repeat("---|", len(r.Systems)))
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "| %s | %s |", row.Name, row.Unit)
		for _, s := range r.Systems {
			v := row.Values[s]
			switch {
			case len(v) == 0:
				b.WriteString(" – |")
				continue
			case len(v) == 1:
				fmt.Fprintf(&b, " %s", figure(v[0]))
			default:
				fmt.Fprintf(&b, " %s", spread(v))
			}
			if s != r.Systems[0] {
				fmt.Fprintf(&b, "<br>×%s", strings.ReplaceAll(ratios(row.Values[r.Systems[0]], v), " / ", " / ×"))
			}
			if e := row.Errors[s]; e > 0 {
				fmt.Fprintf(&b, "<br>**%d errors**", e)
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	return b.String()
}

var colours = []string{"#2f6f9f", "#c27c2c", "#8a8a8a"}

// draw makes one SVG with a group of bars for each row, each group on a scale of its own, with whiskers from min to max.
func draw(dir string, r *report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const width, left, bar, gap, lineHeight = 800, 20, 18, 26, 15
	height := 60
	for range r.Rows {
		height += lineHeight + len(r.Systems)*bar + gap
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	x := left
	for i, s := range r.Systems {
		fmt.Fprintf(&b, `<rect x="%d" y="18" width="12" height="12" fill="%s"/><text x="%d" y="29">%s</text>`+"\n", x, colours[i%len(colours)], x+18, html.EscapeString(s))
		x += 40 + 8*len(s)
	}
	y := 60
	for _, row := range r.Rows {
		better := "more is better"
		if row.LowerBetter {
			better = "less is better"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">%s</text><text x="%d" y="%d" text-anchor="end" fill="#555">%s, %s</text>`+"\n",
			left, y, html.EscapeString(row.Name), width-left, y, html.EscapeString(row.Unit), better)
		y += lineHeight - 7
		top := 0.0
		for _, v := range row.Values {
			if len(v) > 0 {
				top = max(top, slices.Max(v))
			}
		}
		scale := func(v float64) float64 { return v / max(top, 1e-9) * (width - 2*left - 110) }
		for i, s := range r.Systems {
			if v := row.Values[s]; len(v) > 0 {
				m := median(v)
				fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, scale(m), bar-4, colours[i%len(colours)])
				mid := y + (bar-4)/2
				fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#222"/>`, float64(left)+scale(slices.Min(v)), mid, float64(left)+scale(slices.Max(v)), mid)
				fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", float64(left)+scale(slices.Max(v))+6, y+bar-7, figure(m))
			}
			y += bar
		}
		y += gap - 1
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(filepath.Join(dir, "benchmarks.svg"), []byte(b.String()), 0o644)
}
